"""Options that several commands share and no part of the library has."""

from dataclasses import replace
from typing import Annotated

import typer

from gptcli.checkpoint.presets import own_temperature
from gptcli.cli.command import was_given
from gptcli.cli.model_options import ModelOptions
from gptcli.core.errors import UsageError
from gptcli.core.options import Argument, Option
from gptcli.generation.model_spec import MACHINE, ModelSpec
from gptcli.sampling.params import SAMPLING, SamplingParams

OUTPUT, JOB = "Output", "Job"

Json = Annotated[bool, Option("JSON in place of text.", OUTPUT)]
Quiet = Annotated[bool, Option("No notices and no progress on stderr.", OUTPUT, short="-q")]
Greedy = Annotated[bool, Option("Take the best token: --temperature 0.", SAMPLING)]
BatchSize = Annotated[int | None, Option("Texts at a time.", MACHINE, metavar="N", ge=1)]
Target = Annotated[
    str | None,
    Argument(
        "A preset, a model directory, a config or a .safetensors file, as --model.",
        metavar="TARGET",
    ),
]


def with_target(model: ModelOptions, target: str | None) -> ModelOptions:
    """The model that the argument TARGET or --model names.

    Raises:
        UsageError: both name one.
    """
    if target is None:
        return model
    if model.model is not None:
        raise UsageError("model", "cannot be used together with TARGET")
    return replace(model, model=target)


def sampling(
    context: typer.Context, params: SamplingParams, model: ModelSpec, *, greedy: bool
) -> SamplingParams:
    """The sampling of a command line: where it names no temperature, the model's own."""
    if greedy:
        return replace(params, temperature=0.0)
    own = own_temperature(model.model, model.config, model.weights)
    if own is None or was_given(context, "temperature"):
        return params
    return replace(params, temperature=own)
