"""How far a batch is, on standard error: one line redrawn on a terminal, else one now and then."""

import sys
from time import monotonic

from gptcli.batch.io.sources import Source
from gptcli.batch.runner import Tally
from gptcli.cli.render import console

_DRAW_EVERY, _SAY_EVERY = 0.2, 5.0  # seconds
_MOST_FAILURES = 20


class Progress:
    """Counts, speed, failures and the time that is left; silent with `--quiet`."""

    def __init__(self, tally: Tally, source: Source) -> None:
        self._tally, self._source = tally, source
        self.draws = console.draws_on_stderr() and not console.Settings.quiet
        self._start = self._work_start = monotonic()
        self._next = self._start + (_DRAW_EVERY if self.draws else _SAY_EVERY)
        self._position_at_start = 0
        self._failures = 0
        self.new_tokens = 0

    def began(self) -> None:
        """The model is loaded; what counts as speed begins now."""
        self._work_start = monotonic()
        self._position_at_start = self._source.position

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return monotonic() - self._work_start

    def update(self, new_tokens: int) -> None:
        """Show how things stand, if it is time."""
        self.new_tokens = new_tokens
        now = monotonic()
        if now < self._next:
            return
        self._next = now + (_DRAW_EVERY if self.draws else _SAY_EVERY)
        if self.draws:
            _draw(self.line()[: console.width() - 1])
        else:
            console.notice(self.line())

    def failed(self, line: int, code: str, message: str) -> None:
        """Say what is wrong with a record; of many, the first 20."""
        self._failures += 1
        if self._failures <= _MOST_FAILURES:
            self.clear()
            console.notice(f"line {line}: {code}: {message}"[:300])
        elif self._failures == _MOST_FAILURES + 1:
            self.clear()
            console.notice("more records failed; the output names them all")

    def clear(self) -> None:
        """Leave nothing on the terminal."""
        if self.draws:
            _draw("")

    def line(self) -> str:
        """Everything in one line."""
        tally = self._tally
        speed = self.new_tokens / self.seconds if self.seconds > 0 else 0.0
        parts = [f"{tally.records:,} records", f"{speed:,.0f} tokens/s", f"{tally.failed:,} failed"]
        left = self._left()
        if left is not None:
            parts.append(f"{_duration(left)} left")
        return ", ".join(parts)

    def _left(self) -> float | None:
        """Seconds, from the share of the input that was read."""
        source = self._source
        if source.size is None:
            return None
        done = source.position - self._position_at_start
        if done <= 0 or self.seconds < 1:
            return None
        return max(0.0, self.seconds * (source.size - source.position) / done)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _draw(line: str) -> None:
    sys.stderr.write(console.CLEAR_LINE + line)
    sys.stderr.flush()
