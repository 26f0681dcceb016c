"""Safetensors files made byte by byte, good and bad, for the tests of whoever reads them."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U8": 1}


def raw(header: bytes | object, data: bytes = b"") -> bytes:
    """Length, header, data; a header that is not bytes is written as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def zeros(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str] | None = None) -> bytes:
    """A file of zeros with these tensors, F32 unless `dtypes` says otherwise."""
    header, at = {}, 0
    for name, shape in shapes.items():
        dtype = (dtypes or {}).get(name, "F32")
        size = prod(shape) * BYTES[dtype]
        header[name] = entry(dtype, list(shape), at, at + size)
        at += size
    return raw(header, bytes(at))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
