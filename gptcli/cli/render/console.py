"""Standard streams: text and tables to stdout, everything else to stderr.

On a pipe text is exact UTF-8. On a terminal control characters are shown, not sent. Every write to
stdout is checked: a closed pipe raises `ReaderGone`, a full disk or a closed stream `RunError`. A
failed write to stderr is dropped. Rich takes 50 ms to import, so it is imported only for colour and
layout.
"""

import errno
import io
import json
import math
import os
import select
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Literal

from gptcli.core import signals
from gptcli.core.errors import GptcliError, RunError
from gptcli.core.escape import shown, visible

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from rich.console import Console

    from gptcli.cli.render.word_wrap import WordWrap

ColorChoice = Literal["auto", "always", "never"]
MAX_LINES = 20
MAX_CHARACTERS = 4096
MIN_WIDTH, MAX_WIDTH = 20, 1000
CLEAR_LINE = "\r\x1b[2K"
READER_GONE = 141  # what a shell shows for a process that SIGPIPE ended


class Settings:
    """`--color`, `--debug` and `--quiet`, for the whole process."""

    color: ColorChoice = "auto"
    debug: bool = False
    quiet: bool = False


def reset() -> None:
    """Restore the default settings."""
    Settings.color, Settings.debug, Settings.quiet = "auto", False, False


class Output:
    """Model text on standard output, written and flushed piece by piece.

    On a pipe, and with `raw`, the exact text. On a terminal control characters are made visible,
    and Rich neither wraps nor interprets the text; with `wraps`, lines are broken between words.
    With `colored` the styles carry information, so that `--color always` sends them to a pipe too.
    """

    def __init__(self, *, raw: bool = False, colored: bool = False, wraps: bool = False) -> None:
        self._stream = sys.stdout
        styled = is_terminal(sys.stdout) or (colored and wants_color(sys.stdout))
        self._console = rich_console(sys.stdout) if styled and not raw else None
        self._wrap: WordWrap | None = None
        if wraps and self._console and is_terminal(sys.stdout) and not _is_dumb():
            from gptcli.cli.render import word_wrap

            self._wrap = word_wrap.WordWrap(terminal_columns)
        self._ends_line = False

    def write(self, text: str, style: str = "") -> None:
        """Write a piece of text at once; `style` is a Rich style, for terminals."""
        if not text:
            return
        self._ends_line = text.endswith("\n")
        if self._console is None:
            self._stream.write(text)
            self._stream.flush()
        elif self._wrap is None:
            _send(self._console, [(visible(text), style)])
        else:
            _send(self._console, self._wrap.feed(visible(text), style))

    def end(self) -> None:
        """End the text with a newline, if it has none."""
        if not self._ends_line:
            self.write("\n")
        self._ends_line = False


def print_json(value: object) -> None:
    """Print JSON on one line of stdout, in ASCII.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def json_number(value: float | None) -> float | None:
    """Round to seven digits, float32's precision; None for NaN and infinity."""
    return float(f"{value:.7g}") if value is not None and math.isfinite(value) else None


def notice(text: str) -> None:
    """Print a notice on stderr, unless `--quiet`."""
    if not Settings.quiet:
        _say(text, "dim")


def say(text: str) -> None:
    """Print on stderr even if `--quiet`: what was asked for, and why a run ended."""
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
    """Print an unexpected exception on stderr, with `--debug` its traceback."""
    text = f"{type(problem).__name__}: {shown(problem)}"
    advice = "please report; run again with --debug for the traceback"
    if Settings.debug:
        advice = "please report, with the traceback above"
        _say("".join(traceback.format_exception(problem)).rstrip("\n"), "")
    _say(f"{text}\n{advice}", "", "gptcli: internal error: ")


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show a line on a terminal's stderr while a block of code runs."""
    if Settings.quiet or not draws_on_stderr():
        yield
        return
    sys.stderr.write(visible(text)[: width(sys.stderr) - 1])
    sys.stderr.flush()
    with signals.written_at_exit(CLEAR_LINE):
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
    """Whether to colour a stream: `--color`, else NO_COLOR, else FORCE_COLOR, else by its terminal.

    FORCE_COLOR does not apply to stdout: text on a pipe is exact whatever the environment.
    """
    if Settings.color != "auto":
        return Settings.color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if stream is sys.stderr and os.environ.get("FORCE_COLOR", "0") not in {"", "0"}:
        return True
    return is_terminal(stream) and not _is_dumb()


def width(stream: IO[str] | None = None) -> int:
    """Columns for text: COLUMNS if it is a usable number, else the terminal's, else 100.

    The terminal is stdout's; where that is none, the one of `stream`.
    """
    columns = 0
    if stream is not None:
        with suppress(OSError, ValueError):
            columns = os.get_terminal_size(stream.fileno()).columns
    return usable_width(shutil.get_terminal_size((columns or 100, 24)).columns)


def terminal_columns() -> int:
    """The width of stdout's terminal now: it may change while a text is written."""
    with suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or width()
    return width()


def usable_width(columns: int) -> int:
    """The nearest width from MIN_WIDTH to MAX_WIDTH."""
    return max(MIN_WIDTH, min(columns, MAX_WIDTH))


def _is_dumb() -> bool:
    return os.environ.get("TERM", "dumb") in {"", "dumb", "unknown"}


def rich_console(stream: IO[str], *, redraws: bool = False) -> "Console":
    """A Rich console without markup, emoji and highlighting.

    With `redraws` it follows a terminal that is resized, and moves the cursor without colour too.
    """
    from rich.console import Console  # takes 50 ms

    color = wants_color(stream)
    return Console(
        file=stream,
        color_system=("standard" if _is_dumb() else "auto") if color else None,
        force_terminal=color or redraws,
        no_color=not color,
        force_jupyter=False,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if redraws else width(),
        height=None if redraws else 24,
    )


def _say(text: str, style: str, label: str = "") -> None:
    if sys.stderr is None:
        return
    message = label + visible(text)
    if is_terminal(sys.stderr):
        from gptcli.cli.render.word_wrap import wrapped  # imports Rich, as above

        columns = width(sys.stderr)
        # A word that is too long is left to the terminal: a path can then be copied whole.
        lines = [wrapped(line, columns, folds=False) for line in message.split("\n")]
        message = "\n".join(part for line in lines for part in line)
    if wants_color(sys.stderr):
        pieces = [(message[: len(label)], "bold red"), (message[len(label) :] + "\n", style)]
        _send(rich_console(sys.stderr), pieces)
    else:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


def _send(console: "Console", pieces: Iterable[tuple[str, str]]) -> None:
    """Print (text, style) pieces without control characters.

    As segments, which Rich leaves alone: Console.out would expand tabs, and drop blanks past the
    width.
    """
    from rich.segment import Segment, Segments  # as above

    segments = [Segment(text, console.get_style(style)) for text, style in pieces]
    console.print(Segments(segments), end="", soft_wrap=True)


class ReaderGone(SystemExit):
    """The reader of standard output has closed the pipe: exit with 141, silently."""

    def __init__(self) -> None:
        super().__init__(READER_GONE)


def open_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` by UTF-8 streams whose every write is checked."""
    had_output, had_errors = sys.stdout is not None, sys.stderr is not None
    _occupy_descriptors()
    sys.stdout = _text(_Stdout(1, "w", closefd=False) if had_output else _ClosedStdout())
    sys.stderr = _text(_Stderr(2, "w", closefd=False) if had_errors else _NoStderr())


def close_output() -> None:
    """Flush and close standard output: some file systems report a full disk only on close.

    Afterwards the descriptor is /dev/null, so that nothing fails while Python shuts down.

    Raises:
        RunError: the system reports an error.
        ReaderGone: the pipe is closed.
    """
    try:
        sys.stdout.flush()
        if isinstance(getattr(sys.stdout.buffer, "raw", None), _Stdout):
            _close(1)
    finally:
        discard_output()


def discard_output() -> None:
    """Point standard output at /dev/null, and drop its buffer."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if null != 1:
            os.close(null)
    with suppress(Exception, ReaderGone):
        sys.stdout.flush()


class _Stdout(io.FileIO):
    """File descriptor 1, whose errors become ours."""

    def write(self, data: "ReadableBuffer", /) -> int:
        while True:
            try:
                written = super().write(data)
            except OSError as error:
                raise _write_error(error) from None
            if written is not None:
                return written
            select.select([], [self], [])  # a full pipe in non-blocking mode: wait


class _ClosedStdout(io.RawIOBase):
    """A standard output that was closed before we started (`>&-`)."""

    _was_reported = False  # one error is raised; later writes are dropped

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        if self._was_reported:
            return memoryview(data).nbytes
        self._was_reported = True
        raise RunError("standard output is closed", "there is nowhere to write the result")


class _Stderr(io.FileIO):
    """File descriptor 2. A message that cannot be delivered is dropped."""

    def write(self, data: "ReadableBuffer", /) -> int:
        with suppress(OSError):
            written = super().write(data)
            if written is not None:
                return written
        return memoryview(data).nbytes


class _NoStderr(io.RawIOBase):
    """A standard error that was closed before we started (`2>&-`)."""

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        return memoryview(data).nbytes


def _text(raw: io.RawIOBase) -> io.TextIOWrapper:
    # Lone surrogates, which UTF-8 cannot encode, must not raise an error.
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty(),
    )


def _occupy_descriptors() -> None:
    """Open /dev/null as 0, 1 or 2 where closed, or the next file opened would get that number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError as error:
        raise _write_error(error) from None


def _write_error(error: OSError) -> BaseException:
    if error.errno == errno.EPIPE:
        return ReaderGone()
    return RunError("cannot write to standard output", error.strerror or str(error))
