"""Where output goes: text and tables to stdout, everything else to stderr.

Model text is exact on a pipe; on a terminal control characters are shown, not sent. Knows
no model. Rich is imported only when something is to be coloured or laid out.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Literal

from gptcli.core import signals
from gptcli.core.errors import GptcliError
from gptcli.core.escape import shown, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.style import Style

ColorChoice = Literal["auto", "always", "never"]
MAX_LINES = 20
MAX_CHARACTERS = 4096
MIN_WIDTH, MAX_WIDTH = 20, 1000
CLEAR_LINE = "\r\x1b[2K"


class Settings:
    """What the whole process was told by `--color`, `--debug` and `--quiet`."""

    color: ColorChoice = "auto"
    debug: bool = False
    quiet: bool = False


def reset() -> None:
    """The settings of a fresh process."""
    Settings.color, Settings.debug, Settings.quiet = "auto", False, False


class Output:
    """Model text on standard output, written and flushed piece by piece.

    On a pipe, and with `raw`, the exact text. On a terminal a Rich segment, which Rich neither
    wraps nor interprets, with control characters made visible. With `colored` the styles are
    what was asked for, so `--color always` takes them through a pipe.
    """

    def __init__(self, *, raw: bool = False, colored: bool = False) -> None:
        self._stream = sys.stdout
        styled = is_terminal(sys.stdout) or (colored and wants_color(sys.stdout))
        self._console = _console(sys.stdout) if styled and not raw else None
        self._ends_line = False

    def write(self, text: str, style: "str | Style | None" = None) -> None:
        """Write a piece of text at once; `style` is for the terminal only."""
        if not text:
            return
        self._ends_line = text.endswith("\n")
        if self._console is None:
            self._stream.write(text)
            self._stream.flush()
        else:
            _send(self._console, text, style)

    def end(self) -> None:
        """End the text: one newline, if it lacks one."""
        if not self._ends_line:
            self.write("\n")
        self._ends_line = False


def print_json(value: object) -> None:
    """One JSON object on one line of stdout, in ASCII, with no NaN in it."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def notice(text: str) -> None:
    """Something worth knowing, on stderr; `--quiet` leaves it out."""
    if not Settings.quiet:
        _say(text, "dim")


def say(text: str) -> None:
    """Something that was asked for (`--stats`) or that ends the run, on stderr."""
    _say(text, "")


def error(problem: GptcliError) -> None:
    """`gptcli: error: ...` on stderr, at most 20 lines and 4 KiB."""
    text = str(problem)
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS] + f"... (+{len(text) - MAX_CHARACTERS} more)"
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"... (+{len(lines) - MAX_LINES + 1} more lines)"]
    _say("\n".join(lines), "", "gptcli: error: ")


def internal_error(problem: BaseException) -> None:
    """A bug: its type and text, and with `--debug` the traceback, on stderr."""
    text = f"{type(problem).__name__}: {shown(problem)}"
    advice = "please report; run again with --debug for the traceback"
    if Settings.debug:
        advice = "please report, with the traceback above"
        _say("".join(traceback.format_exception(problem)).rstrip("\n"), "")
    _say(f"{text}\n{advice}", "", "gptcli: internal error: ")


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line on a terminal's stderr while something takes its time; gone afterwards."""
    if Settings.quiet or not draws_on_stderr():
        yield
        return
    sys.stderr.write(visible(text)[: width() - 1])
    sys.stderr.flush()
    with signals.farewell(CLEAR_LINE):
        try:
            yield
        finally:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a stream is a terminal; a missing or closed one is not."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def draws_on_stderr() -> bool:
    """Whether stderr is a terminal that can redraw a line."""
    return is_terminal(sys.stderr) and not _is_dumb()


def wants_color(stream: IO[str] | None) -> bool:
    """`--color`, then NO_COLOR, then FORCE_COLOR (stderr only), then whether it can show it.

    FORCE_COLOR does not reach stdout: text on a pipe is exact whatever the environment.
    """
    if Settings.color != "auto":
        return Settings.color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if stream is sys.stderr and os.environ.get("FORCE_COLOR", "0") not in {"", "0"}:
        return True
    return is_terminal(stream) and not _is_dumb()


def width() -> int:
    """Columns to lay tables out in: COLUMNS if it is a sane number, the terminal's, or 100."""
    return usable(shutil.get_terminal_size((100, 24)).columns)


def usable(columns: int) -> int:
    """The nearest width that a table can be laid out in."""
    return max(MIN_WIDTH, min(columns, MAX_WIDTH))


def _is_dumb() -> bool:
    return os.environ.get("TERM", "dumb") in {"", "dumb", "unknown"}


def _console(stream: IO[str]) -> "Console":
    from rich.console import Console  # 50 ms that most runs never need

    color = wants_color(stream)
    return Console(
        file=stream,
        color_system=("standard" if _is_dumb() else "auto") if color else None,
        force_terminal=color,
        no_color=not color,
        force_jupyter=False,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
        width=width(),
        height=24,
    )


def _say(text: str, style: str, label: str = "") -> None:
    if sys.stderr is None:
        return
    if wants_color(sys.stderr):
        console = _console(sys.stderr)
        _send(console, label, "bold red")
        _send(console, text + "\n", style)
    else:
        sys.stderr.write(label + visible(text) + "\n")
        sys.stderr.flush()


def _send(console: "Console", text: str, style: "str | Style | None") -> None:
    # A segment goes through as it is. Console.out would expand tabs and drop blanks that
    # stand past the width.
    from rich.segment import Segment, Segments  # as above

    segment = Segment(visible(text), console.get_style(style or ""))
    console.print(Segments([segment]), end="", soft_wrap=True)
