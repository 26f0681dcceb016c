"""The standard streams, opened so that no failed write goes unnoticed and none is fatal.

Standard output: a reader that went away is `ReaderGone`, a full disk is a `RunError`, a
closed stream is a `RunError` as soon as something is written. Standard error swallows its
own failures, for there is nobody left to tell. Knows no colour, text or model.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from gptcli.core.errors import RunError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

READER_GONE = 141  # what a shell shows for a process that SIGPIPE ended


class ReaderGone(SystemExit):
    """Whoever read standard output has closed it: leave with 141 and say nothing."""

    def __init__(self) -> None:
        super().__init__(READER_GONE)


def open_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` by UTF-8 streams whose every write is checked."""
    had_output, had_errors = sys.stdout is not None, sys.stderr is not None
    _occupy_descriptors()
    sys.stdout = _text(_Output(1, "w", closefd=False) if had_output else _ClosedOutput())
    sys.stderr = _text(_Errors(2, "w", closefd=False) if had_errors else _NoErrors())


def close_output() -> None:
    """Flush and close standard output, and raise what the system says about it.

    Some file systems report a full disk only on close. Afterwards the descriptor is
    /dev/null, so nothing can fail again while Python shuts down.
    """
    try:
        sys.stdout.flush()
        if isinstance(getattr(sys.stdout.buffer, "raw", None), _Output):
            _close(1)
    finally:
        discard_output()


def discard_output() -> None:
    """Point standard output at /dev/null, whatever is still in the buffer with it."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if null != 1:
            os.close(null)
    with suppress(Exception, ReaderGone):
        sys.stdout.flush()


class _Output(io.FileIO):
    """File descriptor 1."""

    def write(self, data: "ReadableBuffer", /) -> int:
        while True:
            try:
                written = super().write(data)
            except OSError as error:
                raise _failure(error) from None
            if written is not None:
                return written
            select.select([], [self], [])  # a pipe in non-blocking mode is full: wait


class _ClosedOutput(io.RawIOBase):
    """Stands in for a standard output that was closed before we started (`>&-`)."""

    _is_known = False  # said once; what is still in the buffer then goes nowhere

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        if self._is_known:
            return memoryview(data).nbytes
        self._is_known = True
        raise RunError("standard output is closed", "there is nowhere to write the result")


class _Errors(io.FileIO):
    """File descriptor 2. A message that cannot be delivered is dropped."""

    def write(self, data: "ReadableBuffer", /) -> int:
        with suppress(OSError):
            written = super().write(data)
            if written is not None:
                return written
        return memoryview(data).nbytes


class _NoErrors(io.RawIOBase):
    """Stands in for a standard error that was closed before we started (`2>&-`)."""

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        return memoryview(data).nbytes


def _text(raw: io.RawIOBase) -> io.TextIOWrapper:
    # backslashreplace: only lone surrogates are not UTF-8, and they must not end a stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty(),
    )


def _occupy_descriptors() -> None:
    """Put /dev/null where 0, 1 or 2 is closed, or the next file we open would stand there."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError as error:
        raise _failure(error) from None


def _failure(error: OSError) -> BaseException:
    if error.errno == errno.EPIPE:
        return ReaderGone()
    return RunError("cannot write to standard output", error.strerror or str(error))
