"""Errors that a user can fix, each with its exit code.

Anything else that is raised is a bug. A message follows
`<file or field>: <what is wrong> (<found>, expected <...>). <what to do>`. Text that comes from a
file must be escaped before it is put into one (`gptcli.core.escape.shown`).

The library names fields: `UsageError("top_p", ...)`, and in the text `` `top_p` `` or
`` `dtype=float32` ``. The command line renames them to options: `--top-p`, `--dtype float32`.
"""

import re
from collections.abc import Mapping, Sequence
from copy import copy
from typing import ClassVar, TypeVar

_Error = TypeVar("_Error", bound="GptcliError")
_FIELD = re.compile(r"`(\w+)(?:=([^`]+))?`")

MAX_PROBLEMS = 15


class GptcliError(Exception):
    """An error with a message of one line; `exit_code` is the exit code of the process."""

    exit_code: ClassVar[int] = 1

    def __init__(self, where: object, problem: str, hint: str = "") -> None:
        self.where, self.problem, self.hint = str(where), problem, hint
        super().__init__(where, problem, hint)

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f". {self.hint}" if self.hint else "")


class RunError(GptcliError):
    """A failure at run time: out of memory, a full disk, a closed stream, NaN in the weights."""

    exit_code = 1


class UsageError(GptcliError):
    """A value that cannot be used; `where` is the field or argument, such as `temperature`."""

    exit_code = 2


class InputError(GptcliError):
    """A file that cannot be used: missing, damaged or of another format; `where` is the file."""

    exit_code = 3


def rename_fields(error: _Error, names: Mapping[str, str]) -> _Error:
    """A copy of an error with its fields renamed, by names such as `{"top_p": "--top-p"}`."""
    changed = copy(error)
    if isinstance(error, UsageError):
        changed.where = names.get(error.where, error.where)
    changed.where = rename_fields_in_text(changed.where, names)
    changed.problem = rename_fields_in_text(error.problem, names)
    changed.hint = rename_fields_in_text(error.hint, names)
    return changed


def rename_fields_in_text(text: str, names: Mapping[str, str]) -> str:
    """A text with its `` `fields` `` renamed by `names`; unknown fields stay as they are."""

    def rename(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in names:
            return match.group()
        separator = " " if names[name].startswith("-") else "="  # of an environment variable
        return names[name] if value is None else f"{names[name]}{separator}{value}"

    return _FIELD.sub(rename, text)


def join_problems(problems: Sequence[str]) -> str:
    """Join several problems into one message: a line each, the first 15."""
    if len(problems) == 1:
        return problems[0]
    more = [f"... (+{len(problems) - MAX_PROBLEMS} more)"] if len(problems) > MAX_PROBLEMS else []
    lines = [*problems[:MAX_PROBLEMS], *more]
    return f"{len(problems)} problems" + "".join(f"\n  {line}" for line in lines)
