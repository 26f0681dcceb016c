"""Inputs that are not JSON Lines are refused as a whole, with what was found and what to do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_jobs import tiny_directory
from emission import run
from hypothesis import given
from hypothesis import strategies as st

from gptcli.batch.input_check import check_first_lines
from gptcli.batch.io.lines import Line, split_lines
from gptcli.core.errors import InputError, RunError

WRONG = [
    ("The dog\nThe cat\n", "plain text", "with `text`"),
    ("\n\n  The dog\n", "plain text", "with `text`"),
    ("id,prompt\n1,The dog\n", "plain text", ".csv or .parquet"),
    ("17\n18\n", "plain text", "with `text`"),
    ('"The dog"\n"The cat"\n', 'each the text "The dog"', "jq -c '{prompt: .}'"),
    ('[{"prompt": "a"},\n {"prompt": "b"}]', "a JSON array", "jq -c '.[]'"),
    ("[\n{", "a JSON array", "jq -c '.[]'"),
    ('["a", "b"]', "a JSON array", "jq -c '.[] | {prompt: .}'"),
    ('{\n  "prompt": "a"\n}\n', "several lines", "jq -c ."),
    ('{"prompt": "a",\n "id": 1}\n', "several lines", "jq -c ."),
    ('{"text": "a"}\n{"text": "b"}\n', '(found: "text")', "jq -c '{prompt: .text}'"),
    ('{"id": "1", "q": "a"}\n{"id": "2"}\n', '(found: "id", "q")', "jq -c '{id, prompt: .q}'"),
    ('{"a b": "c"}\n{"a b": "c"}\n', '(found: "a b")', "jq -c '{prompt: ...}'"),
    ('{"messages": []}\n{"messages": []}\n', "chat messages", "/v1/completions"),
    ('{"custom_id": "a", "body": {"messages": []}}\n' * 2, "chat messages", "/v1/completions"),
    ('\ufeff"The dog"', "JSON", "jq"),
    (b"PAR1\x15\x04", "a Parquet file", ".parquet"),
    ("The dog".encode("utf-16"), "UTF-16", "iconv"),
]
# Their bad lines fail by themselves.
RIGHT = [
    "",
    "\n \n",
    "{",
    '{"prompt": "a"}',
    '{"prompt": "a"}\nnot JSON\n',
    'a title\n{"prompt": "a"}\n',
    '{"prompt": "cut off\n{"prompt": "a"}\n',
    '{"promt": "a"}\n{"prompt": "a"}\n',
    '{"promt": "a"}',
    '{"custom_id": "a", "body": {}}\n' * 2,
    b"\xff\xfd\nx",
]


def lines_of(data: str | bytes) -> Iterator[Line | None]:
    return split_lines(iter([data if isinstance(data, bytes) else data.encode()]), "in")


@pytest.mark.parametrize(("data", "found", "way_out"), WRONG)
def test_another_kind_of_file_is_named(data: str | bytes, found: str, way_out: str) -> None:
    with pytest.raises(InputError) as caught:
        check_first_lines(lines_of(data), "in", ahead=True)
    assert found in caught.value.problem
    assert way_out in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("data", RIGHT)
def test_records_pass_though_some_may_be_bad(data: str | bytes) -> None:
    assert list(check_first_lines(lines_of(data), "in", ahead=True)) == list(lines_of(data))


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_whatever_is_read_is_given_whole_or_refused(data: str | bytes) -> None:
    for ahead in (True, False):
        try:
            found = list(check_first_lines(lines_of(data), "in", ahead=ahead))
        except InputError:
            continue
        assert found == list(lines_of(data))


def test_an_input_that_ends_early_gives_its_lines_first() -> None:
    def lines() -> Iterator[Line | None]:
        yield from lines_of('{"prompt": "a"}\n')
        raise RunError("in", "ends early")

    found = check_first_lines(lines(), "in", ahead=True)
    assert next(found) is not None
    with pytest.raises(RunError, match="ends early"):
        next(found)


def test_of_a_pipe_one_line_is_looked_at_when_it_is_there() -> None:
    def lines() -> Iterator[Line | None]:
        yield None
        yield from lines_of('{"prompt": "a"}\n')
        raise AssertionError("asked for a second line")

    found = check_first_lines(lines(), "in", ahead=False)
    assert next(found) is None
    assert next(found) is not None
    with pytest.raises(InputError, match="plain text"):
        next(check_first_lines(lines_of("The dog\n"), "in", ahead=False))


def test_the_command_says_it_once_and_leaves_no_output(tmp_path: Path) -> None:
    model, source, output = tiny_directory(tmp_path / "model"), tmp_path / "in", tmp_path / "out"
    source.write_text("The dog\n" * 1000)
    for name, stdin in ((source, b""), ("-", source.read_bytes())):
        done = run("batch", name, "-o", output, "-m", model, stdin=stdin)
        assert (done.code, done.out) == (3, b"")
        assert done.err.count(b"\n") == 1
        assert b"plain text" in done.err
        assert not output.exists()
    assert run("batch", source, "-o", "-", "-m", model, "--text", "-n", "0").code == 0


def test_a_table_that_lacks_the_column_leaves_no_output(tmp_path: Path) -> None:
    model, source, output = tiny_directory(tmp_path / "model"), tmp_path / "in.csv", tmp_path / "o"
    source.write_text("text\na\n")
    for mode in ((), ("--resume",), ("--overwrite",)):
        done = run("batch", source, "-o", output, "-m", model, *mode)
        assert (done.code, b'no column "prompt"' in done.err) == (3, True)
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("o")] == []
