"""What Typer says about a command line, in our own one-line form."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from typer.exceptions import TyperException

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown

__all__ = ["TyperException", "as_usage_error", "no_such_command"]

# What pydantic, which Typer parses values with, calls the ways a number can be wrong.
_EXPECTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "a smaller integer",
    "int_type": "an integer",
}
_LIMITS = {"greater_than_equal": ("ge", ">="), "less_than_equal": ("le", "<=")}


def as_usage_error(problem: TyperException) -> UsageError:
    """A Typer error → ours, named after the option it is about."""
    parameter = getattr(problem, "param", None)
    if parameter is not None:
        return UsageError(_name(parameter), _value_problem(problem, parameter))
    option = getattr(problem, "option_name", None)
    if option is not None:
        return _option_problem(problem, str(option))
    context = getattr(problem, "ctx", None)
    where = context.info_name if context is not None and context.info_name else "gptcli"
    return UsageError(where, _sentence(problem.format_message()), _extra_hint(problem))


def no_such_command(name: str, names: Sequence[str]) -> UsageError:
    """For a first argument that is no command; a prompt without `generate` is a common one."""
    near = get_close_matches(name, names, n=1)
    if near:
        hint = f'Did you mean "gptcli {near[0]}"?'
    elif " " in name:
        hint = f'To continue a text: gptcli generate "{shown(name, 40)}"'
    else:
        hint = '"gptcli --help" lists the commands'
    return UsageError(shown(name), "no such command", hint)


def _option_problem(problem: TyperException, option: str) -> UsageError:
    near = getattr(problem, "possibilities", None)
    if near is None and "requires" in problem.message:
        return UsageError(shown(option), "needs a value")
    if near is None and "No such option" not in problem.message:
        return UsageError(shown(option), _sentence(problem.message))
    hint = f"Did you mean {' or '.join(sorted(near))}?" if near else ""
    return UsageError(shown(option), "no such option", hint)


def _value_problem(problem: TyperException, parameter: Any) -> str:
    errors = getattr(problem.__cause__, "errors", None)
    first = errors()[0] if errors is not None else {}
    kind, given = first.get("type", ""), shown(first.get("input", ""), 60)
    if kind in _EXPECTED:
        return f'must be {_EXPECTED[kind]}, got "{given}"'
    if kind in _LIMITS:
        key, sign = _LIMITS[kind]
        return f"must be {sign} {first['ctx'][key]}, got {given}"
    choices = parameter.type_descriptor.choices
    if choices:
        return f'must be {" or ".join(map(str, choices))}, got "{given}"'
    return _sentence(problem.message) if problem.message else "is missing"


def _name(parameter: Any) -> str:
    """The longest spelling of an option, the name of an argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).upper()
    return str(max(parameter.opts, key=len))


def _sentence(text: str) -> str:
    """Typer's sentence as the middle of ours: no capital, no full stop."""
    text = text.strip().rstrip(".").removeprefix("Value error, ")
    return shown(text[:1].lower() + text[1:])


def _extra_hint(problem: TyperException) -> str:
    if "unexpected extra argument" in problem.message:
        return "Put an argument of several words in quotes"
    return ""
