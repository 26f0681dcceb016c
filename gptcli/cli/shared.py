"""Options that every command has: --debug, --color, --version.

They set `gptcli.cli.render.console.Settings` and reach no command's arguments.
"""

from typing import Annotated, get_args

import typer

from gptcli.cli.render import console
from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.version import __version__


def _set_debug(value: bool) -> None:
    console.Settings.debug |= value


def set_color(_context: object, value: console.ColorChoice | None) -> None:
    """Obey --color; without it, or with "auto", an earlier one stands.

    Raises:
        UsageError: the value is none of the three.
    """
    choices = get_args(console.ColorChoice)
    if value is not None and value not in choices:
        raise UsageError("--color", f'must be {" or ".join(choices)}, got "{shown(value, 60)}"')
    if value in {"always", "never"}:
        console.Settings.color = value


def show_version(value: bool) -> None:
    """Print the version and leave."""
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
