"""Errors that a user can fix, each with its exit code.

Anything else that is raised is a bug. A message follows
`<file or field>: <what is wrong> (<found>, expected <...>). <what to do>`;
whoever raises one escapes what comes from a file (`gptcli.core.escape.shown`).

The library names fields: `UsageError("top_p", ...)`, and in the text `` `top_p` `` or
`` `dtype=float32` ``. The command line spells them: `--top-p`, `--dtype float32`.
"""

import re
from collections.abc import Mapping, Sequence
from copy import copy
from typing import ClassVar, TypeVar

_Error = TypeVar("_Error", bound="GptcliError")
_FIELD = re.compile(r"`(\w+)(?:=([^`]+))?`")

MAX_PROBLEMS = 15


class GptcliError(Exception):
    """A failure with a message of one line. `exit_code` is that of the process."""

    exit_code: ClassVar[int] = 1

    def __init__(self, where: object, problem: str, hint: str = "") -> None:
        self.where, self.problem, self.hint = str(where), problem, hint
        super().__init__(where, problem, hint)

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f". {self.hint}" if self.hint else "")


class RunError(GptcliError):
    """Failed at run time: out of memory, a full disk, a closed stream, NaN in the weights."""

    exit_code = 1


class UsageError(GptcliError):
    """A value cannot be used. `where` is the field or argument, `temperature`."""

    exit_code = 2


class InputError(GptcliError):
    """A file cannot be used: missing, damaged or of another format. `where` is the file."""

    exit_code = 3


def spelled(error: _Error, names: Mapping[str, str]) -> _Error:
    """A copy of an error with its fields renamed by `names`: `{"top_p": "--top-p"}`."""
    changed = copy(error)
    if isinstance(error, UsageError):
        changed.where = names.get(error.where, error.where)
    changed.where = spelled_text(changed.where, names)
    changed.problem = spelled_text(error.problem, names)
    changed.hint = spelled_text(error.hint, names)
    return changed


def spelled_text(text: str, names: Mapping[str, str]) -> str:
    """Text with its `` `fields` `` renamed by `names`; other fields stay as they are."""

    def spell(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in names:
            return match.group()
        joined = " " if names[name].startswith("-") else "="  # or it is an environment variable
        return names[name] if value is None else f"{names[name]}{joined}{value}"

    return _FIELD.sub(spell, text)


def one_message(problems: Sequence[str]) -> str:
    """Join several problems into one message: a line each, the first 15."""
    if len(problems) == 1:
        return problems[0]
    more = [f"... (+{len(problems) - MAX_PROBLEMS} more)"] if len(problems) > MAX_PROBLEMS else []
    lines = [*problems[:MAX_PROBLEMS], *more]
    return f"{len(problems)} problems" + "".join(f"\n  {line}" for line in lines)
