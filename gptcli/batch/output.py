"""A batch's output file: create, resume, replace or read it.

An existing file is checked before it is changed.
"""

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from gptcli.batch.io.journal import EXISTS_HINT, Journal, whole_lines
from gptcli.batch.result_lines import (
    HEADER_BEGINS,
    RecordedAnswer,
    differences,
    read_header,
    read_result,
)
from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.core.escape import listed, shown
from gptcli.core.files import open_regular, read_exactly

_MAX_HEADER = 1 << 24

Mode = Literal["new", "resume", "overwrite", "overwrite-resume", "retry"]


class Output(Protocol):
    """Where lines go: `gptcli.batch.io.journal.Journal`, or a stream."""

    def append(self, line: bytes) -> None:
        """Write one line, all of it or nothing."""

    def tick(self) -> None:
        """Sync lines that have waited long enough; called often."""


@dataclass(slots=True)
class OpenOutput:
    """An output ready to be written.

    Attributes:
        output: takes the lines.
        name: what messages call it.
        done: the records that it holds already.
        old: the records of an older output: successful ones are copied, failed ones answered again.
        final: the name that the file gets once it is whole, if it has another until then.
        is_new: whether this run created the file.
    """

    output: Output
    name: str
    done: Iterator[RecordedAnswer] = field(default_factory=lambda: iter(()))
    old: Iterator[RecordedAnswer] | None = None
    final: Path | None = None
    is_new: bool = False
    _old_journal: Journal | None = None

    def promote(self) -> None:
        """Give the file its final name."""
        if isinstance(self.output, Journal) and self.final is not None:
            self.output.rename(self.final)
            self.final = None
        if self._old_journal is not None:
            self._old_journal.close()

    def finish(self) -> None:
        """Finish the output: sync, rename to the final name, close.

        Raises:
            RunError: the system says no at the last moment.
        """
        if isinstance(self.output, Journal):
            self.output.finish()
            self.promote()
            self.output.close()

    def abandon(self, *, keep_empty: bool) -> None:
        """Sync and close the output after an error that is being reported already.

        Without `keep_empty`, a file that this run created is removed if it holds no record.
        """
        if isinstance(self.output, Journal):
            with suppress(RunError, OSError):
                self.output.sync()
            holds_nothing = self.is_new and not self.output.count and not keep_empty
            is_copied = self.old is not None and self.final is not None  # the old one has it all
            if holds_nothing or is_copied:
                self.output.path.unlink(missing_ok=True)
            with suppress(RunError):
                self.output.close()
        if self._old_journal is not None:
            with suppress(RunError):
                self._old_journal.close()


class Bytes(Protocol):
    """What a stream must be able to do."""

    def write(self, data: memoryview, /) -> int | None:
        """Write some of it, and say how much."""

    def flush(self) -> None:
        """Hand on what is held back."""


class Stream:
    """A pipe, a terminal or a device: lines go out at once, and nothing can be taken back."""

    def __init__(self, stream: Bytes, name: str) -> None:
        self._stream, self._name = stream, name

    def append(self, line: bytes) -> None:
        """Write one line.

        Raises:
            RunError: the system says no.
        """
        try:
            view = memoryview(line)
            while view:
                view = view[self._stream.write(view) or 0 :]
            self._stream.flush()
        except OSError as error:
            raise RunError(self._name, f"cannot be written ({error.strerror})") from None

    def tick(self) -> None:
        """Nothing waits here."""


def open_output(path: Path, header: bytes, mode: Mode) -> OpenOutput:
    """A file to write, with its header.

    Raises:
        UsageError: it is there already, and `mode` is "new".
        InputError: what is there was not made by this job.
        RunError: the system says no, or another process writes it.
    """
    if is_stream(path):
        return _stream_file(path, header, mode)
    if mode == "overwrite":
        return OpenOutput(_fresh(staged(path), header), shown(path), final=path, is_new=True)
    if mode == "overwrite-resume":
        opened = _continued(staged(path), header)
        opened.final = path
        return opened
    if mode == "retry":
        return _retried(path, header)
    if mode == "resume":
        return _continued(path, header)
    return OpenOutput(Journal.create(path, header), shown(path), is_new=True)


def open_stream(stream: Bytes, name: str, header: bytes) -> OpenOutput:
    """Standard output, with the header written."""
    opened = OpenOutput(Stream(stream, name), name)
    opened.output.append(header)
    return opened


def write_whole(path: Path, header: bytes, lines: Iterator[bytes]) -> None:
    """An output that appears under its name only once it is whole."""
    if is_stream(path):
        opened = _stream_file(path, header, "new")
        for line in lines:
            opened.output.append(line)
        return
    journal = _fresh(staged(path), header)
    with journal.closed_on_failure():
        try:
            for line in lines:
                journal.append(line)
            journal.rename(path)
        except BaseException:
            journal.path.unlink(missing_ok=True)
            raise
    journal.close()


def recorded_header(path: Path) -> dict[str, Any] | None:
    """The header of an output that is there; None if there is none, or not even a header.

    Raises:
        InputError: it is something else.
    """
    if not os.path.lexists(path) or is_stream(path):
        return None
    with open_regular(path) as fd:
        data = read_exactly(fd, _MAX_HEADER, 0)
    first, newline, _ = data.partition(b"\n")
    if newline:
        return read_header(first, shown(path))
    if not may_be_torn_header(first):
        raise InputError(shown(path), "not an output of gptcli batch")
    return None


@contextmanager
def read_output(path: Path) -> Iterator[tuple[dict[str, Any], Iterator[RecordedAnswer]]]:
    """The header and the records of an output, only read.

    Raises:
        InputError: it is none.
    """
    with open_regular(path) as fd:
        lines = whole_lines(fd)
        first = next(lines, (b"", 0))[0]
        yield read_header(first, shown(path)), results(lines, shown(path), lambda _end: None)


def results(
    lines: Iterator[tuple[bytes, int]], name: str, keep: Callable[[int], object]
) -> Iterator[RecordedAnswer]:
    """The records of an output after its header; `keep` is told where each one ends.

    A last line that is damaged is left out, as a crash may leave one.

    Raises:
        InputError: a line before the last is none of ours.
    """
    number, before = 1, 0
    for data, end in lines:
        number += 1
        result = read_result(data)
        if result is None or result.line <= before:
            if result is None and next(lines, None) is None:
                return
            raise InputError(name, f"line {number} is not a gptcli record in its place")
        before = result.line
        keep(end)
        yield result


def may_be_torn_header(data: bytes) -> bool:
    """Whether a crash may have left this of a header, or nothing at all."""
    return data.startswith(HEADER_BEGINS) or HEADER_BEGINS.startswith(data)


def is_stream(path: Path) -> bool:
    """Whether there is something that is no regular file: a pipe, a terminal, /dev/null."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISDIR(mode):
        raise UsageError("output", f"{shown(path)} is a directory")
    return not stat.S_ISREG(mode)


def refuse_existing(path: Path, hint: str = EXISTS_HINT) -> None:
    """Refuse an output that is there already.

    Raises:
        UsageError: it is.
    """
    if os.path.lexists(path) and not is_stream(path):
        raise UsageError("output", f"{shown(path)} exists already", hint)


def identities(paths: Iterable[Path | None]) -> list[tuple[int, int]]:
    """Device and inode of those that are there."""
    found = []
    for path in paths:
        with suppress(OSError, ValueError):
            if path is not None:
                status = path.stat()
                found.append((status.st_dev, status.st_ino))
    return found


def staged(path: Path) -> Path:
    """Where an output that replaces `path` is written."""
    return _beside(path, "new")


def refuse_same_file(path: Path, others: list[tuple[int, int]]) -> None:
    """Refuse an output that is one of the job's own inputs, given as device and inode.

    Raises:
        UsageError: it is.
    """
    with suppress(OSError, ValueError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) in others:
            raise UsageError("output", f"{shown(path)} is a file that the job reads")


def _continued(path: Path, header: bytes) -> OpenOutput:
    if not os.path.lexists(path):
        return OpenOutput(Journal.create(path, header), shown(path), is_new=True)
    journal = Journal.reopen(path)
    with journal.closed_on_failure():
        lines = journal.lines()
        first = next(lines, None)
        if first is None:
            if not may_be_torn_header(journal.tail()):
                raise InputError(shown(path), "not an output of gptcli batch")
            journal.begin(header)
            return OpenOutput(journal, shown(path))
        _require_same(read_header(first[0], shown(path)), header, shown(path))
        journal.keep(first[1])
        return OpenOutput(journal, shown(path), done=results(lines, shown(path), journal.keep))


def _retried(path: Path, header: bytes) -> OpenOutput:
    old = _continued(path, header)
    assert isinstance(old.output, Journal)
    with old.output.closed_on_failure():
        journal = _fresh(_beside(path, "retry"), header)
    return OpenOutput(journal, shown(path), old=old.done, final=path, _old_journal=old.output)


def _fresh(path: Path, header: bytes) -> Journal:
    """A new file in the place of what an earlier run may have left."""
    if os.path.lexists(path):
        recorded_header(path)  # refuses what is not ours
        left = Journal.reopen(path)
        try:
            path.unlink()
        finally:
            left.close()
    return Journal.create(path, header)


def _stream_file(path: Path, header: bytes, mode: Mode) -> OpenOutput:
    if mode not in {"new", "overwrite"}:
        raise UsageError("resume", f"{shown(path)} is no file that could be continued")
    try:
        stream = path.open("wb", buffering=0)
    except OSError as error:
        raise RunError(shown(path), f"cannot be opened ({error.strerror})") from None
    return open_stream(stream, shown(path), header)


def _require_same(old: dict[str, Any], header: bytes, name: str) -> None:
    new = json.loads(header)
    if found := differences(old, new):
        hint = "Resume with what it was made with, or write another file"
        if ("machine" in old) != ("machine" in new):
            engine = "torch" if "machine" in old else "native"
            hint = (
                f"Resume with the engine that wrote it (`engine={engine}`), or write another file"
            )
        raise InputError(name, f"made with {listed(found)}", hint)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")
