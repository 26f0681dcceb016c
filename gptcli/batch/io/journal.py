"""A crash-safe append-only file of lines: after a crash, all but the last lines are whole on disk.

It is created exclusively, locked while it is written, written a line at a time, truncated after a
failed write, and synced every 64 lines or 2 seconds. The lock is flock on the file itself:
`filelock` would lock a second file beside it, and could not notice that another process has put a
new file in this one's place.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

from gptcli.core.errors import RunError, UsageError
from gptcli.core.escape import shown
from gptcli.core.files import lock
from gptcli.core.units import plural

EXISTS_HINT = "Continue it with `resume`, or write it anew with `overwrite`"
LINES_PER_SYNC, SECONDS_PER_SYNC = 64, 2.0
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK = 1 << 20
_MAX_LINE = 1 << 28
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)


class Journal:
    """A file of lines, open for writing.

    Attributes:
        count: lines after the first.
        end: where the whole lines end; bytes beyond are moved away before the next write.
    """

    def __init__(self, path: Path, fd: int, system: Any = os) -> None:
        self.path, self.count, self.end = path, 0, 0
        self._fd, self._os = fd, system
        self._size = 0  # of the file, torn tail included
        self._unsynced, self._synced_at = 0, monotonic()

    @classmethod
    def create(cls, path: Path, first: bytes, system: Any = os) -> "Journal":
        """Create a file with its first line.

        Raises:
            UsageError: the file exists.
            RunError: it cannot be written.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOEXEC
        try:
            fd = _uninterrupted(system.open, path, flags, 0o666)
        except FileExistsError:
            where = f"`output={shown(path)}`"
            raise UsageError(where, "exists already", EXISTS_HINT) from None
        except OSError as error:
            raise _system_error(path, "cannot be created", error) from None
        journal = cls(path, fd, system)
        with journal.closed_on_failure():
            journal._lock()
            journal.begin(first)
            journal._sync_directory()
        return journal

    @classmethod
    def reopen(cls, path: Path, system: Any = os) -> "Journal":
        """Open and lock an existing file; `begin` or `append` first change it.

        Raises:
            RunError: it is missing or cannot be written, or another process is writing it.
        """
        try:
            fd = _uninterrupted(system.open, path, os.O_RDWR | _CLOEXEC)
        except OSError as error:
            raise _system_error(path, "cannot be opened", error) from None
        journal = cls(path, fd, system)
        with journal.closed_on_failure():
            journal._lock()
            journal._size = os.fstat(fd).st_size
        return journal

    @contextmanager
    def closed_on_failure(self) -> Iterator[None]:
        """Close the file if an exception leaves the `with` block."""
        try:
            yield
        except BaseException:
            with suppress(RunError):
                self.close()
            raise

    def lines(self) -> Iterator[tuple[bytes, int]]:
        """The whole lines of the file, see `whole_lines`."""
        return whole_lines(self._fd)

    def tail(self) -> bytes:
        """The bytes after `end`, at most 1 MiB."""
        return os.pread(self._fd, _CHUNK, self.end)

    def keep(self, end: int) -> None:
        """Accept the next line of an existing file as whole; it ends at `end`."""
        self.count += self.end > 0
        self.end = end

    def begin(self, first: bytes) -> None:
        """Write and sync the first line of a file that has none."""
        self.append(first)
        self.sync()
        self.count = 0

    def append(self, line: bytes) -> None:
        """Write one line; after a failure none of it remains.

        Raises:
            RunError: the disk is full, or the write fails for another reason.
        """
        if self._size > self.end:
            self._move_torn_tail()
        try:
            self._write(line)
        except OSError as error:
            with suppress(OSError):
                _uninterrupted(self._os.ftruncate, self._fd, self.end)
                self._size = self.end
            raise self._write_error(error) from None
        self.end += len(line)
        self._size = self.end
        self.count += 1
        self._unsynced += 1
        if self._unsynced >= LINES_PER_SYNC:
            self.sync()

    def tick(self) -> None:
        """Sync if the oldest unsynced line has waited for 2 seconds."""
        if self._unsynced and monotonic() - self._synced_at >= SECONDS_PER_SYNC:
            self.sync()

    def sync(self) -> None:
        """Bring everything written to the disk.

        Raises:
            RunError: a late write error.
        """
        try:
            _uninterrupted(getattr(self._os, "fdatasync", self._os.fsync), self._fd)
        except OSError as error:
            raise self._write_error(error) from None
        self._unsynced, self._synced_at = 0, monotonic()

    def rename(self, path: Path) -> None:
        """Sync the file and rename it, over another file if there is one."""
        self.finish()
        try:
            self._os.replace(self.path, path)
        except OSError as error:
            raise _system_error(self.path, f"cannot be renamed to {shown(path)}", error) from None
        self.path = path
        self._sync_directory()

    def finish(self) -> None:
        """Move a torn tail away and sync."""
        if self._size > self.end:
            self._move_torn_tail()
        self.sync()

    def close(self) -> None:
        """Close the file; raises RunError for a late write error. Closing again does nothing."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            self._release(fd)
        except OSError as error:
            raise self._write_error(error) from None

    def _lock(self) -> None:
        lock(self._fd, self.path)
        self._refuse_replaced()

    def _refuse_replaced(self) -> None:
        """Refuse a file whose name another process gave to a new one before we had the lock."""
        here = os.fstat(self._fd)
        try:
            there = self.path.stat()
        except OSError as error:
            raise _system_error(self.path, "is gone", error) from None
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise RunError(shown(self.path), "another process is writing it")

    def _write(self, line: bytes) -> None:
        view, at = memoryview(line), self.end
        while view:
            written = _uninterrupted(self._os.pwrite, self._fd, view, at)
            view, at = view[written:], at + written
            self._size = max(self._size, at)

    def _move_torn_tail(self) -> None:
        """Move what a crash left after the last whole line to `<path>.torn`."""
        torn = self.path.with_name(self.path.name + ".torn")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _CLOEXEC
            fd = _uninterrupted(self._os.open, torn, flags, 0o666)
            try:
                self._copy_tail(fd)
                _uninterrupted(self._os.fsync, fd)
            finally:
                self._release(fd)
            _uninterrupted(self._os.ftruncate, self._fd, self.end)
        except OSError as error:
            raise self._write_error(error) from None
        self._size = self.end

    def _copy_tail(self, fd: int) -> None:
        at = self.end
        while chunk := memoryview(os.pread(self._fd, _CHUNK, at)):
            written = _uninterrupted(self._os.write, fd, chunk)
            at += written

    def _sync_directory(self) -> None:
        try:
            fd = _uninterrupted(self._os.open, self.path.parent, os.O_RDONLY | _CLOEXEC)
            try:
                _uninterrupted(self._os.fsync, fd)
            finally:
                self._release(fd)
        except OSError as error:
            raise self._write_error(error) from None

    def _release(self, fd: int) -> None:
        with suppress(InterruptedError):  # Linux closes it all the same
            self._os.close(fd)

    def _write_error(self, error: OSError) -> RunError:
        if error.errno in _NO_SPACE:
            hint = "Free space and use `resume`"
            return RunError(
                shown(self.path), f"disk full after {plural(self.count, 'record')}", hint
            )
        return _system_error(
            self.path, f"cannot be written after {plural(self.count, 'record')}", error
        )


def whole_lines(fd: int) -> Iterator[tuple[bytes, int]]:
    """Each line that has its newline, without it, and the offset of the next; read lazily."""
    rest, start = b"", 0
    while chunk := os.pread(fd, _CHUNK, start + len(rest)):
        rest += chunk
        *whole, rest = rest.split(b"\n")
        for line in whole:
            start += len(line) + 1
            yield line, start
        if len(rest) > _MAX_LINE:
            return


def _uninterrupted(call: Any, *arguments: Any) -> Any:
    """A system call, retried when a signal interrupts it."""
    while True:
        try:
            return call(*arguments)
        except InterruptedError:
            continue


def _system_error(path: Path, what: str, error: OSError) -> RunError:
    return RunError(shown(path), f"{what} ({error.strerror or error})")
