"""Merging shards: the bytes of one process, and a proof that nothing is missing or doubled."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from batch_jobs import SPEC, Canned, prompts, write

from gptcli.batch.io.inputs import open_file
from gptcli.batch.job import Shard
from gptcli.batch.merge import ShardOutputs
from gptcli.batch.runner import Tally
from gptcli.core.errors import GptcliError, InputError, UsageError


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input, its whole output, and its output in three shards."""
    folder = tmp_path_factory.mktemp("merge")
    source = prompts(folder / "in", 30)
    canned = Canned(source)
    write(source, folder / "whole", answers=lambda: canned)
    for index in (1, 2, 3):
        spec = replace(SPEC, shard=Shard(index, 3))
        write(source, folder / f"part{index}", spec, answers=lambda: canned)
    return folder


def merged(source: Path, parts: Sequence[Path], tally: Tally | None = None) -> bytes:
    with ExitStack() as stack:
        lines = stack.enter_context(open_file(source)).lines()
        joined = ShardOutputs(parts, stack)
        return joined.header + b"".join(joined.merged(lines, tally or Tally()))


def parts_of(job: Path) -> list[Path]:
    return [job / f"part{index}" for index in (1, 2, 3)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_merged_shards_are_the_bytes_of_one_process(job: Path, order: tuple[int, ...]) -> None:
    tally, parts = Tally(), parts_of(job)
    assert merged(job / "in", [parts[n] for n in order], tally) == (job / "whole").read_bytes()
    assert tally.records == 32
    assert tally.failed == (job / "whole").read_bytes().count(b'"status": "error"')


def test_a_whole_output_is_checked_like_one_shard(job: Path) -> None:
    assert merged(job / "in", [job / "whole"]) == (job / "whole").read_bytes()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("part1", "part2"), "missing: 3/3"),
        (("part1", "part2", "part2"), "is shard 2/3, and so is"),
        (("part1", "whole"), "is shard 1/1"),
    ],
)
def test_a_shard_that_is_missing_or_doubled_is_named(
    job: Path, names: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        merged(job / "in", [job / name for name in names])


def test_every_line_that_is_missing_doubled_or_moved_is_noticed(job: Path, tmp_path: Path) -> None:
    lines = (job / "part2").read_bytes().splitlines(keepends=True)
    parts = [job / "part1", tmp_path / "part2", job / "part3"]
    count = len(lines)
    for at in range(1, count):
        without = [*lines[:at], *lines[at + 1 :]]
        twice = [*lines[:at], lines[at], *lines[at:]]
        swapped = [*lines[:at], *lines[at : at + 2][::-1], *lines[at + 2 :]]
        for changed in (without, twice, swapped if at + 1 < count else without):
            parts[1].write_bytes(b"".join(changed))
            with pytest.raises(InputError):
                merged(job / "in", parts)


def test_a_shard_that_is_not_finished_is_refused(job: Path, tmp_path: Path) -> None:
    parts = [job / "part1", tmp_path / "part2", job / "part3"]
    parts[1].write_bytes((job / "part2").read_bytes()[:-20])
    with pytest.raises(InputError, match="has no answer to line"):
        merged(job / "in", parts)


def test_another_input_or_job_is_refused(job: Path, tmp_path: Path) -> None:
    source = job / "in"
    (tmp_path / "in").write_bytes(source.read_bytes().replace(b"prompt 8", b"prompt x"))
    with pytest.raises(InputError, match="answers another line 9"):
        merged(tmp_path / "in", parts_of(job))
    (tmp_path / "in").write_bytes(b"\n".join(source.read_bytes().split(b"\n")[:-1]))
    with pytest.raises(InputError, match="which the input does not have"):
        merged(tmp_path / "in", parts_of(job))
    other = tmp_path / "part2"
    other.write_bytes((job / "part2").read_bytes().replace(b'"seed": 7', b'"seed": 8', 1))
    with pytest.raises(InputError, match=r"not of the same job as .*`seed` 8 instead of 7"):
        merged(source, [job / "part1", other, job / "part3"])


@pytest.mark.parametrize("header", [b"", b"{}\n", b'{"gptcli": "batch", "options": {"x": 1}}\n'])
def test_what_is_no_output_is_refused(job: Path, tmp_path: Path, header: bytes) -> None:
    (tmp_path / "out").write_bytes(header)
    with pytest.raises(GptcliError):
        merged(job / "in", [tmp_path / "out"])
