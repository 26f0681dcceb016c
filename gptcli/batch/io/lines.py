"""Split a byte stream, plain or gzip, into numbered lines in bounded memory.

Only a newline (0x0A) ends a line: JSON strings may hold Unicode's other line separators.
"""

import zlib
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from typing import NamedTuple

from gptcli.core.errors import RunError

MAX_LINE = 8 << 20
_MAX_PIECE = 1 << 20  # bytes decompressed at a time, so that a gzip bomb cannot fill the memory
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line without its newline; `data` is empty if it has more than `MAX_LINE` bytes."""

    number: int
    data: bytes
    sha256: str
    size: int

    @property
    def is_blank(self) -> bool:
        """Whether the line is only white space."""
        return self.size == len(self.data) and not self.data.strip()


def line_of(number: int, data: bytes) -> Line:
    """A `Line` of data that was not read from a file of lines."""
    return Line(number, data, sha256(data).hexdigest(), len(data))


class TruncatedInputError(Exception):
    """The input is truncated or damaged here: all earlier lines are complete."""

    def after(self, last: str, name: str) -> RunError:
        """The error for a user; `last` names the last complete one, as "line 7"."""
        return RunError(name, f"ends early ({self}) after {last}")


def decompressed(chunks: Iterator[bytes | None]) -> Iterator[bytes | None]:
    """The chunks, decompressed if the first bytes are those of a gzip file."""
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
        yield from _gunzip(first, chunks)
    else:
        yield first
        yield from chunks


def split_lines(chunks: Iterator[bytes | None], name: str) -> Iterator[Line | None]:
    """Chunks of any size → lines. The last line needs no newline."""
    number, rest, long_line = 1, b"", _LongLine()
    try:
        for chunk in chunks:
            if chunk is None:
                yield None
                continue
            start = 0
            while (end := chunk.find(b"\n", start)) >= 0:
                yield long_line.line(number, rest + chunk[start:end])
                number, rest, start = number + 1, b"", end + 1
            rest = long_line.shortened(rest + chunk[start:] if rest else chunk[start:])
    except TruncatedInputError as problem:
        raise problem.after(f"line {number - 1}", name) from None
    if rest or long_line.size:
        yield long_line.line(number, rest)


class _LongLine:
    """Size and hash of a line that is too long to keep in memory."""

    def __init__(self) -> None:
        self.size, self._hash = 0, sha256()

    def shortened(self, rest: bytes) -> bytes:
        """What to keep of the line so far: all of it, or nothing once it is too long."""
        if not self.size and len(rest) <= MAX_LINE + 1:
            return rest
        self._hash.update(rest)
        self.size += len(rest)
        return b""

    def line(self, number: int, rest: bytes) -> Line:
        """The line, completed by `rest`."""
        if not self.size:
            data = rest.removesuffix(b"\r")
            data = data.removeprefix(_BOM) if number == 1 else data
            digest = sha256(data).hexdigest()
            return Line(number, data if len(data) <= MAX_LINE else b"", digest, len(data))
        self._hash.update(rest)
        line = Line(number, b"", self._hash.hexdigest(), self.size + len(rest))
        self.size, self._hash = 0, sha256()
        return line


def _gunzip(first: bytes, chunks: Iterator[bytes | None]) -> Iterator[bytes | None]:
    """Decompress a gzip file of one or several members; zeros may follow the last."""
    member = _GzipMember()
    for chunk in chain([first], chunks):
        if chunk is None:
            yield None
            continue
        data = chunk
        while data or member.is_full:
            if member.has_ended:
                data = data.lstrip(b"\0")
                member = _GzipMember() if data else member
            piece, data = member.decompress(data)
            yield piece
    if not member.has_ended:
        raise TruncatedInputError("gzip truncated")


class _GzipMember:
    """One member of a gzip file, decompressed a bounded piece at a time."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.is_full = False  # the last piece had the maximal size: there may be more

    @property
    def has_ended(self) -> bool:
        return self._zlib.eof

    def decompress(self, data: bytes) -> tuple[bytes, bytes]:
        """Compressed data → a decompressed piece, and the data that is left."""
        if self._zlib.eof:
            self.is_full = False
            return b"", data
        try:
            piece = self._zlib.decompress(data, _MAX_PIECE)
        except zlib.error:
            raise TruncatedInputError("gzip damaged") from None
        self.is_full = len(piece) == _MAX_PIECE
        return piece, self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
