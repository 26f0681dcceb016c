"""Split a byte stream, plain or gzip, into numbered lines in bounded memory.

Only byte 0x0A ends a line: a record may hold any other kind of line end inside a string.
"""

import zlib
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from typing import NamedTuple

from gptcli.core.errors import RunError

MAX_LINE = 8 << 20
_INFLATED = 1 << 20  # inflate at most so many bytes at a time: a gzip bomb gives no more
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line without its end; of one over `MAX_LINE` only `number`, `sha256` and `size`."""

    number: int
    data: bytes
    sha256: str
    size: int

    @property
    def is_blank(self) -> bool:
        """Whether the line is only white space."""
        return self.size == len(self.data) and not self.data.strip()


def made_line(number: int, data: bytes) -> Line:
    """A line that was not read from a file of lines."""
    return Line(number, data, sha256(data).hexdigest(), len(data))


class EndsEarlyError(Exception):
    """The input is truncated or damaged here: all earlier lines are complete."""

    def after(self, last: str, name: str) -> RunError:
        """The same in words; `last` is what came last, as "line 7"."""
        return RunError(name, f"ends early ({self}) after {last}")


def inflated(chunks: Iterator[bytes | None]) -> Iterator[bytes | None]:
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


def split_lines(chunks: Iterator[bytes | None], name: str) -> Iterator[Line | None]:
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
