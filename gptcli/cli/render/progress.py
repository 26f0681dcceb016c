"""A progress bar for downloads, on one line of a terminal's standard error.

Drawn by hand: Rich's hides the cursor, and a signal that ends the process at once would
leave it hidden. Where standard error is no terminal there is one line for each file.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from gptcli.cli.render import console
from gptcli.core import signals
from gptcli.core.escape import shown

_BAR = 24
_EVERY = 0.1  # seconds between two drawings


class Report(Protocol):
    """What a download calls as it goes on."""

    def __call__(self, name: str, received: int, size: int, /) -> object:
        """`received` of `size` bytes of a file are here; a size of 0 is not known."""


@contextmanager
def downloads() -> Iterator[Report]:
    """Inside, the function given back shows how far a download is."""
    if console.Settings.quiet:
        yield lambda _name, _received, _size: None
    elif not console.draws_on_stderr():
        yield _Lines()
    else:
        drawn = _Bar()
        with signals.farewell(console.CLEAR_LINE):
            try:
                yield drawn
            finally:
                drawn.clear()


class _Lines:
    def __init__(self) -> None:
        self._names: set[str] = set()

    def __call__(self, name: str, received: int, size: int, /) -> None:
        if name not in self._names:
            self._names.add(name)
            console.notice(f"downloading {shown(name)}" + (f" ({_mib(size)} MiB)" if size else ""))


class _Bar:
    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, name: str, received: int, size: int, /) -> None:
        now = monotonic()
        if now >= self._next or received == size:
            self._next = now + _EVERY
            self._draw(bar(name, received, size, console.width()))

    def clear(self) -> None:
        """Leave an empty line, if there is one of ours."""
        if self._next:
            self._draw("")

    @staticmethod
    def _draw(line: str) -> None:
        sys.stderr.write(console.CLEAR_LINE + line)
        sys.stderr.flush()


def bar(name: str, received: int, size: int, width: int) -> str:
    """One line of at most `width` - 1 columns; its parts go as it gets narrow."""
    if not size:
        return f"{shown(name, 60)}  {_mib(received)} MiB"[: width - 1]
    share = min(1.0, received / size)
    full = round(share * _BAR)
    parts = [
        f"{share:4.0%}",
        f"{_mib(received)} of {_mib(size)} MiB",
        shown(name, 60),
        "#" * full + "." * (_BAR - full),
    ]
    line = ""
    for part in parts:
        if len(line) + len(part) + 2 < width:
            line += ("  " if line else "") + part
    return line


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f}"
