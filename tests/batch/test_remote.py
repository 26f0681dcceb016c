"""Inputs by URL: the same lines as from a file, through pyarrow's own filesystems."""

import gzip
import json
import sys
from pathlib import Path

import pytest
from batch_jobs import SPEC, write
from emission import run
from tiny_directory import write_tiny

from gptcli.batch.io.inputs import is_url, open_file, open_in, open_url
from gptcli.batch.io.tables import rows
from gptcli.batch.output import read_output
from gptcli.batch.replay import pairs_of
from gptcli.batch.request import RecordReader
from gptcli.batch.runner import RecordStream
from gptcli.core.errors import InputError, RunError, UsageError

LINES = b'{"prompt": "one"}\r\n\n{"prompt": "two"}\n' + b"x" * 200_000 + b"\nlast"


@pytest.fixture
def fs() -> object:
    return pytest.importorskip("pyarrow.fs", reason="needs pyarrow, the extra `parquet`")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_remote_file_has_the_lines_of_a_local_one(fs, tmp_path: Path, pack) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(pack(LINES))
    with open_file(path) as source:
        expected, size = list(source.lines()), source.size
    mock = pytest.importorskip("pyarrow._fs")._MockFileSystem()
    with mock.open_output_stream("in", compression=None) as stream:
        stream.write(path.read_bytes())
    tree = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    opened = [open_url(path.as_uri()), open_in(mock, "in", "m"), open_in(tree, path.name, "t")]
    for context in opened:
        with context as source:
            assert list(source.lines()) == expected
            assert (source.position, source.size) == (size, size)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_remote_table_has_the_rows_of_a_local_one(fs, tmp_path: Path, kind: str) -> None:
    path, count = tmp_path / f"in.{kind}", 3000
    write_table(path, {"id": [f"r{n}" for n in range(count)], "text": ["é\n,"] * count})
    mock = pytest.importorskip("pyarrow._fs")._MockFileSystem()
    with mock.open_output_stream("in", compression=None) as stream:
        stream.write(path.read_bytes())
    with open_file(path) as source:
        expected = list(rows(path.name, source, "text"))
    assert [json.loads(line.data)["id"] for line in expected] == [f"r{n}" for n in range(count)]
    for context in (open_url(path.as_uri()), open_in(mock, "in", "m")):
        with context as source:
            assert list(rows(f"mock://in.{kind}?a=b.c", source, "text")) == expected


def write_table(path: Path, columns: dict[str, list[str]]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, the extra `parquet`")
    table = pyarrow.table(columns)
    if ".csv" in path.suffixes:  # pyarrow gzips what is named so
        with pyarrow.output_stream(path) as stream:
            pytest.importorskip("pyarrow.csv").write_csv(table, stream)
    else:
        pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=700)


def test_what_is_not_there_says_so(fs, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"nothing: not there"),
        open_url(f"file://{tmp_path}/nothing"),
    ):
        pass
    with pytest.raises(InputError, match="not a file"), open_url(tmp_path.as_uri()):
        pass
    with pytest.raises(UsageError, match="not a URL that can be read"), open_url("gopher://a/b"):
        pass


class Silent:
    """A filesystem whose other side does not answer, or goes away in mid file."""

    type_name = "s3"

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)
        self.is_file, self.size = True, 9

    def get_file_info(self, _path: str) -> "Silent":
        if not self._pieces:
            raise OSError("When resolving region:\n no answer")
        return self

    def open_input_stream(self, _path: str, compression: object) -> "Silent":
        return self

    def open_input_file(self, _path: str) -> "Silent":
        raise OSError("no answer")

    def read(self, _most: int) -> bytes:
        if not self._pieces:
            raise OSError("connection lost")
        return self._pieces.pop(0)

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_error: object) -> None:
        pass


def test_a_bucket_that_does_not_answer_is_one_clear_line() -> None:
    with (
        pytest.raises(RunError, match=r"s3://b/k: cannot be opened \(When resolving region: no"),
        open_in(Silent(), "b/k", "s3://b/k"),
    ):
        pass


def test_lines_before_a_lost_connection_are_good() -> None:
    with open_in(Silent(b"a\nb", b"\nc"), "b/k", "s3://b/k") as source:
        lines = source.lines()
        assert [next(lines).data, next(lines).data] == [b"a", b"b"]
        with pytest.raises(RunError, match=r"s3://b/k: cannot be read \(connection lost\)"):
            next(lines)


def test_rows_before_a_lost_connection_are_good() -> None:
    with open_in(Silent(b"prompt\na\n", b"b\nc"), "b/k", "s3://b/k") as source:
        lines = rows("s3://b/k.csv", source, "prompt")
        assert [json.loads(next(lines).data)["prompt"] for _ in "ab"] == ["a", "b"]
        with pytest.raises(RunError, match=r"s3://b/k: cannot be read \(connection lost\)"):
            next(lines)


def test_a_lost_connection_is_no_other_input(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b'{"prompt": "a"}\n{"prompt": "b"}\n')
    write(source, output)
    with read_output(output) as (_, done), open_in(Silent(b'{"prompt": "a"}\n'), "", "s") as lost:
        pairs = pairs_of(
            done, RecordStream(lost.lines(), RecordReader(SPEC), int), frozenset(), "out"
        )
        assert next(pairs).done.line == 1
        with pytest.raises(RunError, match="connection lost"):
            next(pairs)


def test_a_missing_pyarrow_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    with (
        pytest.raises(UsageError, match=r"gptcli\[parquet\]") as caught,
        open_url("s3://KEY:SECRET@bucket/in.jsonl?region=x"),
    ):
        pass
    assert caught.value.where == "s3://bucket/in.jsonl"


@pytest.mark.parametrize("name", ["s3://b/k", "file:///a", "gs://b", "abfss://c@d/e"])
def test_urls_are_known_by_their_scheme(name: str) -> None:
    assert is_url(name)
    assert not is_url(f"./{name}")
    assert not is_url(str(Path(name)))  # as a path it has lost a stroke


def test_a_batch_reads_a_url_and_resumes_from_it(fs, tmp_path: Path) -> None:
    model, source = write_tiny(tmp_path / "model"), tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    common = ["-m", model, "--seed", "1", "-n", "5", "-q"]
    assert run("batch", source, "-o", tmp_path / "local", *common).code == 0
    whole = (tmp_path / "local").read_bytes()
    (tmp_path / "out").write_bytes(whole[: whole.rindex(b'{"line"')])
    done = run("batch", source.as_uri(), "-o", tmp_path / "out", *common, "--resume")
    assert (done.code, done.err) == (0, b"")
    assert (tmp_path / "out").read_bytes() == whole
    done = run("batch", source.as_uri(), "-o", source, *common, "--overwrite")
    assert done.code == 2
    assert source.read_text().count("\n") == 2


@pytest.mark.parametrize("kind", ["jsonl", "csv.gz", "parquet"])
def test_batch_merge_and_replay_take_one_url(fs, tmp_path: Path, kind: str) -> None:
    model, source = write_tiny(tmp_path / "model"), tmp_path / f"in.{kind}"
    prompts = ["a", "b", "c"]
    if kind == "jsonl":
        source.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    else:
        write_table(source, {"prompt": prompts})
    url, parts = source.as_uri(), [tmp_path / "part1", tmp_path / "part2"]
    common = ["-m", model, "--seed", "1", "-n", "5", "-q"]
    assert run("batch", source, "-o", tmp_path / "whole", *common).code == 0
    for index, part in enumerate(parts, 1):
        assert run("batch", url, "-o", part, "--shard", f"{index}/2", *common).code == 0
    assert run("merge", *parts, "-i", url, "-o", tmp_path / "all", "-q").code == 0
    assert (tmp_path / "all").read_bytes() == (tmp_path / "whole").read_bytes()
    done = run("replay", tmp_path / "all", "-i", url, "-m", model)
    assert (done.code, done.out) == (0, b"3 records run again, 0 differ\n")
    before = source.read_bytes()
    assert run("merge", *parts, "-i", url, "-o", source, "--overwrite").code == 2
    assert source.read_bytes() == before
