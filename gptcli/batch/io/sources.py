"""The lines of an input: numbered from 1, split at byte 0x0A alone, from a file, gzip or a pipe.

Memory does not grow with the input or with a line. Knows no JSON and no text.
"""

import os
import select
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from gptcli.core.errors import InputError, RunError
from gptcli.core.escape import shown

MAX_LINE = 8 << 20
STDIN = "standard input"
_CHUNK = 1 << 16
_INFLATED = 1 << 20  # at most this much at a time, whatever a bomb would give
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_POLL = 0.2  # seconds between two looks at `poll` while a pipe is silent


class Line(NamedTuple):
    """One line without its end; of one over `MAX_LINE` only `number`, `sha256` and `size`."""

    number: int
    data: bytes
    sha256: str
    size: int

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing but white space in it."""
        return self.size == len(self.data) and not self.data.strip()


def made_line(number: int, data: bytes) -> Line:
    """A line that was not read from a file of lines."""
    return Line(number, data, sha256(data).hexdigest(), len(data))


class Source:
    """An open input.

    Attributes:
        name: what messages call it.
        size: bytes of a file, None for a pipe.
        identity: device and inode of a file of this machine.
        position: bytes read so far (of a gzip file: of the file itself).
        poll: called while a pipe is silent; may raise to end the wait.
        is_busy: whether the caller has better things to do than to wait: `lines` then yields None.
        reopen: gives a file of the same bytes for whoever must read it in another order.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        name: str,
        *,
        size: int | None,
        identity: tuple[int, int],
        reopen: Callable[[], Any],
        is_ready: Callable[[float], object] = lambda _seconds: True,
    ) -> None:
        """What `read` gives, at most so many bytes at a time and none at the end.

        `is_ready` waits for so many seconds at most and says whether `read` would not wait.
        """
        self._read, self._is_ready = read, is_ready
        self.name, self.size, self.identity = name, size, identity
        self.position, self.reopen = 0, reopen
        self.poll: Callable[[], object] = lambda: None
        self.is_busy: Callable[[], bool] = lambda: False

    @classmethod
    def of(cls, fd: int, name: str) -> "Source":
        """An open file or pipe."""
        status = os.fstat(fd)
        identity, read = (status.st_dev, status.st_ino), partial(os.read, fd)

        def reopen() -> Any:
            return os.fdopen(os.dup(fd), "rb")

        if stat.S_ISREG(status.st_mode):
            return cls(read, name, size=status.st_size, identity=identity, reopen=reopen)

        def is_ready(seconds: float) -> object:
            return select.select([fd], [], [], seconds)[0]

        return cls(read, name, size=None, identity=identity, reopen=reopen, is_ready=is_ready)

    def read(self, most: int = _CHUNK) -> bytes:
        """The next bytes as they are stored, at most so many; none at the end.

        Raises:
            RunError: the input cannot be read.
        """
        try:
            data = self._read(most)
        except OSError as error:
            why = shown(error.strerror or str(error), 200)
            raise RunError(self.name, f"cannot be read ({why})") from None
        self.position += len(data)
        return data

    def lines(self) -> Iterator[Line | None]:
        """Every line, blank ones too; None where the next is not here yet and `is_busy`.

        Raises:
            RunError: the input cannot be read, or is a damaged gzip file. All complete lines
                have been given by then.
        """
        return _split(_plain(self._chunks()), self.name)

    def plain(self) -> Iterator[bytes]:
        """All that is stored, inflated if it is gzip, in pieces of at most 1 MiB.

        Raises:
            RunError: the input cannot be read.
            EndsEarlyError: a damaged gzip file. What is good of it has been given by then.
        """
        return (piece for piece in _plain(iter(self.read, b"")) if piece)

    def _chunks(self) -> Iterator[bytes | None]:
        while True:
            yield from self._wait()
            if not (data := self.read()):
                return
            yield data

    def _wait(self) -> Iterator[None]:
        while not self._is_ready(0 if self.is_busy() else _POLL):
            self.poll()
            if self.is_busy():
                yield None


@contextmanager
def open_source(path: Path | None) -> Iterator[Source]:
    """A file or a pipe by its name; None is standard input.

    Raises:
        InputError: it is not there, or is a directory.
    """
    if path is None:
        yield Source.of(0, STDIN)
        return
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a usable file name"
        raise InputError(shown(path), f"cannot be read ({why})") from None
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise InputError(shown(path), "not a file (directory)")
        yield Source.of(fd, shown(path))
    finally:
        os.close(fd)


class EndsEarlyError(Exception):
    """What came before it is whole; nothing can come after it."""

    def after(self, last: str, name: str) -> RunError:
        """The same in words; `last` is what came last, as "line 7"."""
        return RunError(name, f"ends early ({self}) after {last}")


def _plain(chunks: Iterator[bytes | None]) -> Iterator[bytes | None]:
    """Chunks as they are stored, inflated if the first bytes are those of a gzip file."""
    first = b""
    while len(first) < len(_GZIP):
        chunk = next(chunks, b"")
        if chunk == b"":
            break
        if chunk is None:
            yield None
        else:
            first += chunk
    if first.startswith(_GZIP):
        yield from _inflate(first, chunks)
    else:
        yield first
        yield from chunks


def _split(chunks: Iterator[bytes | None], name: str) -> Iterator[Line | None]:
    """Chunks of any size → lines. A last line needs no end."""
    number, rest, skipped = 1, b"", _Skipped()
    try:
        for chunk in chunks:
            if chunk is None:
                yield None
                continue
            start = 0
            while (end := chunk.find(b"\n", start)) >= 0:
                yield skipped.line(number, rest + chunk[start:end])
                number, rest, start = number + 1, b"", end + 1
            rest = skipped.shortened(rest + chunk[start:] if rest else chunk[start:])
    except EndsEarlyError as problem:
        raise problem.after(f"line {number - 1}", name) from None
    if rest or skipped.size:
        yield skipped.line(number, rest)


class _Skipped:
    """What was dropped of a line that is too long to keep: its size and its hash so far."""

    def __init__(self) -> None:
        self.size, self._hash = 0, sha256()

    def shortened(self, rest: bytes) -> bytes:
        """What to keep of a line so far: all of it, or nothing once it is too long."""
        if not self.size and len(rest) <= MAX_LINE + 1:
            return rest
        self._hash.update(rest)
        self.size += len(rest)
        return b""

    def line(self, number: int, rest: bytes) -> Line:
        """The line that `rest` completes."""
        if not self.size:
            data = rest.removesuffix(b"\r")
            data = data.removeprefix(_BOM) if number == 1 else data
            digest = sha256(data).hexdigest()
            return Line(number, data if len(data) <= MAX_LINE else b"", digest, len(data))
        self._hash.update(rest)
        line = Line(number, b"", self._hash.hexdigest(), self.size + len(rest))
        self.size, self._hash = 0, sha256()
        return line


def _inflate(first: bytes, chunks: Iterator[bytes | None]) -> Iterator[bytes | None]:
    """A gzip file of one or several members; zeros may follow the last."""
    member = _Member()
    for chunk in chain([first], chunks):
        if chunk is None:
            yield None
            continue
        data = chunk
        while data or member.is_full:
            if member.has_ended:
                data = data.lstrip(b"\0")
                member = _Member() if data else member
            piece, data = member.inflate(data)
            yield piece
    if not member.has_ended:
        raise EndsEarlyError("gzip truncated")


class _Member:
    """One gzip stream, inflated a bounded piece at a time."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.is_full = False  # the last piece was as large as may be: there may be more

    @property
    def has_ended(self) -> bool:
        return self._zlib.eof

    def inflate(self, data: bytes) -> tuple[bytes, bytes]:
        """Some input → what comes of it, and the input that is left."""
        if self._zlib.eof:
            self.is_full = False
            return b"", data
        try:
            piece = self._zlib.decompress(data, _INFLATED)
        except zlib.error:
            raise EndsEarlyError("gzip damaged") from None
        self.is_full = len(piece) == _INFLATED
        return piece, self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
