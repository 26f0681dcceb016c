"""A bar on a terminal's standard error while large files are read. Knows no files."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from gptcli.cli.render import console
from gptcli.cli.render.progress import bar
from gptcli.core import signals

LARGE = 1 << 26  # bytes; less than this is read before a bar could be looked at
EVERY = 0.1  # seconds between two drawings


@contextmanager
def gauge(total: int) -> Iterator[Callable[[str, int], object]]:
    """Inside, the function given back is told a name and how many more of `total` bytes are done.

    Draws nothing where standard error is no terminal, with `--quiet`, and for little.
    """
    if total < LARGE or console.Settings.quiet or not console.draws_on_stderr():
        yield lambda _name, _count: None
        return
    with signals.farewell(console.CLEAR_LINE):
        try:
            yield _Gauge(total).add
        finally:
            _draw("")


class _Gauge:
    def __init__(self, total: int) -> None:
        self._total, self._done, self._next = total, 0, 0.0

    def add(self, name: str, count: int) -> None:
        self._done += count
        if monotonic() >= self._next:
            self._next = monotonic() + EVERY
            _draw(bar(name, self._done, self._total, console.width()))


def _draw(line: str) -> None:
    sys.stderr.write(console.CLEAR_LINE + line)
    sys.stderr.flush()
