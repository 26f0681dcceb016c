"""SIGINT, SIGTERM and SIGHUP: exit at once, or after the current token or record.

The process exits with 128 + the signal's number (130, 143, 129). It does not die by the signal, so
output stays whole and a script sees the same code on every path.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class _State:
    """State of the signal handlers of this process."""

    received = 0  # the signal's number, 0 before the first
    patient = False  # whether someone is polling `received`
    farewell = ""  # what to leave on the terminal when leaving at once


def install() -> None:
    """Install the handlers. A signal that was inherited as ignored (nohup) stays ignored."""
    for name in _NAMES:
        number = getattr(signal, name, None)  # SIGHUP is missing on Windows
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


@contextmanager
def patience() -> Iterator[Callable[[], bool]]:
    """Context in which the first signal only sets a flag; yields a function that reads it.

    Poll it after each piece of work. The second signal exits at once, as every signal does outside:
    while a model loads there is no output to keep.
    """
    _State.patient = True
    try:
        yield interrupted
    finally:
        _State.patient = False


@contextmanager
def farewell(text: str) -> Iterator[None]:
    """Context in which a signal writes this to stderr before it ends the process."""
    before, _State.farewell = _State.farewell, text
    try:
        yield
    finally:
        _State.farewell = before


def interrupted() -> bool:
    """Whether a signal has asked the process to end."""
    return _State.received != 0


def exit_code() -> int:
    """128 + the number of the signal received, 0 without one."""
    return 128 + _State.received if _State.received else 0


def _handle(number: int, _frame: FrameType | None) -> None:
    if _State.patient and not _State.received:
        _State.received = number
    else:
        if _State.farewell:
            os.write(2, _State.farewell.encode())
        # No flush: every piece of text was flushed when it was written, and a reader that
        # has stopped reading would hold us here for ever.
        os._exit(128 + number)
