"""How a batch's output begins: new, continued, written anew beside the old one, or a stream.

Checks what is there before anything of it is changed. Knows no model and no input.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from gptcli.batch.io.journal import EXISTS_HINT, Journal
from gptcli.batch.recorded import is_stream, may_be_torn_header, recorded_header, results
from gptcli.batch.result_lines import Done, differences, read_header
from gptcli.batch.runner import Output
from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.core.escape import listed, shown

Mode = Literal["new", "resume", "overwrite", "overwrite-resume", "retry"]


@dataclass(slots=True)
class Opened:
    """An output ready to be written.

    Attributes:
        output: takes the lines.
        name: what messages call it.
        done: what is in it already, to be gone past first.
        old: an output whose good lines are to be copied first, whose failed ones are not.
        final: the name that the file gets in the end, where that is another.
    """

    output: Output
    name: str
    done: Iterator[Done] = field(default_factory=lambda: iter(()))
    old: Iterator[Done] | None = None
    final: Path | None = None
    _old_journal: Journal | None = None

    def promote(self) -> None:
        """Give the file its final name."""
        if isinstance(self.output, Journal) and self.final is not None:
            self.output.rename(self.final)
            self.final = None
        if self._old_journal is not None:
            self._old_journal.close()

    def finish(self) -> None:
        """All is written: onto the disk, under its final name, closed.

        Raises:
            RunError: the system says no at the last moment.
        """
        if isinstance(self.output, Journal):
            self.output.finish()
            self.promote()
            self.output.close()

    def abandon(self) -> None:
        """Save what there is after a failure that is being reported already."""
        if isinstance(self.output, Journal):
            with suppress(RunError, OSError):
                self.output.sync()
            with suppress(RunError):
                self.output.close()
            if self.old is not None and self.final is not None:
                self.output.path.unlink(missing_ok=True)  # the old output has all that is in it
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


def open_output(path: Path, header: bytes, mode: Mode) -> Opened:
    """A file to write, with its header.

    Raises:
        UsageError: it is there already, and `mode` is "new".
        InputError: what is there was not made by this job.
        RunError: the system says no, or another process writes it.
    """
    if is_stream(path):
        return _stream_file(path, header, mode)
    if mode == "overwrite":
        return Opened(_fresh(_beside(path, "new"), header), shown(path), final=path)
    if mode == "overwrite-resume":
        opened = _continued(_beside(path, "new"), header)
        opened.final = path
        return opened
    if mode == "retry":
        return _retried(path, header)
    if mode == "resume":
        return _continued(path, header)
    return Opened(Journal.create(path, header), shown(path))


def open_stream(stream: Bytes, name: str, header: bytes) -> Opened:
    """Standard output, with the header written."""
    opened = Opened(Stream(stream, name), name)
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


def refuse_existing(path: Path, hint: str = EXISTS_HINT) -> None:
    """Refuse an output that is there already.

    Raises:
        UsageError: it is.
    """
    if os.path.lexists(path) and not is_stream(path):
        raise UsageError(f"--output {shown(path)}", "exists already", hint)


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
            raise UsageError("--output", f"{shown(path)} is a file that the job reads")


def _continued(path: Path, header: bytes) -> Opened:
    if not os.path.lexists(path):
        return Opened(Journal.create(path, header), shown(path))
    journal = Journal.reopen(path)
    with journal.closed_on_failure():
        lines = journal.lines()
        first = next(lines, None)
        if first is None:
            if not may_be_torn_header(journal.tail()):
                raise InputError(shown(path), "not an output of gptcli batch")
            journal.begin(header)
            return Opened(journal, shown(path))
        _require_same(read_header(first[0], shown(path)), header, shown(path))
        journal.keep(first[1])
        return Opened(journal, shown(path), done=results(lines, shown(path), journal.keep))


def _retried(path: Path, header: bytes) -> Opened:
    old = _continued(path, header)
    assert isinstance(old.output, Journal)
    with old.output.closed_on_failure():
        journal = _fresh(_beside(path, "retry"), header)
    return Opened(journal, shown(path), old=old.done, final=path, _old_journal=old.output)


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


def _stream_file(path: Path, header: bytes, mode: Mode) -> Opened:
    if mode not in {"new", "overwrite"}:
        raise UsageError("--resume", f"{shown(path)} is no file that could be continued")
    try:
        stream = path.open("wb", buffering=0)
    except OSError as error:
        raise RunError(shown(path), f"cannot be opened ({error.strerror})") from None
    return open_stream(stream, shown(path), header)


def _require_same(old: dict[str, Any], header: bytes, name: str) -> None:
    if found := differences(old, json.loads(header)):
        hint = "Resume with what it was made with, or write another file"
        raise InputError(name, f"made with {listed(found)}", hint)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")
