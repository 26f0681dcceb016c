"""The Typer app: the table of commands, and the options every command has.

A command's module is imported when the command is run or its help is shown, and imports
torch only inside its function.
"""

from collections.abc import Sequence
from copy import copy
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gptcli.cli import options
from gptcli.cli.command import CommandFunction
from gptcli.cli.usage_errors import TyperException, as_usage_error, no_such_command
from gptcli.core.errors import UsageError

# Each command is a function in a module of its name in gptcli/cli/commands. Its docstring begins
# with this line, repeated here so that --help imports no command.
COMMANDS = {
    "generate": "Continue a text.",
    "batch": "Continue many prompts.",
    "score": "Measure how well one or several models predict texts.",
    "merge": "Join the outputs of gptcli batch --shard, in any order.",
    "replay": "Run a recorded batch again, and report what differs.",
    "tokenize": "Show the tokens of a text, count them, or turn ids back into text.",
    "count-params": "Count parameters exactly, and explain why others count differently.",
    "inspect": "Show the architecture as a tree, and what the weight files hold.",
    "train": "Train a tokenizer and a model on TEXT, or an existing model on more text.",
    "export": "Write a model for other programs.",
    "quantize": "Write a model with 8-bit or 4-bit weights: a half or a quarter of the bytes.",
    "bench": "Measure a model's speed and memory, next to the machine's own limits.",
    "models": "List the presets, and which of them are on this machine.",
    "selftest": "Check known answers on this machine, offline, and report what deviates.",
}

# The groups of options in the help of a command, in this order.
GENERAL = "General"
PANELS = (
    "Input",
    "Job",
    "Model",
    "Length and stopping",
    "Sampling",
    "Constrained output",
    "Data",
    "Length",
    "Optimizer",
    "Validation and checkpoints",
    "What is measured",
    "Memory",
    "Run the model on a text",
    "Output",
    "Machine",
    "Cluster",
    GENERAL,
)


class _HelpOption:
    """Mixin: a --help without a metavar and without an environment variable."""

    def get_help_option(self, ctx: Any) -> Any:
        """Typer's --help; its default is a bool, because Typer checks None with pydantic."""
        option: Any = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
            option.metavar = " "
            option.allow_from_autoenv = False
        return option


class Command(_HelpOption, TyperCommand):
    """One command."""

    def get_help_option(self, ctx: Any) -> Any:
        """The --help option, listed in the General panel."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = GENERAL
        return option


class Commands(_HelpOption, TyperGroup):
    """The group of all commands, each imported when it is first asked for."""

    def list_commands(self, _context: Any) -> list[str]:
        """The commands in the order of COMMANDS, without those whose module is missing."""
        return [name for name in COMMANDS if find_spec(_module(name)) is not None]

    def get_command(self, context: Any, cmd_name: str) -> Any:
        """The command of this name; None if there is none."""
        if cmd_name not in self.commands and cmd_name in self.list_commands(context):
            self.add_command(_build_command(cmd_name, self), cmd_name)
        return self.commands.get(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Typer's help, made from COMMANDS so that no command is imported."""
        listing = copy(self)
        listing.commands = {
            name: TyperCommand(name, help=COMMANDS[name]) for name in self.list_commands(ctx)
        }
        TyperGroup.format_help(listing, ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Typer's resolution; an unknown name is an error with a suggestion."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise no_such_command(args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def _show_variables(context: typer.Context, value: bool) -> None:
    """Print the environment variable of each option, of one command or of all, and exit."""
    if not value or context.resilient_parsing:
        return
    built: Any = context.command
    if isinstance(built, TyperGroup):
        names = built.list_commands(context)
        commands: list[tuple[str, Any]] = [
            (f"GPTCLI_{name}", built.get_command(context, name)) for name in names
        ]
    else:
        commands = [(str(context.auto_envvar_prefix), built)]
    for prefix, each in commands:
        for option in each.params:
            if option.param_type_name == "option" and option.allow_from_autoenv:
                variable = f"{prefix}_{option.name}".upper().replace("-", "_")
                typer.echo(f"{variable:<40} {max(option.opts, key=len)}")
    raise typer.Exit


app = typer.Typer(
    name="gptcli",
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback(context_settings={"help_option_names": ["--help", "-h"]})
def gptcli(
    debug: options.Debug = False,
    color: options.Color = "auto",
    help_env: Annotated[
        bool,
        typer.Option(
            "--help-env",
            callback=_show_variables,
            is_eager=True,
            expose_value=False,
            help="List the options' environment variables and exit.",
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=options.show_version,
            is_eager=True,
            help="Show the version.",
        ),
    ] = False,
) -> None:
    """Write text with a GPT, and look inside one."""


def command_line() -> Any:
    """The Typer group, adjusted."""
    group: Any = typer.main.get_command(app)
    for option in group.params:
        # Typer would import pydantic to check the value: 60 ms.
        if option.name == "color":
            option.process_value = options.set_color
        elif option.name in {"install_completion", "show_completion"}:
            option.default = False  # not None, which Typer would check
        option.allow_from_autoenv = option.name in {"color", "debug"}
        option.show_envvar = False
    return _hide_bool_metavar(group)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line → exit code.

    Raises:
        GptcliError: an error that a user can correct.
    """
    group = command_line()
    if not arguments:
        group.main(["--help"], "gptcli", standalone_mode=False)
        raise UsageError("COMMAND", "is missing", 'Try: gptcli generate "Once upon a time"')
    try:
        result = group.main(
            list(arguments), "gptcli", standalone_mode=False, auto_envvar_prefix="GPTCLI"
        )
    except TyperException as problem:
        raise as_usage_error(problem) from None
    return result if isinstance(result, int) else 0


def _hide_bool_metavar(built: Any) -> Any:
    """Hide the <bool> that Typer shows beside a flag."""
    for option in built.params:
        if getattr(option, "is_flag", False) and option.metavar is None:
            option.metavar = " "
    return built


def _paragraphs(docstring: str | None) -> str:
    """A docstring with each paragraph on one line, which the help wraps to the terminal."""
    paragraphs = (docstring or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _module(name: str) -> str:
    return f"gptcli.cli.commands.{name.replace('-', '_')}"


def _in_general_panel(option: Any) -> Any:
    option = copy(option)
    option.rich_help_panel = GENERAL
    return option


def _help_order(parameter: Any) -> tuple[bool, int]:
    """Sort key: arguments, then options by panel; an unknown panel is with Output."""
    panel = parameter.rich_help_panel
    is_option = parameter.param_type_name == "option"
    return is_option, PANELS.index(panel if panel in PANELS else "Output")


def _build_command(name: str, group: TyperGroup) -> Any:
    function: Any = getattr(import_module(_module(name)), name.replace("-", "_"))
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    settings = {"help_option_names": ["--help", "-h"]}
    about = _paragraphs(function.__doc__)
    single.command(name, cls=Command, help=about, context_settings=settings)(function)
    built: Any = typer.main.get_command(single)
    if isinstance(function, CommandFunction):
        function.adjust(built)
    # --debug and --color mean the same before and after the command's name
    for option in group.params:
        if option.name in {"debug", "color", "help_env"}:
            built.params.append(_in_general_panel(option))
    built.params.sort(key=_help_order)
    return _hide_bool_metavar(built)
