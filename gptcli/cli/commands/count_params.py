"""`gptcli count-params`: what models hold and cost, by arithmetic alone.

Reads configs and the headers of weight files, never tensor data, and never imports torch.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from gptcli.cli import options as o
from gptcli.cli.parameter_counts import (
    Fit,
    ModelCount,
    Usage,
    changes,
    count_parameters,
    fit,
    size,
)
from gptcli.cli.render import console
from gptcli.cli.render.count_params_report import SCHEMA, document, fit_document, sentences, show
from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.model.config import GPTConfig

Held = Literal["float32", "bfloat16", "float16", "int8", "int4"]


def count_params(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET",
            help="Presets, model directories, configs or .safetensors files, side by side.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="A config, for one target."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", "-w", metavar="FILE", help="Weights, for one target."),
    ] = None,
    what_if: Annotated[
        str | None,
        typer.Option(
            "--what-if", metavar="KEY=VALUE,…", help="Each target beside one with other values."
        ),
    ] = None,
    fit_to: Annotated[
        str | None,
        typer.Option(
            "--fit", metavar="SIZE", help="The largest model of these proportions in 8GB, 512MiB, …"
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="With --fit: the largest that can be trained in it.")
    ] = False,
    dtype: Annotated[
        Held, typer.Option("--dtype", help="Memory to write: the weights are held as this.")
    ] = "float32",
    batch: Annotated[
        int,
        typer.Option("--batch", metavar="N", help="Memory: texts, or rows of training, at once."),
    ] = 1,
    context: Annotated[
        int | None,
        typer.Option("--context", metavar="N", help="Memory: tokens of each; without it, all."),
    ] = None,
    details: o.Details = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, the same numbers in it.")
    ] = False,
) -> None:
    """Count parameters exactly, and say why others count differently.

    Memory, key/value cache and FLOPs follow from the counts; nothing is built or downloaded.
    """
    names: Sequence[str | None] = targets or [None]
    if len(names) > 1 and (config or weights):
        option = "--config" if config else "--weights"
        raise UsageError(option, f"goes with one target ({len(names)} are named)")
    o.at_least("--batch", batch, 1)
    o.at_least("--context", context, 1)
    values, budget = changes(what_if) if what_if else None, size(fit_to) if fit_to else None
    if train and budget is None:
        raise UsageError("--train", "goes with --fit")
    usage = Usage(dtype, batch, context)
    models = [replace(count_parameters(name, config, weights), usage=usage) for name in names]
    if values:
        models = [each for one in models for each in (one, one.with_values(values))]
    fits: list[Fit] = []
    if budget:
        fits = [fit(one.name, _with_heads(one), usage, budget, train=train) for one in models]
        models = [
            replace(one.with_config(it.config), name=f"{one.name} in {fit_to}")
            for one, it in zip(models, fits, strict=True)
        ]
    else:
        _refuse_longer(models)
    if as_json:
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
    """A config whose heads are as wide as GPT-2's where nothing tells how wide they are."""
    heads, rest = divmod(one.config.emb_dim, 64)
    known = one.knows_heads or rest or not heads
    return one.config if known else replace(one.config, n_heads=heads)


def _refuse_longer(models: Sequence[ModelCount]) -> None:
    for one in models:
        if one.usage.length(one.config) > one.config.context_length:
            has = f"the context of {shown(one.name)} is {one.config.context_length:,}"
            hint = "--what-if context_length=... asks what a longer one would cost"
            raise UsageError("--context", f"{has}, got {one.usage.tokens:,}", hint)
