"""Headers and shard indexes: what is accepted is right, what is wrong is one clear InputError."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from weight_files import entry, raw, write, zeros

from gptcli.checkpoint.header import MAX_HEADER, read_header, read_headers
from gptcli.core.errors import InputError

A = entry("F32", [2, 3], 0, 24)
VALID = raw({"__metadata__": {"format": "pt"}, "a": A, "b": entry("F16", [2], 24, 28)}, bytes(28))
HEADER_END = 8 + int.from_bytes(VALID[:8], "little")


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_headers(path)
    return str(caught.value)


def test_a_header_is_what_the_library_wrote(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    kinds = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]
    tensors = {f"t{i}": torch.zeros(2, i).to(kind) for i, kind in enumerate(kinds)}
    save_file(tensors | {"scalar": torch.tensor(1.0)}, path, metadata={"format": "pt", "é": "ü"})
    header = read_header(path)
    assert header.metadata == {"format": "pt", "é": "ü"}
    assert header.size == path.stat().st_size == max(t.end for t in header.tensors.values())
    for name, view in safetensors.deserialize(path.read_bytes()):
        info = header.tensors[name]
        assert (info.dtype, list(info.shape)) == (view["dtype"], view["shape"])
        assert info.nbytes == len(view["data"])
    assert header.tensors["scalar"].numel == 1


@pytest.mark.parametrize(
    "data",
    [
        raw(b"{}"),
        raw(b"{}   \n"),
        raw(b" \n {}"),
        raw(b'{"__metadata__":null}'),
        raw({"x": entry("U8", [0], 0, 0)}),
    ],
)
def test_files_without_data_are_files(tmp_path: Path, data: bytes) -> None:
    safetensors.deserialize(data)
    assert read_header(write(tmp_path / "x.safetensors", data)).size == len(data)


BROKEN = {
    "empty": (b"", "the file is empty. Download it again"),
    "short": (b"\x02\0\0\0\0\0\0\0{", "truncated (9 bytes, expected 10). Download it again"),
    "words": (b"Entry not found", "header declares 8029390891631537733 bytes, file has 15"),
    "huge length": (
        (2**63 - 1).to_bytes(8, "little") + bytes(4088),
        "header declares 9223372036854775807 bytes, file has 4096",
    ),
    "long header": (
        raw(b"{" + b" " * MAX_HEADER),
        f"header declares {MAX_HEADER + 1} bytes, file has {MAX_HEADER + 9}, expected at most",
    ),
    "leading text": (raw(b"x{}"), 'the header does not begin with "{"'),
    "array": (raw(b"[]"), 'the header does not begin with "{"'),
    "not JSON": (raw(b"{nothing}"), "line 1: not JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "line 1: not UTF-8 (byte 0xff)"),
    "constant": (raw(b'{"a": NaN}'), "NaN is not a JSON number"),
    "negative zero": (
        raw(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'),
        "the header holds a negative number",
    ),
    "deep": (raw(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "twice": (
        raw(b'{"wte":%(a)b,"wt\\u0065":%(a)b}' % {b"a": json.dumps(A).encode()}, bytes(24)),
        'tensor "wte" is listed twice',
    ),
    "dtype twice": (raw(b'{"a":{"dtype":"U8","dtype":"F32"}}'), 'key "dtype" is listed twice'),
    "metadata list": (raw({"__metadata__": []}), "__metadata__ is not an object"),
    "metadata number": (raw({"__metadata__": {"n": 1}}), 'metadata "n" is not text'),
    "entry": (raw({"a": 1}), 'tensor "a": expected exactly dtype, shape and data_offsets'),
    "extra key": (raw({"a": A | {"x": 1}}, bytes(24)), "expected exactly dtype, shape"),
    "lone surrogate": (raw(b'{"\\ud800":%b}' % json.dumps(A).encode(), bytes(24)), "not Unicode"),
    "long name": (raw({"é" * 257: A}, bytes(24)), "the name is over 512 bytes"),
    "escapes": (raw({"a\x1b[31m": 1}), r'tensor "a\x1b[31m": expected'),
    "dtype": (raw({"a": entry("F31", [2, 3], 0, 24)}, bytes(24)), 'tensor "a": unknown dtype F31'),
    "dtype kind": (raw({"a": A | {"dtype": ["F32"]}}, bytes(24)), "unknown dtype"),
    "float size": (raw({"a": entry("F32", [2.0, 3], 0, 24)}, bytes(24)), "shape [2.0, 3]"),
    "true size": (raw({"a": entry("F32", [True, 6], 0, 24)}, bytes(24)), "shape [True, 6]"),
    "large size": (raw({"a": entry("U8", [0, 1 << 40], 0, 0)}), "sizes from 0 to 2^40"),
    "rank": (raw({"a": entry("U8", [1] * 9, 0, 1)}, b"0"), "expected at most 8 sizes"),
    "offsets": (raw({"a": A | {"data_offsets": [0]}}, bytes(24)), "data_offsets [0], expected"),
    "backwards": (raw({"a": entry("F32", [2, 3], 24, 0)}, bytes(24)), "data_offsets [24, 0]"),
    "bytes": (
        raw({"x": entry("F32", [2, 3], 0, 20)}, bytes(20)),
        'tensor "x": shape [2, 3] of F32 needs 24 bytes, its range has 20',
    ),
    "overflow": (
        raw({"x": entry("U8", [1 << 32, 1 << 32], 0, 0)}),
        "needs 18,446,744,073,709,551,616 bytes, its range has 0",
    ),
    "bits": (raw({"x": entry("F4", [3], 0, 1)}, b"0"), "shape [3] of F4 needs 12 bits"),
    "late": (raw({"x": entry("U8", [1], 1, 2)}, b"00"), '"x" does not begin right after the'),
    "gap": (
        raw({"x": entry("U8", [1], 0, 1), "y": entry("U8", [1], 2, 3)}, b"000"),
        'tensor "y" leaves a gap after "x"',
    ),
    "overlap": (
        raw({"x": entry("U8", [2], 0, 2), "y": entry("U8", [2], 1, 3)}, b"000"),
        'tensor "y" overlaps "x"',
    ),
    "cut": (VALID[:-1], f"truncated ({len(VALID) - 1} bytes, expected {len(VALID)})"),
    "trailing": (VALID + b"PK", "2 bytes after the last tensor, expected none"),
    "trailing only": (raw(b"{}", b"0"), "1 byte after the last tensor"),
    "many tensors": (
        raw({f"{i}": entry("U8", [0], 0, 0) for i in range(100_001)}),
        "100,001 tensors, expected at most 100,000",
    ),
    "LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        'this is a Git LFS pointer, not weights. Run "git lfs pull"',
    ),
    "page": (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "this is a web page"),
    "zip": (b"PK\x03\x04\x14\0\0\0\0\0", "a PyTorch pickle; gptcli reads only safetensors and"),
    "pickle": (b"\x80\x02}q\x00.\0\0\0\0", "never unpickles. Save the model as safetensors"),
    "GGUF": (b"GGUF\x03\0\0\0\0\0\0\0", "this is a GGUF file"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "this is a gzip archive"),
    "numpy": (b"\x93NUMPY\x01\0v\0{'descr'", "this is a NumPy array"),
    "JSON": (b'{"emb_dim": 768}', "this is JSON, not weights. A config goes to `config`"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_name_and_rule(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = write(tmp_path / "x.safetensors", content)
    found = refusal(path)
    assert found.startswith(f"{path}: ")
    assert message in found
    assert not any(ord(letter) < 32 for letter in found)


@pytest.mark.parametrize("unit", [b"[],", b'"",', b"1,", b'"a":{},', b"[", b'"a":"b",', b'\\"'])
def test_a_header_made_to_fill_the_memory_is_refused_unparsed(tmp_path: Path, unit: bytes) -> None:
    path = write(tmp_path / "x.safetensors", raw(b'{"x":[' + unit * (MAX_HEADER // len(unit) - 9)))
    tracemalloc.start()
    try:
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_HEADER
    finally:
        tracemalloc.stop()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length in range(len(VALID)):
        refusal(write(path, VALID[:length]))
    assert read_header(write(path, VALID)).header_bytes == HEADER_END


WORDS = r'0~-0~1e0~[~]~{~}~,~"~\~ ~null~"a"~"U8"~"F4"~"\ud800"~24~28~18446744073709551616'
EDITS = st.lists(
    st.tuples(
        st.integers(0, HEADER_END),
        st.integers(0, 4),
        st.one_of(
            st.binary(max_size=4),
            st.sampled_from([word.encode() for word in WORDS.split("~")]),
        ),
    ),
    max_size=4,
)


@given(edits=EDITS, keep_length=st.booleans())
@example(edits=[], keep_length=True)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_accepted_the_library_accepts_too(
    tmp_path: Path, edits: list[tuple[int, int, bytes]], keep_length: bool
) -> None:
    content = bytearray(VALID)
    for at, gone, new in edits:
        content[at : at + gone] = new
    if not keep_length:
        content[:8] = (len(content) - 8 - 28).to_bytes(8, "little", signed=True)
    path = write(tmp_path / "x.safetensors", bytes(content))
    try:
        header = read_header(path)
    except InputError:
        assert edits
        return
    theirs = {
        n: (v["dtype"], tuple(v["shape"])) for n, v in safetensors.deserialize(bytes(content))
    }
    assert theirs == {n: (t.dtype, t.shape) for n, t in header.tensors.items()}


@pytest.mark.timeout(20)
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "not a regular file (named pipe)" in refusal(tmp_path / "pipe.safetensors")
    assert "not a regular file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.safetensors")


def write_index(directory: Path, weight_map: object) -> Path:
    content = (
        weight_map if isinstance(weight_map, bytes) else json.dumps({"weight_map": weight_map})
    )
    path = directory / "model.safetensors.index.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


INDEXES = {
    "parent": ({"a": "../../x.safetensors"}, 'name "../../x.safetensors" is not a plain file name'),
    "absolute": ({"a": "/tmp/x.safetensors"}, "is not a plain file name"),
    "backslash": ({"a": "..\\x.safetensors"}, "is not a plain file name"),
    "NUL": ({"a": "\0.safetensors"}, r'shard name "\x00.safetensors" is not a plain file name'),
    "surrogate": (b'{"weight_map":{"a":"\\ud800.safetensors"}}', "is not a plain file name"),
    "number": ({"a": 7}, 'shard name "7" is not a plain file name'),
    "suffix": ({"a": "one.bin"}, 'shard name "one.bin" is not a plain file name'),
    "long": ({"a": "x" * 244 + ".safetensors"}, "is not a plain file name"),
    "none": ({}, "has no weight_map, which maps tensors to shards"),
    "list": (["one.safetensors"], "has no weight_map, which maps tensors to shards"),
    "not an object": (b"[]", "not a JSON object"),
    "twice": (
        b'{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}',
        '"a" is listed twice',
    ),
    "missing": (
        {"a": "one.safetensors", "b": "three.safetensors"},
        "1 of 2 shards missing (three.safetensors). Download what is missing",
    ),
    "all missing": (
        {"a": "four.safetensors", "b": "three.safetensors"},
        "2 of 2 shards missing (four.safetensors, three.safetensors)",
    ),
    "lacks": (
        {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"},
        'shard "two.safetensors" lacks c',
    ),
    "unlisted": ({"a": "one.safetensors"}, None),
    "extra": (
        {"b": "two.safetensors", "x": "both.safetensors"},
        '"a" is in shard "both.safetensors"',
    ),
    "two": (
        {"a": "one.safetensors", "x": "both.safetensors"},
        '"a" is in shard "both.safetensors" but listed in "one.safetensors"',
    ),
}


@pytest.mark.parametrize(("weight_map", "message"), INDEXES.values(), ids=INDEXES)
def test_an_index_and_its_shards_agree(
    tmp_path: Path, weight_map: object, message: str | None
) -> None:
    write(tmp_path / "one.safetensors", zeros({"a": (2,)}))
    write(tmp_path / "two.safetensors", zeros({"b": (2,)}))
    write(tmp_path / "both.safetensors", zeros({"a": (2,), "x": (2,)}))
    path = write_index(tmp_path, weight_map)
    if message is None:
        assert [set(header.tensors) for header in read_headers(path)] == [{"a"}]
    else:
        assert message in refusal(path)


def test_a_shard_may_be_a_link_as_in_a_hub_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    write(tmp_path / "blobs" / "0123", zeros({"a": (2,)}))
    (tmp_path / "snapshot" / "one.safetensors").symlink_to("../blobs/0123")
    (header,) = read_headers(write_index(tmp_path / "snapshot", {"a": "one.safetensors"}))
    assert header.tensors["a"].shape == (2,)
