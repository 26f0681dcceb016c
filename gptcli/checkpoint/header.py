"""Parse and check the headers of safetensors files, and the index of their shards.

Every value of a header is checked before it is used, and no tensor data is read. A file that passes
is accepted by the safetensors library too.
"""

import os
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from gptcli.core.errors import InputError
from gptcli.core.escape import listed, shown
from gptcli.core.files import decode_utf8, open_regular, read_bounded, read_exactly, strict_json
from gptcli.core.units import plural

MAX_HEADER = 1 << 24
MAX_TENSORS = 100_000
MAX_NAME = 512
MAX_RANK = 8
MAX_DIMENSION = 1 << 40
_MAX_MARKS = 4_000_000  # quotes, brackets and commas of JSON: 100,000 tensors have two million

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
_FIELDS = {"dtype", "shape", "data_offsets"}

_PICKLE = (
    "this is a PyTorch pickle; gptcli reads only safetensors and never unpickles",
    "Save the model as safetensors",
)
_PAGE = ("this is a web page, not weights", "Download the file itself")
_ARCHIVE = "Unpack it first"

# Other formats: first bytes, description, what to do.
_OTHER_FORMATS: tuple[tuple[bytes, tuple[str, str]], ...] = (
    (
        b"version https://git-lfs",
        ("this is a Git LFS pointer, not weights", 'Run "git lfs pull"'),
    ),
    (b"<!doctype html", _PAGE),
    (b"<html", _PAGE),
    (b"<?xml", ("this is XML, perhaps a server's error, not weights", "Download it again")),
    (b"pk\x03\x04", _PICKLE),  # torch.save writes a ZIP around its pickle
    (b"\x80\x02", _PICKLE),
    (b"\x80\x03", _PICKLE),
    (b"\x80\x04", _PICKLE),
    (b"\x80\x05", _PICKLE),
    (b"gguf", ("this is a GGUF file of llama.cpp", "gptcli reads only safetensors")),
    (b"\x1f\x8b", ("this is a gzip archive", _ARCHIVE)),
    (b"\x28\xb5\x2f\xfd", ("this is a Zstandard archive", _ARCHIVE)),
    (b"\xfd7zxz", ("this is an xz archive", _ARCHIVE)),
    (b"\x93numpy", ("this is a NumPy array", "gptcli reads only safetensors")),
    (b"\x89hdf", ("this is an HDF5 file, as TensorFlow saves", "gptcli reads only safetensors")),
    (b"{", ("this is JSON, not weights", "A config goes to `config`")),
)

Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's entry in the header; `start` and `end` are byte offsets in the file `path`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    path: Path

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """The checked header of a safetensors file.

    Attributes:
        path: the file.
        size: of the file in bytes.
        header_bytes: before the first tensor's data.
        metadata: `__metadata__`.
        tensors: by name, in the order of their data.
        stamp: identifies this version of the file (`stamp_of`).
    """

    path: Path
    size: int
    header_bytes: int
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    stamp: Stamp


def stamp_of(fd: int) -> Stamp:
    """Size, modification time in nanoseconds, inode and device of an open file."""
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def read_headers(path: Path) -> list[Header]:
    """The header of a .safetensors file, or those of all shards of a .safetensors.index.json.

    Raises:
        InputError: as `read_header`; or index and shards do not match.
    """
    return _read_shards(path) if path.suffix.lower() == ".json" else [read_header(path)]


def read_header(path: Path) -> Header:
    """The checked header of one safetensors file.

    Raises:
        InputError: not a safetensors file, damaged, or beyond the limits of this module.
    """
    with open_regular(path) as fd:
        stamp = stamp_of(fd)
        length = _header_length(fd, stamp[0], path)
        raw = read_exactly(fd, length, 8)
    if len(raw) < length:
        _refuse_short(path, 8 + length, 8 + len(raw))
    entries = _bounded_json(decode_utf8(raw, path), path)
    metadata = _metadata(entries.pop("__metadata__", {}), path)
    if len(entries) > MAX_TENSORS:
        _refuse(path, f"{len(entries):,} tensors, expected at most {MAX_TENSORS:,}")
    tensors = [_tensor(name, entry, 8 + length, path) for name, entry in entries.items()]
    tensors.sort(key=lambda info: (info.start, info.end))
    _check_ranges(tensors, 8 + length, stamp[0], path)
    return Header(path, stamp[0], 8 + length, metadata, {t.name: t for t in tensors}, stamp)


def _header_length(fd: int, size: int, path: Path) -> int:
    """Bytes of the header's JSON, checked against the file's size and first characters."""
    first = read_exactly(fd, 512, 0)
    length = int.from_bytes(first[:8], "little")
    if size >= 10 and 2 <= length <= min(size - 8, MAX_HEADER) and _begins_json(first[8:]):
        return length
    if found := _other_format(first):
        raise InputError(shown(path), *found)
    if MAX_HEADER >= length > size - 8:
        _refuse_short(path, 8 + length, size)
    problem = 'not a safetensors file (the header does not begin with "{")'
    if size < 10:
        problem = f"too short for a safetensors file ({plural(size, 'byte')})"
    elif length > MAX_HEADER:
        most = f", expected at most {MAX_HEADER}" if length <= size - 8 else ""
        problem = f"header declares {length} bytes, file has {size}{most}"
    raise InputError(shown(path), problem)


def _begins_json(text: bytes) -> bool:
    """The format requires a brace first, but some writers begin with spaces, which are accepted."""
    return text.lstrip(b" \t\r\n").startswith(b"{")


def _other_format(first: bytes) -> tuple[str, str] | None:
    """Description and advice for another file format, by its first bytes; None if unknown."""
    if not first:
        return "the file is empty", "Download it again"
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    return next((found for begin, found in _OTHER_FORMATS if text.startswith(begin)), None)


def _bounded_json(text: str, path: Path) -> dict[str, Any]:
    """A JSON object without duplicate keys; one with too many values is not parsed."""
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    marks = unescaped.count('"')
    if marks <= _MAX_MARKS:
        bare = "".join(unescaped.split('"')[::2])  # the text outside of strings
        marks += sum(bare.count(mark) for mark in "{[,")
        if "-" in bare:  # Python reads -0 as an integer, the safetensors library does not
            _refuse(path, "the header holds a negative number")
    if marks > _MAX_MARKS:
        _refuse(path, f"holds more values than {MAX_TENSORS:,} tensors need")
    parsed = strict_json(text, path, _duplicate)
    if not isinstance(parsed, dict):
        _refuse(path, "not a JSON object")
    return parsed


def _duplicate(_line: int, key: str) -> str:
    return f'{"key" if key in _FIELDS else "tensor"} "{shown(key)}" is listed twice'


def _metadata(value: object, path: Path) -> dict[str, str]:
    if value is None:  # some writers' empty metadata
        return {}
    if not isinstance(value, dict):
        _refuse(path, "__metadata__ is not an object")
    for key, text in value.items():
        if not isinstance(text, str) or not (_is_unicode(key) and _is_unicode(text)):
            _refuse(path, f'metadata "{shown(key)}" is not text')
    return value


def _tensor(name: str, entry: object, data: int, path: Path) -> TensorInfo:
    """One checked entry; `data` is the byte at which the tensor data begins."""
    if not _is_unicode(name) or len(name.encode()) > MAX_NAME:
        _refuse(path, f'tensor "{shown(name)}": the name is over {MAX_NAME} bytes or not Unicode')
    tensor = f'tensor "{shown(name)}"'
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        _refuse(path, f"{tensor}: expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _refuse(path, f"{tensor}: unknown dtype {shown(dtype)}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        expected = f"at most {MAX_RANK} sizes from 0 to 2^40"
        _refuse(path, f"{tensor}: shape {shown(shape)}, expected {expected}")
    if not _are_sizes(offsets, 1 << 63) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"{tensor}: data_offsets {shown(offsets)}, expected a start and an end")
    bits, has = prod(shape) * DTYPE_BITS[dtype], offsets[1] - offsets[0]
    if bits != 8 * has:
        needs = f"{bits // 8:,} bytes" if bits % 8 == 0 else f"{bits:,} bits"
        _refuse(path, f"{tensor}: shape {shape} of {dtype} needs {needs}, its range has {has:,}")
    return TensorInfo(name, dtype, tuple(shape), data + offsets[0], data + offsets[1], path)


def _are_sizes(value: object, limit: int = MAX_DIMENSION) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < limit for n in value)


def _is_unicode(text: str) -> bool:
    r"""Whether the text has no lone surrogate, which JSON can write as \ud800."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _check_ranges(tensors: list[TensorInfo], data: int, size: int, path: Path) -> None:
    """Ranges follow one another from the header to the end of the file, without gap or overlap."""
    if tensors and tensors[0].start != data:
        _refuse(path, f'tensor "{shown(tensors[0].name)}" does not begin right after the header')
    for before, after in pairwise(tensors):
        if after.start != before.end:
            relation = "overlaps" if after.start < before.end else "leaves a gap after"
            _refuse(path, f'tensor "{shown(after.name)}" {relation} "{shown(before.name)}"')
    end = tensors[-1].end if tensors else data
    if end > size:
        _refuse_short(path, end, size)
    if end < size:
        _refuse(path, f"{plural(size - end, 'byte')} after the last tensor, expected none")


def _read_shards(path: Path) -> list[Header]:
    """Every shard of an index; each tensor must be in the shard that the index names."""
    weight_map = _weight_map(path)
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        shards.setdefault(shard, set()).add(tensor)
    if missing := [shard for shard in shards if not (path.parent / shard).exists()]:
        problem = f"{len(missing)} of {plural(len(shards), 'shard')} missing ({listed(missing)})"
        raise InputError(shown(path), problem, "Download what is missing")
    headers = [read_header(path.parent / shard) for shard in shards]
    for header, (shard, tensors) in zip(headers, shards.items(), strict=True):
        if lacking := sorted(tensors - header.tensors.keys()):
            _refuse(path, f'shard "{shown(shard)}" lacks {listed(lacking)}')
        for extra in sorted(header.tensors.keys() - tensors):
            other = weight_map.get(extra)
            where = f'listed in "{shown(other)}"' if other else "not in the index"
            _refuse(path, f'tensor "{shown(extra)}" is in shard "{shown(shard)}" but {where}')
    return headers


def shards_of(index: Path) -> list[str]:
    """The file names in an index of shards; empty if the index file does not exist.

    Raises:
        InputError: it is malformed, or names files in other directories.
    """
    return list(dict.fromkeys(_weight_map(index).values())) if index.exists() else []


def _weight_map(path: Path) -> dict[str, str]:
    index = _bounded_json(decode_utf8(read_bounded(path, MAX_HEADER), path), path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        _refuse(path, "has no weight_map, which maps tensors to shards")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _is_plain(shard):
            _refuse(path, f'shard name "{shown(shard)}" is not a plain file name')
    return weight_map


def _is_plain(shard: str) -> bool:
    """Whether it names a file in the index's own directory; a link, as in Hub caches, is fine."""
    if any(letter in "/\\\0" for letter in shard) or not _is_unicode(shard):
        return False
    return shard.endswith(".safetensors") and len(shard.encode()) <= 255


def _refuse_short(path: Path, expected: int, present: int) -> NoReturn:
    problem = f"truncated ({plural(present, 'byte')}, expected {expected:,})"
    raise InputError(shown(path), problem, "Download it again")


def _refuse(path: Path, problem: str) -> NoReturn:
    raise InputError(shown(path), problem)
