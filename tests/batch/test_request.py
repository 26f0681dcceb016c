"""Reading a batch's input: lines, records, ids, tables; a bad line costs only itself."""

import csv
import gzip
import io
import json
import math
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_jobs import SPEC
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.batch.fields import SAMPLING_FIELDS
from gptcli.batch.id_table import IdTable
from gptcli.batch.io import lines, tables
from gptcli.batch.io.inputs import InputStream, open_file
from gptcli.batch.io.lines import MAX_LINE, Line, line_of, split_lines
from gptcli.batch.io.tables import is_table, rows
from gptcli.batch.request import Failure, Record, RecordReader, parse
from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.sampling.params import CONSTRAINTS


def lines_of(path: Path) -> list[Line]:
    with open_file(path) as source:
        return [line for line in source.lines() if line is not None]


def parsed(data: str | bytes, **changes: Any) -> Record | Failure:
    raw = data if isinstance(data, bytes) else data.encode()
    return parse(line_of(5, raw), replace(SPEC, **changes))


def record(value: object, **changes: Any) -> Record:
    result = parsed(json.dumps(value), **changes)
    assert isinstance(result, Record), result
    return result


def refused(data: str | bytes, **changes: Any) -> tuple[str, str]:
    result = parsed(data, **changes)
    assert isinstance(result, Failure), result
    assert result.line == 5
    return result.code, result.message


@given(st.binary(max_size=300), st.integers(1, 64))
@settings(max_examples=150, deadline=None)
def test_lines_are_what_split_at_newlines_gives(data: bytes, chunk: int) -> None:
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    found = list(split_lines(iter(chunks), "x"))
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    cleaned = [line.removesuffix(b"\r") for line in expected]
    if cleaned:
        cleaned[0] = cleaned[0].removeprefix(b"\xef\xbb\xbf")
    assert [line.data for line in found if line] == cleaned
    assert [line.number for line in found if line] == list(range(1, len(cleaned) + 1))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\r"])
def test_only_a_newline_ends_a_line(tmp_path: Path, separator: str) -> None:
    (tmp_path / "in").write_bytes(f'"a{separator}b"\n"c"'.encode())
    assert len(lines_of(tmp_path / "in")) == 2


def test_a_line_that_is_too_long_is_counted_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(
        b"a" * MAX_LINE + b"\n" + b"b" * (MAX_LINE + 1) + b"\n" + b"c" * (3 * MAX_LINE) + b"\nd"
    )
    found = lines_of(tmp_path / "in")
    assert [(line.size, len(line.data)) for line in found] == [
        (MAX_LINE, MAX_LINE),
        (MAX_LINE + 1, 0),
        (3 * MAX_LINE, 0),
        (1, 1),
    ]
    failure = parse(found[2], SPEC)
    assert isinstance(failure, Failure)
    assert failure.code == "line_too_long"
    assert found[1].sha256 != found[2].sha256


@given(st.lists(st.binary(max_size=200), max_size=4), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_gzip_of_several_members_in_any_pieces(parts: list[bytes], chunk: int) -> None:
    data = b"".join(gzip.compress(part) for part in parts) + bytes(len(parts) % 3)
    chunks = iter([data[at : at + chunk] for at in range(0, len(data), chunk)])
    found = b"".join(piece for piece in lines._gunzip(b"", chunks) if piece) if parts else b""
    assert found == b"".join(parts)


def test_a_gzip_bomb_is_inflated_a_piece_at_a_time() -> None:
    data = gzip.compress(bytes(64 << 20))
    pieces = list(lines._gunzip(data, iter(())))
    assert sum(len(piece or b"") for piece in pieces) == 64 << 20
    assert max(len(piece or b"") for piece in pieces) <= 1 << 20


def test_a_damaged_gzip_file_gives_its_lines_and_then_an_error(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(os.urandom(200_000).hex().encode().replace(b"0", b"\n")))
    data[150_000:150_010] = bytes(10)
    (tmp_path / "in").write_bytes(data)
    seen = 0
    with open_file(tmp_path / "in") as source, pytest.raises(RunError, match="ends early"):  # noqa: PT012
        for _ in source.lines():
            seen += 1
    assert seen > 1000


def test_a_pipe_is_waited_for_only_while_there_is_nothing_else_to_do() -> None:
    reader, writer = os.pipe()
    source = InputStream.of(reader, "pipe")
    os.write(writer, b"one\n")
    found = source.lines()
    first = next(found)
    assert first is not None
    assert first.data == b"one"
    source.is_busy = lambda: True
    assert next(found) is None
    source.is_busy = lambda: False
    threading.Timer(0.05, os.write, (writer, b"two\n")).start()
    second = next(line for line in found if line is not None)
    assert second.data == b"two"
    os.close(writer)
    assert list(found) == []
    os.close(reader)


def test_a_silent_pipe_can_be_left() -> None:
    reader, writer = os.pipe()
    source = InputStream.of(reader, "pipe")

    def leave() -> None:
        raise KeyboardInterrupt

    source.poll = leave
    with pytest.raises(KeyboardInterrupt):
        next(source.lines())
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("name", [".", "missing", "bad\0name"])
def test_an_input_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError), open_file(tmp_path / name):
        pass


BAD = [
    ("{", "invalid_json", "not JSON"),
    ("", "invalid_json", "not JSON"),
    ('{"prompt": "a", "prompt": "b"}', "invalid_json", 'duplicate key "prompt"'),
    ('{"prompt": NaN}', "invalid_json", "NaN is not a JSON number"),
    ("[" * 100_000, "invalid_json", "nested too deeply"),
    ("1" * 5000, "invalid_json", "digits"),
    (b'{"prompt": "\xff"}', "not_utf8", "byte 0xff at 12"),
    ("null", "not_an_object", "got nothing"),
    ("[1]", "not_an_object", "got a list"),
    ('"text"', "not_an_object", 'got the text "text"'),
    ("{}", "missing_prompt", 'no field "prompt"'),
    ('{"promt": "a"}', "unknown_field", 'did you mean "prompt"?'),
    ('{"prompt": "a", "top-p": 1}', "unknown_field", 'did you mean "top_p"?'),
    (
        '{"prompt": 5}',
        "wrong_type",
        "prompt: expected text or a list of token ids, got the number 5",
    ),
    ('{"prompt": ["a"]}', "wrong_type", "prompt: expected text or a list of token ids, got a"),
    ('{"prompt": ""}', "empty_prompt", "--allow-empty"),
    (r'{"prompt": "a\ud800"}', "not_unicode", "U+D800 at character 2"),
    (r'{"prompt": "a", "id": "\udfff"}', "not_unicode", "id: not valid Unicode"),
    ('{"prompt": "a", "id": 1.5}', "wrong_type", "id: expected text or an integer"),
    ('{"prompt": "a", "id": true}', "wrong_type", "id: expected text or an integer, got true"),
    ('{"prompt": "a", "id": ""}', "wrong_value", "id: expected 1 to 1024 characters"),
    ('{"prompt": "a", "top_p": 0}', "wrong_value", "top_p: must be a number > 0 and <= 1"),
    ('{"prompt": "a", "temperature": true}', "wrong_value", "temperature: must be"),
    ('{"prompt": "a", "temperature": 1e999}', "wrong_value", "temperature: must be"),
    ('{"prompt": "a", "max_new_tokens": 1.0}', "wrong_value", "max_new_tokens: must be"),
    ('{"prompt": "a", "min_new_tokens": 900}', "wrong_value", "min_new_tokens: must be at most"),
    ('{"prompt": "a", "ignore_eos": 1}', "wrong_type", "ignore_eos: expected true or false"),
    ('{"prompt": "a", "stop": ""}', "wrong_type", "stop: expected a text or a list"),
    ('{"prompt": "a", "stop": [1]}', "wrong_type", "stop: expected a text or a list"),
    (r'{"prompt": "a", "stop": "\ud800"}', "not_unicode", "stop: not valid"),
    ('{"prompt": "a", "num_samples": 0}', "wrong_value", "num_samples: expected an integer from 1"),
    ('{"prompt": "a", "seed": -1}', "wrong_value", "seed: expected an integer from 0"),
    ('{"prompt": "a", "logit_bias": []}', "wrong_type", "logit_bias: expected an object"),
    ('{"prompt": "a", "logit_bias": {"x": 1}}', "wrong_value", '"x" is not a token id'),
    ('{"prompt": "a", "logit_bias": {"1": "x"}}', "wrong_type", 'a number or "-inf"'),
    ('{"custom_id": "a"}', "wrong_type", "body: expected an object, got nothing"),
    ('{"custom_id": "a", "body": {}, "x": 1}', "unknown_field", '"x"'),
    ('{"custom_id": "a", "url": "/v1/embeddings", "body": {}}', "unsupported", "/v1/completions"),
    ('{"custom_id": "a", "method": "GET", "body": {}}', "unsupported", "expected POST"),
    ('{"custom_id": "a", "body": {"prompt": "x", "logprobs": 6}}', "wrong_value", "from 0 to 5"),
    ('{"prompt": "x", "logprobs": true}', "wrong_value", "logprobs: expected an integer from 0 to"),
    ('{"custom_id": "a", "body": {"prompt": ["x", "y"]}}', "unsupported", "one text or one list"),
    ('{"prompt": "x", "regex": "("}', "wrong_value", "regex: cannot be compiled (character 1"),
    ('{"prompt": "x", "json_schema": {"type": "x"}}', "wrong_value", "Invalid type: x"),
    ('{"prompt": "x", "grammar": 1}', "wrong_value", "grammar: must be a text"),
    ('{"prompt": "x", "choices": "a"}', "wrong_value", "choices: must be a list"),
    ('{"prompt": "x", "regex": "a", "choices": ["a"]}', "wrong_value", "together with"),
    (
        '{"custom_id": "a", "body": {"prompt": "x", "response_format": {"type": "xml"}}}',
        "unsupported",
        "expected type text, json_object or json_schema",
    ),
    ('{"custom_id": "a", "body": {"prompt": [1.5]}}', "wrong_type", "text or a list of token ids"),
]


@pytest.mark.parametrize(("data", "code", "words"), BAD)
def test_what_is_wrong_with_a_record_is_said(data: str | bytes, code: str, words: str) -> None:
    found, message = refused(data)
    assert found == code
    assert words in message
    assert len(message) < 400


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda t: json.dumps({"prompt": t}).encode())
)
@settings(max_examples=200, deadline=None)
def test_no_line_whatever_raises(data: bytes) -> None:
    assert isinstance(parsed(data), Record | Failure)
    assert isinstance(parsed(data, form="text"), Record | Failure)


def test_a_record_may_set_every_sampling_field() -> None:
    values: dict[str, Any] = {
        "max_new_tokens": 9,
        "temperature": 0.1,
        "top_k": 3,
        "top_p": 0.2,
        "min_p": 0.1,
        "typical_p": 0.3,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.5,
        "no_repeat_ngram": 2,
        "min_new_tokens": 1,
        "ignore_eos": True,
    }
    found = record({"prompt": "a", **values, "logit_bias": {"3": "-inf", "4": 2}})
    assert {name: getattr(found.params, name) for name in values} == values
    assert found.params.logit_bias == ((3, -math.inf), (4, 2))
    assert {*values, "logit_bias", *CONSTRAINTS} == set(SAMPLING_FIELDS)


@pytest.mark.parametrize(
    ("job", "given", "expected"),
    [
        (0.8, {}, (0.6, 1.1)),
        (0.8, {"top_k": 3}, (0.6, 1.1)),
        (0.8, {"temperature": 0.9}, (0.9, 1.1)),
        (0.8, {"temperature": 0}, (0, 1)),
        (0.8, {"temperature": 0, "repetition_penalty": 1.3}, (0, 1.3)),
        (0, {}, (0, 1)),
    ],
)
def test_a_models_recommended_values_are_for_records_that_draw(job, given, expected) -> None:
    recommended = {"temperature": 0.6, "repetition_penalty": 1.1}
    params = replace(SPEC.params, temperature=job)
    found = record({"prompt": "a", **given}, params=params, recommended=recommended).params
    assert (found.temperature, found.repetition_penalty) == expected


def test_a_record_has_one_constraint_in_place_of_the_jobs() -> None:
    job = replace(SPEC.params, regex="a+")
    schema = {"type": "object"}
    assert record({"prompt": "a"}, params=job).params.constraint == ("regex", "a+")
    for own, expected in [
        ({"json_schema": schema}, ("json_schema", json.dumps(schema))),
        ({"choices": ["a", "b"]}, ("choices", ("a", "b"))),
        ({"grammar": 'start: "a"'}, ("grammar", 'start: "a"')),
        ({"regex": "b"}, ("regex", "b")),
        ({"regex": None}, None),
    ]:
        assert record({"prompt": "a", **own}, params=job).params.constraint == expected


def test_openais_response_format_is_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    for form, expected in [
        (named, json.dumps(schema)),
        ({"type": "json_object"}, '{"type": "object"}'),
    ]:
        body = {"prompt": "a", "response_format": form}
        found = record({"custom_id": "1", "body": body}).params.constraint
        assert found == ("json_schema", expected)
    body = {"prompt": "a", "response_format": {"type": "text"}}
    assert record({"custom_id": "1", "body": body}).params.constraint is None


def test_what_a_record_leaves_out_is_the_jobs() -> None:
    found = record({"prompt": "a"}, stop=("x",), num_samples=4)
    assert found.params is SPEC.params
    assert (found.stop, found.num_samples, found.seed, found.id) == (("x",), 4, None, None)
    assert record({"prompt": "a", "stop": None}, stop=("x",)).stop == ()


def test_an_openai_request_says_the_same_in_other_words() -> None:
    body = {"model": "m", "prompt": ["hi"], "max_tokens": 3, "n": 2, "stop": "x", "seed": 5}
    body |= {"temperature": 0, "user": "u", "logprobs": None, "stream": False, "echo": True}
    request = {"custom_id": "q", "method": "POST", "url": "/v1/completions", "body": body}
    found = record(request)
    assert (found.id, found.prompt, found.num_samples, found.stop) == ("q", "hi", 2, ("x",))
    assert (found.params.max_new_tokens, found.params.temperature, found.seed) == (3, 0, 5)
    assert found.openai == {"model": "m", "echo": True}
    assert record({"custom_id": "q", "body": {"prompt": [1, 2]}}).prompt == (1, 2)


def test_an_openai_request_gets_openais_defaults_before_the_jobs() -> None:
    """The protocol's own: https://platform.openai.com/docs/api-reference/completions."""
    params = replace(SPEC.params, temperature=0.3, top_p=0.5, max_new_tokens=9, top_k=7)
    body = {"custom_id": "q", "body": {"prompt": "a"}}
    found = record(body, params=params).params
    assert (found.max_new_tokens, found.temperature, found.top_p, found.top_k) == (16, 1, 1, 7)
    body["body"] = {"prompt": "a", "max_tokens": 3, "temperature": 0, "top_p": None}
    found = record(body, params=params).params
    assert (found.max_new_tokens, found.temperature, found.top_p) == (3, 0, 1)
    assert record(body, params=params, openai=None).params.top_p == 0.5  # a job of format 1


def test_a_prompt_may_be_ids() -> None:
    assert record({"prompt": [3, 1, 4]}).prompt == (3, 1, 4)
    assert refused('{"prompt": []}')[0] == "empty_prompt"
    assert refused('{"prompt": [true]}')[0] == refused('{"prompt": [-1]}')[0] == "wrong_type"


def test_draws_are_named_by_the_id_or_else_by_the_line() -> None:
    def name(value: object, **changes: Any) -> str:
        return record(value, **changes).draw_name

    assert name({"prompt": "a"}) == "5"
    assert name({"prompt": "a", "id": "x"}) == "id:x"
    assert name({"prompt": "a", "id": "5"}) == name({"prompt": "a", "id": 5}) == "id:5"
    assert name({"custom_id": "x", "body": {"prompt": "a"}}) == "id:x"
    assert name({"prompt": "a", "id": "x", "seed": 1}) == ""
    assert name({"prompt": "a", "id": "x"}, format=1) == "5"


def test_a_line_of_text_is_a_prompt_as_it_stands() -> None:
    found = parsed('{"prompt": 1} \\n', form="text")
    assert isinstance(found, Record)
    assert found.prompt == '{"prompt": 1} \\n'


def numbered(*values: object) -> Iterator[Line]:
    for number, value in enumerate(values, 1):
        yield line_of(number, json.dumps(value).encode() if value else b" ")


def test_an_id_given_twice_fails_the_second() -> None:
    values = [
        {"prompt": "a", "id": "x"},
        None,
        {"id": "x", "prompt": "b"},
        {"prompt": "c", "id": 7},
    ]
    values += [{"custom_id": "7", "body": {"prompt": "d"}}, {"prompt": "e"}, {"prompt": "f"}]
    read = RecordReader(SPEC)
    found = [read(line) for line in numbered(*values)]
    codes = [result.code if isinstance(result, Failure) else result and "ok" for result in found]
    assert codes == ["ok", None, "duplicate_id", "ok", "duplicate_id", "ok", "ok"]
    assert isinstance(found[2], Failure)
    assert found[2].message == "line 1 has the same id"
    assert isinstance(found[4], Failure)
    assert found[4].is_openai
    unchecked = RecordReader(replace(SPEC, check_ids=False))
    assert all(isinstance(unchecked(line), Record | None) for line in numbered(*values))


@given(st.lists(st.text(max_size=3), max_size=60))
@settings(max_examples=100, deadline=None)
def test_the_id_table_is_a_dictionary(ids: list[str]) -> None:
    table, known = IdTable(), dict[str, int]()
    for line, id in enumerate(ids, 1):
        assert table.add(id, line) == known.get(id)
        known.setdefault(id, line)
    assert len(table) == len(known)


def test_the_id_table_grows_and_stays_small() -> None:
    table, lines = IdTable(), range(1, 30_001)
    tracemalloc.start()
    try:
        for line in lines:
            assert table.add(f"id {line}", line) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(table.add(f"id {line}", 99_999) == line for line in lines)
    assert len(table) == len(lines)
    assert table.size <= len(lines) * 16 / 0.35
    assert peak <= 1.1 * table.size  # no growth had all of it twice


def table(path: Path, column: str) -> Iterator[Line]:
    with open_file(path) as source:
        yield from (line for line in rows(path.name, source, column) if line is not None)


@given(
    st.lists(st.lists(st.text('a,"\r\n é\x00', max_size=5), min_size=1, max_size=3), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.integers(1, 9),
)
@settings(max_examples=200)
def test_csv_in_any_pieces_with_pauses_has_the_rows_of_pythons_reader(
    cells: list[list[str]], end: str, size: int
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["prompt"], *cells])
    data = text.getvalue().encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    pauses: list[bytes | None] = [part for piece in pieces for part in (piece, None)]
    expected = list(csv.reader(io.StringIO(text.getvalue(), newline="")))
    lines = tables._RowLines(tables._text_lines(iter(pauses)))
    reader, found = csv.reader(lines), []
    while True:
        try:
            found.append(next(reader))
            lines.forget()
        except tables._NotYetError:
            continue
        except StopIteration:
            break
    assert found == expected


def test_a_csv_column_is_a_prompt_a_row(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], ["a", 'two\nlines, "é"'], [], ["b"], ["c", ""]])
    found = [json.loads(line.data) for line in table(path, "text")]
    assert found == [
        {"id": "a", "prompt": 'two\nlines, "é"'},
        {"id": "b", "prompt": None},
        {"id": "c", "prompt": ""},
    ]
    with pytest.raises(InputError, match=r'no column "prompt" \(found: id, text\)'):
        list(table(path, "prompt"))


@pytest.mark.parametrize("name", ["in.csv.gz", "in.csv"])  # the bytes tell, not the name
def test_a_gzipped_csv_has_the_rows_of_the_plain_one(tmp_path: Path, name: str) -> None:
    cells = [f'naïve "{n}",\r\n' * (n % 7) + "x" * (n * 97 % 9000) for n in range(900)]
    plain, packed = tmp_path / "plain.csv", tmp_path / name
    with plain.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(cells)])
    data = plain.read_bytes()
    packed.write_bytes(gzip.compress(data[:70_001]) + gzip.compress(data[70_001:]) + bytes(5))
    found = list(table(packed, "text"))
    assert found == list(table(plain, "text"))
    assert [json.loads(line.data)["prompt"] for line in found] == cells


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_csv_gives_its_complete_rows_and_then_an_error(
    tmp_path: Path, damage: str
) -> None:
    path, cells = tmp_path / "in.csv.gz", [os.urandom(99).hex() for _ in range(2000)]
    data = gzip.compress("\n".join(["prompt", *cells]).encode())
    path.write_bytes(data[:-9] if damage == "cut" else data[:150_000] + bytes(99) + data[150_099:])
    found = []
    with pytest.raises(RunError, match=r"ends early \(gzip (truncated|damaged)\)") as error:  # noqa: PT012
        for line in table(path, "prompt"):
            found.append(json.loads(line.data)["prompt"])
    assert error.value.problem.endswith(f" after row {len(found)}")
    assert len(found) == 1999 if damage == "cut" else len(found) > 1000
    assert found[:1000] == cells[:1000]


def test_a_gzip_bomb_of_a_csv_is_left_at_a_line_that_has_no_end(tmp_path: Path) -> None:
    path = tmp_path / "in.csv.gz"
    path.write_bytes(gzip.compress(b"prompt\na\n") + gzip.compress(b"b," * (4 << 20)) * 32)
    with open_file(path) as source:
        found = rows(path.name, source, "prompt")
        assert json.loads(next(found).data) == {"prompt": "a"}
        with pytest.raises(InputError, match=r"not CSV \(a line is longer than 33,554,432 char"):
            next(found)
        assert source.size
        assert source.position < source.size / 2


def test_a_csv_row_that_is_not_utf8_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"prompt\nok\n\xff\n")
    first, second = (parse(line, SPEC) for line in table(path, "prompt"))
    assert isinstance(first, Record)
    assert isinstance(second, Failure)
    assert second.code == "not_unicode"


def test_parquet_gives_its_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, the extra `parquet`")
    from pyarrow import parquet

    path, count = tmp_path / "in.parquet", 3000  # of several batches and row groups
    columns = {
        "text": pyarrow.array([f"naïve {n}" for n in range(count)]).dictionary_encode(),
        "id": pyarrow.array([f"r{n}" for n in range(count)], pyarrow.large_string()),
        "other": [n * 1.5 for n in range(count)],
    }
    parquet.write_table(pyarrow.table(columns), path, row_group_size=700)
    found = [(line.number, json.loads(line.data)) for line in table(path, "text")]
    assert found == [(n + 1, {"id": f"r{n}", "prompt": f"naïve {n}"}) for n in range(count)]
    with pytest.raises(InputError, match=r'no column "prompt" \(found: text, id, other\)'):
        list(table(path, "prompt"))


def test_parquet_cells_that_are_no_text_fail_alone(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, the extra `parquet`")
    from pyarrow import parquet

    path = tmp_path / "in.parquet"
    parquet.write_table(pyarrow.table({"id": [1, 2], "prompt": ["a", None]}), path)
    first, second = (parse(line, SPEC) for line in table(path, "prompt"))
    assert isinstance(first, Record)
    assert (first.id, first.prompt) == (1, "a")
    assert isinstance(second, Failure)
    assert (second.id, second.code) == (2, "wrong_type")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        list(table(path, "prompt"))


def test_parquet_without_pyarrow_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "in.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"Parquet needs pyarrow.*gptcli\[parquet\]"):
        list(table(tmp_path / "in.parquet", "prompt"))


def test_tables_are_known_by_their_names() -> None:
    assert is_table("a.CSV")
    assert is_table("/b/a.parquet")
    assert is_table("s3://b/a.parquet?region=x")
    assert is_table("a.csv.GZ")
    assert is_table("s3://b/a.csv.gz?region=x")
    assert not is_table("a.jsonl.gz")
    assert not is_table("a.jsonl")
    assert not is_table("s3://b/a.jsonl?like=in.csv")
    assert not is_table("-")
