"""Errors a user can fix, each with its exit code.

Anything else that is raised is a bug. A message follows
`<file or option>: <what is wrong> (<found>, expected <...>). <what to do>`;
whoever raises one escapes what comes from a file (`gptcli.core.escape.shown`).
"""

from collections.abc import Sequence
from typing import ClassVar

MAX_PROBLEMS = 15


class GptcliError(Exception):
    """A failure with one clear message. `exit_code` is what the process returns."""

    exit_code: ClassVar[int] = 1

    def __init__(self, where: object, problem: str, hint: str = "") -> None:
        self.where, self.problem, self.hint = str(where), problem, hint
        super().__init__(f"{where}: {problem}" + (f". {hint}" if hint else ""))


class RunError(GptcliError):
    """Failed at run time: memory, disk, a stream, numbers that are not finite."""

    exit_code = 1


class UsageError(GptcliError):
    """An option's value cannot be used. `where` is the option, `--temperature`."""

    exit_code = 2


class InputError(GptcliError):
    """A file the user gave is not what it should be. `where` is the file."""

    exit_code = 3


def one_message(problems: Sequence[str]) -> str:
    """Several problems as the problem part of one error: a line each, the first 15."""
    if len(problems) == 1:
        return problems[0]
    more = [f"... (+{len(problems) - MAX_PROBLEMS} more)"] if len(problems) > MAX_PROBLEMS else []
    lines = [*problems[:MAX_PROBLEMS], *more]
    return f"{len(problems)} problems" + "".join(f"\n  {line}" for line in lines)
