"""A batch's output: create, resume, replace or read it.

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
    """Where lines are written: a `gptcli.batch.io.journal.Journal`, or a `StreamOutput`."""

    def append(self, line: bytes) -> None:
        """Write one line."""

    def tick(self) -> None:
        """Sync lines that have waited long enough; called often."""


@dataclass(slots=True)
class OpenOutput:
    """An output that is open for writing.

    Attributes:
        output: where lines are written.
        name: what messages call it.
        done: records that the file holds already.
        old: with `retry_failed`, the records of the file that this one replaces.
        final: the name that a complete file is renamed to, if it is written under another.
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
        """Rename the file to its final name, if it has another."""
        if isinstance(self.output, Journal) and self.final is not None:
            self.output.rename(self.final)
            self.final = None
        if self._old_journal is not None:
            self._old_journal.close()

    def finish(self) -> None:
        """Finish the output: sync, rename to the final name, close.

        Raises:
            RunError: syncing, renaming or closing fails.
        """
        if isinstance(self.output, Journal):
            self.output.finish()
            self.promote()
            self.output.close()

    def abandon(self, *, keep_empty: bool) -> None:
        """Sync and close the output after an error, which is reported elsewhere.

        A file that this run created and that holds no record is removed unless `keep_empty`.
        """
        if isinstance(self.output, Journal):
            with suppress(RunError, OSError):
                self.output.sync()
            is_empty = self.is_new and not self.output.count and not keep_empty
            is_unfinished_copy = self.old is not None and self.final is not None
            if is_empty or is_unfinished_copy:
                self.output.path.unlink(missing_ok=True)
            with suppress(RunError):
                self.output.close()
        if self._old_journal is not None:
            with suppress(RunError):
                self._old_journal.close()


class ByteSink(Protocol):
    """A binary stream."""

    def write(self, data: memoryview, /) -> int | None:
        """Write some of the data → how many bytes."""

    def flush(self) -> None:
        """Write what is buffered."""


class StreamOutput:
    """A pipe, a terminal or a device: no resuming, and nothing to sync."""

    def __init__(self, stream: ByteSink, name: str) -> None:
        self._stream, self._name = stream, name

    def append(self, line: bytes) -> None:
        """Write one line.

        Raises:
            RunError: the stream cannot be written.
        """
        try:
            view = memoryview(line)
            while view:
                view = view[self._stream.write(view) or 0 :]
            self._stream.flush()
        except OSError as error:
            raise RunError(self._name, f"cannot be written ({error.strerror})") from None

    def tick(self) -> None:
        """Nothing to sync."""


def open_output(path: Path, header: bytes, mode: Mode) -> OpenOutput:
    """Open a file for writing, with its header.

    Raises:
        UsageError: the file exists, and `mode` is "new".
        InputError: the file was not written by this job.
        RunError: it cannot be written, or another process is writing it.
    """
    if is_stream(path):
        return _stream_file(path, header, mode)
    if mode == "overwrite":
        return OpenOutput(_create(staging_path(path), header), shown(path), final=path, is_new=True)
    if mode == "overwrite-resume":
        opened = _resume(staging_path(path), header)
        opened.final = path
        return opened
    if mode == "retry":
        return _retry(path, header)
    if mode == "resume":
        return _resume(path, header)
    return OpenOutput(Journal.create(path, header), shown(path), is_new=True)


def open_stream(stream: ByteSink, name: str, header: bytes) -> OpenOutput:
    """An output over an open stream, with its header."""
    opened = OpenOutput(StreamOutput(stream, name), name)
    opened.output.append(header)
    return opened


def write_whole(path: Path, header: bytes, lines: Iterator[bytes]) -> None:
    """Write a whole output; a regular file appears under its name only once it is complete."""
    if is_stream(path):
        opened = _stream_file(path, header, "new")
        for line in lines:
            opened.output.append(line)
        return
    journal = _create(staging_path(path), header)
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
    """The header of an existing output; None without a file, or without a whole header in it.

    Raises:
        InputError: the file is no batch output.
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
    """Open an output for reading → its header and its records.

    Raises:
        InputError: the file is no batch output.
    """
    with open_regular(path) as fd:
        lines = whole_lines(fd)
        first = next(lines, (b"", 0))[0]
        yield read_header(first, shown(path)), results(lines, shown(path), lambda _end: None)


def results(
    lines: Iterator[tuple[bytes, int]], name: str, keep: Callable[[int], object]
) -> Iterator[RecordedAnswer]:
    """The records of an output after its header; `keep` is called with the end of each one.

    A damaged last line is left out: a crash may leave one.

    Raises:
        InputError: a line before the last is damaged or out of order.
    """
    number, before = 1, 0
    for data, end in lines:
        number += 1
        result = read_result(data)
        if result is None or result.line <= before:
            if result is None and next(lines, None) is None:
                return
            raise InputError(name, f"line {number} is damaged or out of order")
        before = result.line
        keep(end)
        yield result


def may_be_torn_header(data: bytes) -> bool:
    """Whether data without a whole first line may be what a crash left of a header."""
    return data.startswith(HEADER_BEGINS) or HEADER_BEGINS.startswith(data)


def is_stream(path: Path) -> bool:
    """Whether a path is something other than a regular file: a pipe, a terminal, /dev/null."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISDIR(mode):
        raise UsageError("output", f"{shown(path)} is a directory")
    return not stat.S_ISREG(mode)


def refuse_existing(path: Path, hint: str = EXISTS_HINT) -> None:
    """Refuse to write over an existing file.

    Raises:
        UsageError: the file exists.
    """
    if os.path.lexists(path) and not is_stream(path):
        raise UsageError("output", f"{shown(path)} exists already", hint)


def file_ids(paths: Iterable[Path | None]) -> list[tuple[int, int]]:
    """Device and inode of the paths that exist."""
    found = []
    for path in paths:
        with suppress(OSError, ValueError):
            if path is not None:
                status = path.stat()
                found.append((status.st_dev, status.st_ino))
    return found


def staging_path(path: Path) -> Path:
    """Where an output that will replace `path` is written."""
    return _sibling(path, "new")


def refuse_same_file(path: Path, others: list[tuple[int, int]]) -> None:
    """Refuse an output that is one of the job's own inputs, given as device and inode.

    Raises:
        UsageError: the output is one of them.
    """
    with suppress(OSError, ValueError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) in others:
            raise UsageError("output", f"{shown(path)} is a file that the job reads")


def _resume(path: Path, header: bytes) -> OpenOutput:
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


def _retry(path: Path, header: bytes) -> OpenOutput:
    old = _resume(path, header)
    assert isinstance(old.output, Journal)
    with old.output.closed_on_failure():
        journal = _create(_sibling(path, "retry"), header)
    return OpenOutput(journal, shown(path), old=old.done, final=path, _old_journal=old.output)


def _create(path: Path, header: bytes) -> Journal:
    """Create a file, in place of one that an earlier run may have left."""
    if os.path.lexists(path):
        recorded_header(path)  # refuses a file that is not ours to delete
        left = Journal.reopen(path)
        try:
            path.unlink()
        finally:
            left.close()
    return Journal.create(path, header)


def _stream_file(path: Path, header: bytes, mode: Mode) -> OpenOutput:
    if mode not in {"new", "overwrite"}:
        raise UsageError(
            "resume", f"{shown(path)} is not a regular file, which alone can be resumed"
        )
    try:
        stream = path.open("wb", buffering=0)
    except OSError as error:
        raise RunError(shown(path), f"cannot be opened ({error.strerror})") from None
    return open_stream(stream, shown(path), header)


def _require_same(old: dict[str, Any], header: bytes, name: str) -> None:
    new = json.loads(header)
    if found := differences(old, new):
        hint = "Resume with the same options and model, or write another file"
        if ("machine" in old) != ("machine" in new):
            engine = "torch" if "machine" in old else "native"
            hint = (
                f"Resume with the engine that wrote it (`engine={engine}`), or write another file"
            )
        raise InputError(name, f"made with {listed(found)}", hint)


def _sibling(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")
