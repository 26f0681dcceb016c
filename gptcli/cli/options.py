"""Options that several commands share and that belong to no library dataclass."""

from dataclasses import replace
from typing import Annotated, get_args

import typer

from gptcli.cli.command import was_given
from gptcli.cli.render import console
from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.core.options import Argument, Option
from gptcli.generation.model_spec import ModelSpec
from gptcli.sampling.params import SAMPLING, SamplingParams
from gptcli.version import __version__

JOB, OUTPUT, MACHINE = "Job", "Output", "Machine"
CONFIGS, WEIGHTS = (".yaml", ".yml", ".json"), (".safetensors", ".index.json")

Json = Annotated[bool, Option("Print JSON instead of text.", OUTPUT)]
Details = Annotated[bool, Option("Print everything, not only what fits a screen.", OUTPUT)]
Quiet = Annotated[bool, Option("Print no notices and no progress on stderr.", OUTPUT, short="-q")]
Greedy = Annotated[bool, Option("Always take the likeliest token, as --temperature 0.", SAMPLING)]
BatchSize = Annotated[
    int | None, Option("Sequences decoded at a time.", MACHINE, metavar="N", ge=1)
]
Target = Annotated[
    str | None,
    Argument(
        "A preset, a model directory, a config or a .safetensors file; the same as --model.",
        metavar="TARGET",
    ),
]


def with_target(model: ModelSpec, target: str | None) -> ModelSpec:
    """The model named by the argument TARGET or by --model.

    Raises:
        UsageError: both are given.
    """
    if target is None:
        return model
    if model.model is not None:
        raise UsageError("model", "cannot be used together with TARGET")
    return replace(model, model=target)


def sampling(
    context: typer.Context, params: SamplingParams, model: ModelSpec, *, greedy: bool
) -> tuple[SamplingParams, dict[str, float]]:
    """The given sampling parameters, and the model's recommended values for those not given."""
    from gptcli.checkpoint.presets import recommended_sampling

    if greedy:
        params = replace(params, temperature=0.0)
    parts = (model.config, model.weights)
    return params, recommended_sampling(lambda name: was_given(context, name), model.model, *parts)


# Options of gptcli itself and of each command. They set `console.Settings` and are not passed on.


def _set_debug(value: bool) -> None:
    console.Settings.debug |= value


def set_color(_context: object, value: console.ColorChoice | None) -> None:
    """Set the colour; "auto", or no --color, leaves what an earlier --color has set.

    Raises:
        UsageError: the value is not one of the three.
    """
    choices = get_args(console.ColorChoice)
    if value is not None and value not in choices:
        raise UsageError("--color", f'must be {" or ".join(choices)}, got "{shown(value, 60)}"')
    if value in {"always", "never"}:
        console.Settings.color = value


def show_version(value: bool) -> None:
    """Print the version and exit."""
    if value:
        typer.echo(f"gptcli {__version__}")
        raise typer.Exit


Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_set_debug,
        expose_value=False,
        is_eager=True,
        help="Show the traceback of an internal error.",
    ),
]
Color = Annotated[
    console.ColorChoice,
    typer.Option(
        "--color",
        expose_value=False,
        help="Colour messages and tables; NO_COLOR and FORCE_COLOR are obeyed too.",
    ),
]
