"""`gptcli count-params`: parameters, memory and FLOPs of models.

Reads configs and the headers of weight files, no tensor data, and never imports torch.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from gptcli.cli.command import CommandFunction
from gptcli.cli.options import CONFIGS, WEIGHTS, Details, Json
from gptcli.cli.render import console
from gptcli.cli.render.count_params_report import SCHEMA, document, fit_document, sentences, show
from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.core.options import Argument, Option
from gptcli.core.units import parse_bytes
from gptcli.generation.model_spec import MODEL
from gptcli.interpret.parameter_counts import (
    Fit,
    ModelCount,
    Usage,
    count_parameters,
    largest_fit,
    parse_what_if,
)
from gptcli.model.config import GPTConfig

MEMORY = "Memory"
WeightDtype = Literal["float32", "bfloat16", "float16", "int8", "int4"]


@CommandFunction
def count_params(
    targets: Annotated[
        tuple[str, ...],
        Argument(
            "Presets, model directories, configs or .safetensors files, side by side.",
            metavar="TARGET",
        ),
    ] = (),
    model: Annotated[
        tuple[str, ...],
        Option("The same as TARGET. Repeatable.", MODEL, short="-m", metavar="TARGET"),
    ] = (),
    config: Annotated[
        Path | None,
        Option(
            "The config of a single target.", MODEL, short="-c", metavar="FILE", suffixes=CONFIGS
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        Option(
            "The weights of a single target.", MODEL, short="-w", metavar="FILE", suffixes=WEIGHTS
        ),
    ] = None,
    what_if: Annotated[
        str | None,
        Option(
            "Show each target also with other values in its config.", MODEL, metavar="KEY=VALUE,…"
        ),
    ] = None,
    fit: Annotated[
        str | None,
        Option(
            "The largest model of the target's proportions for this memory: 8GB, 512MiB, …",
            MEMORY,
            metavar="SIZE",
        ),
    ] = None,
    train: Annotated[
        bool, Option("With `fit`: the largest model that can be trained in it.", MEMORY)
    ] = False,
    dtype: Annotated[WeightDtype, Option("Dtype of the weights.", MEMORY)] = "float32",
    batch: Annotated[
        int, Option("Batch size, of generation and of training.", MEMORY, metavar="N", ge=1)
    ] = 1,
    context: Annotated[
        int | None,
        Option("Tokens per sequence; without it, the whole context.", MEMORY, metavar="N", ge=1),
    ] = None,
    details: Details = False,
    json: Json = False,
) -> None:
    """Count parameters exactly, and explain why others count differently.

    Memory, key/value cache and FLOPs are computed too. Nothing is loaded or downloaded.
    """
    names: Sequence[str | None] = (*targets, *model) or (None,)
    if len(names) > 1 and (config or weights):
        raise UsageError(
            "config" if config else "weights", f"needs a single target, got {len(names)}"
        )
    values, budget = (
        parse_what_if(what_if) if what_if else None,
        parse_bytes(fit, "fit") if fit else None,
    )
    if train and budget is None:
        raise UsageError("train", "needs `fit`")
    usage = Usage(dtype, batch, context)
    models = [replace(count_parameters(name, config, weights), usage=usage) for name in names]
    if values:
        models = [each for one in models for each in (one, one.with_values(values))]
    fits: list[Fit] = []
    if budget:
        fits = [
            largest_fit(one.name, _with_heads(one), usage, budget, train=train) for one in models
        ]
        models = [
            replace(one.with_config(it.config), name=f"{one.name} in {fit}")
            for one, it in zip(models, fits, strict=True)
        ]
    else:
        _refuse_longer(models)
    if json:
        console.print_json(
            {
                "schema": SCHEMA,
                "targets": [document(one) for one in models],
                "fits": [fit_document(it, train=train) for it in fits],
            }
        )
    else:
        show(models, [text for it in fits for text in sentences(it, train=train)], details=details)


def _with_heads(one: ModelCount) -> GPTConfig:
    """The config; with heads as wide as GPT-2's if no config file tells their number."""
    heads, rest = divmod(one.config.emb_dim, 64)
    known = one.knows_heads or rest or not heads
    return one.config if known else replace(one.config, n_heads=heads)


def _refuse_longer(models: Sequence[ModelCount]) -> None:
    for one in models:
        if one.usage.length(one.config) > one.config.context_length:
            has = f"the context of {shown(one.name)} is {one.config.context_length:,}"
            hint = "`what_if=context_length=...` asks what a longer one would cost"
            raise UsageError("context", f"{has}, got {one.usage.tokens:,}", hint)
