"""The durable writer: whatever fails, the file is a valid beginning and the job can go on."""

import errno
import itertools
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_jobs import Canned, prompts, write
from emission import environment

from gptcli.batch.io.journal import LINES_PER_SYNC, Journal
from gptcli.core.errors import InputError, RunError, UsageError


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: these tests bring thousands of files to the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


LINES = [f"line {n} {'x' * (n % 7)}\n".encode() for n in range(150)]


class Faulty:
    """`os`, but the n-th call of those that change something fails, once or for ever."""

    CALLS = ("open", "pwrite", "write", "fdatasync", "fsync", "ftruncate", "close", "replace")

    USED = frozenset({"open", "pwrite", "fdatasync", "fsync", "close"})

    def __init__(self, at: int, fault: int | str, *, lasting: bool = False) -> None:
        self._at, self._fault, self._lasting = at, fault, lasting
        self.count = 0
        self.happened: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*arguments: Any) -> Any:
            self.count += 1
            hit = self.count >= self._at if self._lasting else self.count == self._at
            if not hit:
                return real(*arguments)
            self.happened.append(name)
            return self._fail(name, real, arguments)

        return call

    def _fail(self, name: str, real: Any, arguments: tuple[Any, ...]) -> Any:
        if self._fault == "short" and name in {"pwrite", "write"}:
            fd, data, *rest = arguments
            return real(fd, data[: max(1, len(data) // 2)], *rest)
        if self._fault == "short":
            return real(*arguments)
        if name == "close":
            real(*arguments)
        if self._fault == "half":
            if name not in {"pwrite", "write"}:
                return real(*arguments)
            fd, data, *rest = arguments
            real(fd, data[: len(data) // 2], *rest)
        code = errno.ENOSPC if self._fault == "half" else int(self._fault)
        raise OSError(code, os.strerror(code))


FAULTS: list[int | str] = [errno.ENOSPC, errno.EIO, errno.EINTR, errno.EDQUOT, "short", "half"]


def write_lines(path: Path, system: Any, lines: list[bytes]) -> None:
    """What a job does, resuming included; the file's own lines are believed."""
    if path.exists():
        journal = Journal.reopen(path, system)
        for _, end in journal.lines():
            journal.keep(end)
        if not journal.end:
            journal.begin(lines[0])
    else:
        journal = Journal.create(path, lines[0], system)
    with journal.closed_on_failure():
        for line in lines[journal.count + 1 :]:
            journal.append(line)
        journal.finish()
    journal.close()


@pytest.mark.parametrize("torn", [False, True], ids=["new", "torn"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_call_fails_the_file_is_a_valid_beginning(
    tmp_path: Path, fault: int | str, lasting: bool, torn: bool
) -> None:
    """Make the n-th call fail for n = 1, 2, 3... until a run has no fault."""
    if lasting and fault == errno.EINTR:
        pytest.skip("a call that is interrupted for ever never ends")
    whole = b"".join(LINES)
    messages: dict[str, str] = {}  # call → the error that its failure became
    for n in itertools.count(1):
        path = tmp_path / str(n)
        if torn:  # the run begins with a crash's remains
            path.write_bytes(b"".join(LINES[:3]) + b"torn")
        system = Faulty(n, fault, lasting=lasting)
        try:
            write_lines(path, system, LINES)
            assert path.read_bytes() == whole
        except RunError as error:
            messages[system.happened[0]] = str(error)
        found = path.read_bytes() if path.exists() else b""
        # What a failed write left is cut at once, unless cutting fails too: then by a resume.
        assert whole.startswith(found[: found.rfind(b"\n") + 1])
        if not lasting and not torn:
            assert whole.startswith(found)
        write_lines(path, os, LINES)
        assert path.read_bytes() == whole
        path.unlink()
        if not system.happened:
            break
    assert n > len(LINES)
    _check(messages, fault)


def _check(messages: dict[str, str], fault: int | str) -> None:
    """Every call was made to fail, and each failure said what it was."""
    if fault in {"short", errno.EINTR}:
        assert messages == {}
    else:
        expected = {"pwrite"} if fault == "half" else Faulty.USED
        assert messages.keys() >= expected
        is_full = fault in {errno.ENOSPC, errno.EDQUOT, "half"}
        assert ("disk full after" in messages["pwrite"]) == is_full


def test_what_a_crash_left_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(LINES[0] + b"half a li")
    write_lines(path, os, LINES[:2])
    assert path.read_bytes() == b"".join(LINES[:2])
    assert (tmp_path / "out.torn").read_bytes() == b"half a li"


def test_lines_reach_the_disk_every_64_or_2_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    now = 0.0

    class Watched:
        def __getattr__(self, name: str) -> Any:
            if name == "fdatasync":
                return lambda fd: synced.append(os.fstat(fd).st_size)
            return getattr(os, name)

    monkeypatch.setattr("gptcli.batch.io.journal.monotonic", lambda: now)
    journal = Journal.create(tmp_path / "out", b"first\n", Watched())
    assert synced == [6]
    for _ in range(LINES_PER_SYNC):
        journal.append(b"x\n")
    assert synced == [6, 6 + 2 * LINES_PER_SYNC]
    journal.append(b"y\n")
    now = 1.9
    journal.tick()
    assert len(synced) == 2
    now = 2.0
    journal.tick()
    journal.tick()
    assert synced[2:] == [8 + 2 * LINES_PER_SYNC]
    journal.close()


def test_two_writers_at_once_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "out"
    first = Journal.create(path, b"first\n")
    with pytest.raises(RunError, match="another process is writing it"):
        Journal.reopen(path)
    with pytest.raises(UsageError, match="exists already"):
        Journal.create(path, b"first\n")
    first.close()
    Journal.reopen(path).close()


def test_a_file_replaced_before_the_lock_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old\n")

    class Replacing:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def open(self, *arguments: Any) -> int:
            fd = os.open(*arguments)
            (tmp_path / "new").write_bytes(b"new\n")
            (tmp_path / "new").replace(path)
            return fd

    with pytest.raises(RunError, match="another process is writing it"):
        Journal.reopen(path, Replacing())
    assert path.read_bytes() == b"new\n"


def test_an_output_cut_at_any_byte_of_its_last_lines_is_mended(tmp_path: Path) -> None:
    source = prompts(tmp_path / "in", 14)
    canned = Canned(source)
    write(source, tmp_path / "whole", answers=lambda: canned)
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "out"
    third_last = len(b"".join(whole.splitlines(keepends=True)[:-3]))
    for cut in range(third_last, len(whole)):
        path.write_bytes(whole[:cut])
        write(source, path, mode="resume", answers=lambda: canned)
        assert path.read_bytes() == whole
        torn = whole[:cut].rpartition(b"\n")[2]
        aside = tmp_path / "out.torn"
        assert (aside.read_bytes() if aside.exists() else b"") == torn
        aside.unlink(missing_ok=True)


def test_a_header_cut_at_any_byte_is_mended(tmp_path: Path) -> None:
    source = prompts(tmp_path / "in", 2)
    canned = Canned(source)
    write(source, tmp_path / "whole", answers=lambda: canned)
    whole = (tmp_path / "whole").read_bytes()
    for cut in range(0, whole.index(b"\n") + 1):
        (tmp_path / "out").write_bytes(whole[:cut])
        write(source, tmp_path / "out", mode="resume", answers=lambda: canned)
        assert (tmp_path / "out").read_bytes() == whole


def test_a_garbled_last_line_is_cut_and_any_other_refused(tmp_path: Path) -> None:
    source = prompts(tmp_path / "in", 8)
    write(source, tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    path = tmp_path / "out"
    path.write_bytes(b"".join(lines[:-1]) + bytes(40) + b"\n")
    write(source, path, mode="resume")
    assert path.read_bytes() == b"".join(lines)
    for bad in (bytes(40) + b"\n", b"{}\n", lines[1], lines[-1]):
        spoilt = b"".join([*lines[:3], bad, *lines[4:]])
        path.write_bytes(spoilt)
        with pytest.raises(InputError):
            write(source, path, mode="resume")
        assert path.read_bytes() == spoilt


@pytest.mark.parametrize("data", [b"notes\n", b"notes", b'{"a": 1}\n', b"\x00\x01", b"[]\n"])
def test_a_file_of_something_else_is_never_continued(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "out").write_bytes(data)
    with pytest.raises(InputError, match=r"header|not an output"):
        write(prompts(tmp_path / "in", 2), tmp_path / "out", mode="resume")
    assert (tmp_path / "out").read_bytes() == data


def test_random_damage_and_resumes_lose_and_double_nothing(tmp_path: Path) -> None:
    """Kills in mid-write leave a prefix and perhaps a torn line; any run of them heals."""
    source, rng = prompts(tmp_path / "in", 20), random.Random(4)
    canned = Canned(source)
    write(source, tmp_path / "whole", answers=lambda: canned)
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "out"
    for _ in range(100):
        now = whole[: rng.randrange(len(whole) + 1)]
        path.write_bytes(now + rng.choice([b"", b"\x00" * 9, b'{"line": 3']) * (now[-1:] == b"\n"))
        write(source, path, mode="resume", answers=lambda: canned)
        assert path.read_bytes() == whole


def test_a_limit_on_the_file_size_is_a_full_disk(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from gptcli.batch.io.journal import Journal
from gptcli.core.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
journal = Journal.create(Path(sys.argv[1]), b"first\\n")
try:
    for _ in range(100):
        journal.append(b"x" * 99 + b"\\n")
except RunError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out"],
        capture_output=True,
        env=environment(),
        check=True,
    )
    assert b"disk full after 9 records. Free space and use `resume`" in done.stdout
    assert (tmp_path / "out").read_bytes() == b"first\n" + (b"x" * 99 + b"\n") * 9
