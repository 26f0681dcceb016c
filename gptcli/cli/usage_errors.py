"""Typer's errors about a command line, in our own one-line form and with a suggestion."""

from collections.abc import Iterable, Sequence
from typing import Any

from typer.exceptions import TyperException

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.core.suggest import did_you_mean, nearest

__all__ = ["TyperException", "as_usage_error", "no_such_command"]

# What other programs call our options and commands.
_OPTIONS = {
    "--max-length": "--max-new-tokens",
    "--max-tokens": "--max-new-tokens",
    "--n-predict": "--max-new-tokens",
    "--num-beams": "--beams",
    "--num-return-sequences": "--num-samples",
    "--n": "--num-samples",
    "--repeat-penalty": "--repetition-penalty",
    "--checkpoint": "--weights",
    "--learning-rate": "--lr",
}
_COMMANDS = {
    "run": "generate",
    "complete": "generate",
    "sample": "generate",
    "list": "models",
    "finetune": "train",
    "convert": "export",
    "perplexity": "score",
    "test": "selftest",
}


def as_usage_error(problem: TyperException) -> UsageError:
    """A Typer error as ours, named after the option it is about."""
    context: Any = getattr(problem, "ctx", None)
    option = getattr(problem, "option_name", None)
    if option is not None:
        return _option_problem(problem, str(option), context.command.params if context else ())
    where = context.info_name if context is not None and context.info_name else "gptcli"
    return UsageError(where, _sentence(problem.format_message()), _extra_hint(problem))


def no_such_command(name: str, names: Sequence[str]) -> UsageError:
    """For a first argument that is no command; a prompt without `generate` is a common one."""
    if near := nearest(name, names, _COMMANDS):
        hint = did_you_mean(near, '"gptcli {}"')
    elif " " in name:
        hint = f'To continue a text: gptcli generate "{shown(name, 40)}"'
    else:
        hint = '"gptcli --help" lists the commands'
    return UsageError(shown(name), "no such command", hint)


def _option_problem(problem: TyperException, option: str, parameters: Iterable[Any]) -> UsageError:
    if "requires" in problem.message:
        return UsageError(shown(option), "needs a value")
    if "No such option" not in problem.message:
        return UsageError(shown(option), _sentence(problem.message))
    names = [name for each in parameters for name in (*each.opts, *each.secondary_opts)]
    near = nearest(option, [name for name in names if name.startswith("--")], _OPTIONS)
    return UsageError(shown(option), "no such option", did_you_mean(near, "{}"))


def _sentence(text: str) -> str:
    """Typer's sentence as the middle of ours: no capital, no full stop."""
    text = text.strip().rstrip(".")
    return shown(text[:1].lower() + text[1:])


def _extra_hint(problem: TyperException) -> str:
    if "unexpected extra argument" in problem.message:
        return "Put an argument of several words in quotes"
    return ""
