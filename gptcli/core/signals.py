"""SIGINT, SIGTERM and SIGHUP: exit at once, or after the current token or record.

The process exits with 128 + the signal's number (130, 143, 129) instead of dying by the signal, so
that output is complete and scripts see the same code in both cases.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class _State:
    received = 0  # number of the first signal, 0 before it
    is_deferred = False  # whether the first signal only sets `received`
    exit_text = ""  # for stderr, when a signal ends the process


def install() -> None:
    """Install the handlers. A signal that is ignored from the start (nohup) stays ignored."""
    for name in _NAMES:
        number = getattr(signal, name, None)  # SIGHUP is missing on Windows
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Context in which the first signal only sets a flag; yields the function that reads it.

    Call it after each piece of work. The second signal exits at once, as every signal does outside
    of the context, where there is no output to complete.
    """
    _State.is_deferred = True
    try:
        yield interrupted
    finally:
        _State.is_deferred = False


@contextmanager
def written_at_exit(text: str) -> Iterator[None]:
    """Context in which a signal writes this to stderr before it ends the process at once."""
    before, _State.exit_text = _State.exit_text, text
    try:
        yield
    finally:
        _State.exit_text = before


def interrupted() -> bool:
    """Whether a signal was received."""
    return _State.received != 0


def exit_code() -> int:
    """128 + the number of the signal received, 0 without one."""
    return 128 + _State.received if _State.received else 0


def _handle(number: int, _frame: FrameType | None) -> None:
    if _State.is_deferred and not _State.received:
        _State.received = number
    else:
        if _State.exit_text:
            os.write(2, _State.exit_text.encode())
        # No flush: text is flushed as it is written, and a flush would block for ever on a reader
        # that has stopped reading.
        os._exit(128 + number)
