"""Strict reading: regular files only, bounded, UTF-8, JSON without surprises."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.core.errors import InputError
from gptcli.core.files import decode_utf8, open_regular, read_bounded, read_exactly, strict_json

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        strict_json(text, "x.json")
    assert caught.value.where == "x.json"
    return caught.value.problem


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [(make_fifo, "named pipe"), (Path.mkdir, "directory"), (make_socket, "socket")],
)
def test_what_is_no_regular_file_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make(Path("it"))
    with pytest.raises(InputError, match=rf"^it: not a regular file \({kind}\)$"):
        read_bounded(Path("it"), 100)


def test_a_device_is_refused() -> None:
    with pytest.raises(InputError, match=r"not a regular file \(device\)"):
        read_bounded(Path(os.devnull), 100)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("absent", "no such file"),
        ("nul\0", "not a usable file name"),
        ("a" * 300, "File name too long"),
        ("file/below", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_a_name_that_does_not_open_is_one_clear_error(
    tmp_path: Path, name: str, problem: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError) as caught:
        read_bounded(tmp_path / name, 100)
    assert caught.value.problem == problem
    assert "\0" not in str(caught.value)


def test_a_symlink_to_a_regular_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("blob")
    assert read_bounded(tmp_path / "link", 3) == b"abc"


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would not end
    with pytest.raises(InputError, match=r"too large \(1,099,511,627,776 bytes, .* 1,000\)"):
        read_bounded(path, 1000)


def test_reading_stops_at_the_end_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with open_regular(tmp_path / "f") as fd:
        assert read_exactly(fd, 4, 3) == b"3456"
        assert read_exactly(fd, 100, 8) == b"89"
        assert read_exactly(fd, 1, 10) == b""


def test_the_descriptor_is_closed_after_use(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with open_regular(tmp_path / "f") as fd:
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_byte_order_mark_is_dropped() -> None:
    assert decode_utf8(b"\xef\xbb\xbfa", "f") == "a"


def test_text_that_is_not_utf8_names_line_and_byte() -> None:
    with pytest.raises(InputError, match=r"^f: line 3: not UTF-8 \(byte 0xff\)$"):
        decode_utf8(b"a\nb\nc\xffd\n", "f")


@given(st.binary(max_size=40))
def test_decoding_is_strict_utf8_or_an_input_error(data: bytes) -> None:
    try:
        text = decode_utf8(data, "f")
    except InputError:
        with pytest.raises(UnicodeDecodeError):
            data.decode("utf-8")
    else:
        assert text.encode() == data.removeprefix(b"\xef\xbb\xbf")


@given(JSON_VALUES)
def test_json_reads_what_the_library_wrote(value: object) -> None:
    assert strict_json(json.dumps(value), "f") == value
    assert strict_json(json.dumps(value, ensure_ascii=False, indent=1), "f") == value


@given(st.text('{}[]",:\\ \nabu0019.eE-+tfnNI\ufeff', max_size=30))
def test_json_is_the_librarys_or_an_input_error(text: str) -> None:
    try:
        value = strict_json(text, "f")
    except InputError:
        return
    assert value == json.loads(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1,\n "a": 1}', 'line 2: duplicate key "a"'),
        ('{"a": {"b": 1, "\\u0062": 2}}', 'line 1: duplicate key "b"'),
        ('[{"a":1},{"a":"a\\": {"},\n{"b":{"a":1},"a":2,\n"b":3}]', 'line 3: duplicate key "b"'),
        ('{"\\u001b[31m": 1, "\\u001b[31m": 1}', 'line 1: duplicate key "\\x1b[31m"'),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ("1" * 5000, "an integer has more than 4,300 digits"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ('{"a": 1,}', "line 1: not JSON"),
        ("", "line 1: not JSON"),
        ("{}\n\n{}", "line 3: not JSON"),
        ('{"a\n": 1}', "line 1: not JSON"),
    ],
)
def test_json_beyond_the_standard_is_refused(text: str, problem: str) -> None:
    assert refusal(text).startswith(problem)


def test_the_same_key_in_two_objects_is_no_duplicate() -> None:
    assert strict_json('[{"a": 1}, {"a": {"a": 2}}]', "f") == [{"a": 1}, {"a": {"a": 2}}]
