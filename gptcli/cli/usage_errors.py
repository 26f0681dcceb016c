"""Typer's errors about a command line in our one-line form, with a suggestion."""

from collections.abc import Iterable, Sequence
from typing import Any

from typer.exceptions import TyperException

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.core.suggest import did_you_mean, nearest

__all__ = ["TyperException", "as_usage_error", "no_such_command"]

# Our options and commands by the names that other programs give them.
_OPTION_ALIASES = {
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
_COMMAND_ALIASES = {
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
    """A Typer error as a `UsageError` that names the option."""
    context: Any = getattr(problem, "ctx", None)
    option = getattr(problem, "option_name", None)
    if option is not None:
        return _option_problem(problem, str(option), context.command.params if context else ())
    where = context.info_name if context is not None and context.info_name else "gptcli"
    return UsageError(where, _sentence(problem.format_message()), _extra_hint(problem, context))


def no_such_command(name: str, names: Sequence[str]) -> UsageError:
    """The error of an unknown command, which often is a prompt without `generate`."""
    if near := nearest(name, names, _COMMAND_ALIASES):
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
    near = nearest(option, [name for name in names if name.startswith("--")], _OPTION_ALIASES)
    return UsageError(shown(option), "no such option", did_you_mean(near, "{}"))


def _sentence(text: str) -> str:
    """Typer's sentence without capital and full stop, as our form wants it."""
    text = text.strip().rstrip(".")
    return shown(text[:1].lower() + text[1:])


def _extra_hint(problem: TyperException, context: Any) -> str:
    """The hint for too many arguments, where the command takes any."""
    if context is None or "unexpected extra argument" not in problem.message:
        return ""
    takes_any = any(each.param_type_name == "argument" for each in context.command.params)
    return "Put an argument of several words in quotes" if takes_any else ""
