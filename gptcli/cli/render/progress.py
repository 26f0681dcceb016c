"""Progress of long work on standard error: downloads, reading weights, batches, training.

On a terminal one line is redrawn, and cleared at the end; in a log a line is printed now and then.
`--quiet` shows neither.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from gptcli.cli.render import console
from gptcli.core import signals
from gptcli.core.escape import shown
from gptcli.core.units import bytes_text, plural

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from gptcli.batch.io.inputs import InputStream
    from gptcli.batch.runner import Tally
    from gptcli.train.state import Progress as TrainingState
    from gptcli.train.trainer import StepReport

LARGE_BYTES = 1 << 26  # fewer are read too soon for a bar
_REDRAW_SECONDS = 0.1
_PRINT_SECONDS = {"batch": 5.0, "training": 10.0}
_BAR_COLUMNS, _MIN_COLUMNS_FOR_BAR = 20, 60
_SHOW_CURSOR = "\x1b[?25h"
_MOST_FAILURES = 20  # of a batch that are printed
_SMOOTHING = 0.98  # of training loss and speed: an average of about fifty steps


class DownloadProgress(Protocol):
    """Called by a download for each piece received."""

    def __call__(self, name: str, received: int, size: int, /) -> object:
        """`received` of `size` bytes have come; a size of 0 is not known."""


class ProgressLine:
    """A context manager that redraws one line of the terminal, and clears it at the end.

    Rich draws it when `draw` is called, at most ten times a second; there is no thread. Rich hides
    the cursor, so a signal that ends the process at once shows it again.
    """

    def __init__(self) -> None:
        self.is_shown = console.draws_on_stderr() and not console.Settings.quiet
        self._stack = ExitStack()
        self._rich: Progress | None = None
        self._task: TaskID
        self._next = 0.0

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def draw(self, text: str, done: float = 0, total: float | None = None) -> None:
        """Draw a bar and a text; the end of the work is always drawn.

        Without a total the bar only shows activity.
        """
        now = monotonic()
        if not self.is_shown or (now < self._next and done != total):
            return
        self._next = now + _REDRAW_SECONDS
        if self._rich is None:
            self._rich = self._start()
        self._rich.update(self._task, description=text, completed=done, total=total)
        self._rich.refresh()

    def clear(self) -> None:
        """Clear the line for other output; the next `draw` brings it back."""
        if self._rich is not None:
            sys.stderr.write(console.CLEAR_LINE)
            sys.stderr.flush()

    def _start(self) -> "Progress":
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.table import Column

        one_line = Column(no_wrap=True)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}", markup=False, table_column=one_line)
        ]
        if console.width(sys.stderr) >= _MIN_COLUMNS_FOR_BAR:
            columns.insert(0, BarColumn(_BAR_COLUMNS))
        rich = Progress(
            *columns,
            console=console.rich_console(sys.stderr, redraws=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._stack.enter_context(signals.written_at_exit(console.CLEAR_LINE + _SHOW_CURSOR))
        self._stack.enter_context(rich)
        self._task = rich.add_task("", total=None)
        return rich


@contextmanager
def downloads() -> Iterator[DownloadProgress]:
    """Yields a function that shows a download's progress; in a log, a line for each file."""
    named: set[str] = set()
    with ProgressLine() as line:

        def report(name: str, received: int, size: int, /) -> None:
            if line.is_shown:
                line.draw(_of_bytes(name, received, size), received, size or None)
            elif name not in named:
                named.add(name)
                size_text = f" ({bytes_text(size)})" if size else ""
                console.notice(f"downloading {shown(name)}{size_text}")

        yield report


@contextmanager
def reading(total: int) -> Iterator[Callable[[str, int], object]]:
    """Yields a function to call with a name and the bytes read since the last call.

    Shows the progress to `total` bytes, on a terminal only, and only for large files.
    """
    done = 0
    with ProgressLine() as line:

        def report(name: str, count: int) -> None:
            nonlocal done
            done += count
            if total >= LARGE_BYTES:
                line.draw(_of_bytes(name, done, total), done, total)

        yield report


class BatchProgress(ProgressLine):
    """Progress of a batch: records, speed, failures, time left."""

    def __init__(self, tally: "Tally", source: "InputStream") -> None:
        super().__init__()
        self._tally, self._source = tally, source
        self._start_time = monotonic()
        self._next_print = self._start_time + _PRINT_SECONDS["batch"]
        self._position_at_start = 0
        self._failures = 0
        self.new_tokens = 0

    def __enter__(self) -> "BatchProgress":
        return self

    def start(self) -> None:
        """Start measuring speed: the model is loaded."""
        self._start_time = monotonic()
        self._position_at_start = self._source.position

    @property
    def seconds(self) -> float:
        """Seconds since the model was loaded."""
        return monotonic() - self._start_time

    def update(self, new_tokens: int) -> None:
        """Show the counts, at most ten times a second; in a log every five seconds."""
        self.new_tokens = new_tokens
        if self.is_shown:
            self.draw(self.line(), self._source.position, self._source.size)
        elif monotonic() >= self._next_print:
            self._next_print = monotonic() + _PRINT_SECONDS["batch"]
            console.notice(self.line())

    def failed(self, line: int, code: str, message: str) -> None:
        """Print a record's error; of many, the first 20."""
        self._failures += 1
        if self._failures <= _MOST_FAILURES:
            self.clear()
            console.notice(f"line {line}: {code}: {message}"[:300])
        elif self._failures == _MOST_FAILURES + 1:
            self.clear()
            console.notice("more records failed; the output names them all")

    def line(self) -> str:
        """The progress as text."""
        tally = self._tally
        speed = self.new_tokens / self.seconds if self.seconds > 0 else 0.0
        parts = [
            plural(tally.records, "record"),
            f"{speed:,.0f} tokens/s",
            f"{tally.failed:,} failed",
        ]
        left = self._seconds_left()
        if left is not None:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def _seconds_left(self) -> float | None:
        """Estimated from the share of the input that has been read."""
        source = self._source
        done = source.position - self._position_at_start
        if source.size is None or done <= 0 or self.seconds < 1:
            return None
        return max(0.0, self.seconds * (source.size - source.position) / done)


class TrainingProgress(ProgressLine):
    """Progress of training: step, loss, speed, time left; shown by the leading process alone."""

    def __init__(self, steps: int, state: "TrainingState", is_leader: bool) -> None:
        super().__init__()
        self._steps, self._is_silent = steps, console.Settings.quiet or not is_leader
        self._loss: float | None = None
        self._speed: float | None = None
        self._bits = state.best
        self._tokens = state.tokens
        self._last = self._next_print = monotonic()

    def __enter__(self) -> "TrainingProgress":
        return self

    def show(self, report: "StepReport") -> None:
        """Show a step: redrawn on a terminal, in a log every ten seconds."""
        now = monotonic()
        self._follow(report, now)
        if self._is_silent:
            return
        if self.is_shown:
            self.draw(self._line(report), report.step, self._steps)
        elif now >= self._next_print or report.step == self._steps or report.bits is not None:
            self._next_print = now + _PRINT_SECONDS["training"]
            console.say(self._line(report))

    def _follow(self, report: "StepReport", now: float) -> None:
        speed = (report.tokens - self._tokens) / max(now - self._last, 1e-9)
        self._tokens, self._last = report.tokens, now
        self._loss = _smoothed(self._loss, report.loss)
        if report.bits is None:  # validation is not training time
            self._speed = _smoothed(self._speed, speed)
        else:
            self._bits = report.bits

    def _line(self, report: "StepReport") -> str:
        parts = [f"step {report.step:,}/{self._steps:,}", f"loss {self._loss:.3f}"]
        if self._bits is not None:
            parts.append(f"valid {self._bits:.4f} bits/byte")
        if self._speed:
            left = (self._steps - report.step) * report.tokens / report.step / self._speed
            parts += [f"{self._speed:,.0f} tok/s", f"{duration(left)} left"]
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as 8s, 3m 20s or 2h 05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m {rest:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


def _smoothed(old: float | None, new: float) -> float:
    return new if old is None else _SMOOTHING * old + (1 - _SMOOTHING) * new


def _of_bytes(name: str, done: int, total: int) -> str:
    """Share, bytes and name; the name last, since a narrow terminal cuts the end."""
    if not total:
        return f"{bytes_text(done)}  {shown(name, 60)}"
    share = min(1.0, done / total)
    return f"{share:4.0%}  {bytes_text(done)} of {bytes_text(total)}  {shown(name, 60)}"
