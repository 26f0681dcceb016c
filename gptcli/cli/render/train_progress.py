"""How a training goes, on stderr: one line that is redrawn on a terminal, else now and then one."""

import sys
from contextlib import ExitStack
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from gptcli.cli.render import console
from gptcli.core import signals

if TYPE_CHECKING:
    from gptcli.train.state import Progress
    from gptcli.train.trainer import Report

_BAR = 20
_REDRAWN, _PRINTED = 0.1, 10.0  # seconds between two lines
_MEMORY = 0.98  # of the shown loss and speed: about the last fifty steps


class View:
    """A context in which `show` tells about each step."""

    def __init__(self, steps: int, progress: "Progress", leads: bool) -> None:
        self._steps, self._silent = steps, console.Settings.quiet or not leads
        self._redraws = console.draws_on_stderr()
        self._loss: float | None = None
        self._speed: float | None = None
        self._bits = progress.best
        self._tokens, self._step = progress.tokens, progress.step
        self._last = self._next = monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> "View":
        if self._redraws and not self._silent:
            self._stack.enter_context(signals.farewell(console.CLEAR_LINE))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if self._redraws and not self._silent:
            sys.stderr.write(console.CLEAR_LINE)
            sys.stderr.flush()

    def show(self, report: "Report") -> None:
        """One step's news: a drawn line at most ten times a second, printed ones seldom."""
        now = monotonic()
        self._follow(report, now)
        due = now >= self._next or report.step == self._steps
        if self._silent or not (due or report.bits is not None):
            return
        self._next = now + (_REDRAWN if self._redraws else _PRINTED)
        if self._redraws:
            bar = "#" * round(report.step / self._steps * _BAR)
            line = f"{bar:.<{_BAR}}  {self._line(report)}"
            sys.stderr.write(console.CLEAR_LINE + line[: console.width() - 1])
            sys.stderr.flush()
        else:
            console.say(self._line(report))

    def _follow(self, report: "Report", now: float) -> None:
        speed = (report.tokens - self._tokens) / max(now - self._last, 1e-9)
        self._tokens, self._last = report.tokens, now
        self._loss = _mixed(self._loss, report.loss)
        if report.bits is None:  # a validation takes long and learns nothing
            self._speed = _mixed(self._speed, speed)
        else:
            self._bits = report.bits

    def _line(self, report: "Report") -> str:
        speed = self._speed or 0.0
        left = self._steps - report.step
        parts = [f"step {report.step:,}/{self._steps:,}", f"loss {self._loss:.3f}"]
        if self._bits is not None:
            parts.append(f"valid {self._bits:.4f} bits/byte")
        if speed:
            seconds = left * report.tokens / report.step / speed
            parts += [f"{speed:,.0f} tok/s", f"{duration(seconds)} left"]
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as 8s, 3m 20s or 2h 05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m {rest:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else _MEMORY * old + (1 - _MEMORY) * new
