"""Read tensor data of safetensors files as NumPy arrays, a piece at a time.

Reads with `pread`, not with `mmap`: a file that shrinks or is rewritten meanwhile is an error, and
not a SIGBUS. Needs memory for one piece, whatever the size of the tensor.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptcli.checkpoint.header import DTYPE_BITS, Header, TensorInfo, stamp_of
from gptcli.core.errors import RunError
from gptcli.core.escape import shown
from gptcli.core.files import open_regular

PIECE = 1 << 17  # elements; two float64 copies of them stay in the processor's cache

Values = NDArray[np.float32] | NDArray[np.float64]

_NUMPY = {
    "BOOL": "u1", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4",
    "I64": "<i8", "U64": "<u8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
    "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1",
}  # fmt: skip


def can_read(dtype: str) -> bool:
    """Whether values of a safetensors dtype can be read; 4- and 6-bit and complex ones cannot."""
    return dtype in _NUMPY


@contextmanager
def open_unchanged(header: Header) -> Iterator[int]:
    """Context with the open file of a header; checks at start and end that it is unchanged.

    Raises:
        RunError: it changed, or cannot be read.
    """
    with open_regular(header.path) as fd:
        try:
            _require_unchanged(fd, header)
            yield fd
            _require_unchanged(fd, header)
        except OSError as error:
            raise RunError(shown(header.path), error.strerror or str(error)) from None


def read_pieces(fd: int, info: TensorInfo, size: int = PIECE) -> Iterator[Values]:
    """The values of a tensor in the file's order, `size` elements at a time.

    float32 for floats that fit it, float64 for F64 and integers. The memory of an array is reused
    for the next one.

    Raises:
        RunError: the file is shorter than it was.
    """
    width = DTYPE_BITS[info.dtype] // 8
    space = np.empty(min(size, info.numel) * width, np.uint8)
    for begin in range(0, info.numel, size):
        raw = space[: min(size, info.numel - begin) * width]
        read_into(raw, fd, info.start + begin * width, info)
        yield to_floats(raw, info.dtype)


def read_columns(fd: int, info: TensorInfo, first: int, last: int) -> Values:
    """Columns `first` to `last` (exclusive) of a matrix → (rows, last - first)."""
    rows, columns = info.shape
    step = max(1, PIECE // columns)
    found = np.empty((rows, last - first), np.float64 if info.dtype == "F64" else np.float32)
    for row, piece in zip(range(0, rows, step), read_pieces(fd, info, step * columns), strict=True):
        found[row : row + step] = piece.reshape(-1, columns)[:, first:last]
    return found


def _require_unchanged(fd: int, header: Header) -> None:
    """Raise `RunError` if the open file has changed since its header was read."""
    if stamp_of(fd) != header.stamp:
        raise RunError(shown(header.path), "changed while it was being read", "Try again")


def read_into(raw: NDArray[np.uint8], fd: int, offset: int, info: TensorInfo) -> None:
    """Fill `raw` from `offset` on.

    Raises:
        RunError: the file of this tensor is shorter than it was.
    """
    space = raw.data
    while space:
        count = os.preadv(fd, [space], offset)
        if count == 0:
            raise RunError(shown(info.path), "changed while it was being read", "Try again")
        space, offset = space[count:], offset + count


def to_floats(raw: NDArray[np.uint8], dtype: str) -> Values:
    """Bytes of a safetensors dtype → float32 for floats that fit it, float64 for F64, integers."""
    values: NDArray[Any] = raw.view(_NUMPY[dtype])
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return _widened(values, dtype)


def _widened(values: NDArray[Any], dtype: str) -> Values:
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype.startswith("F8"):
        return _float8_table(dtype)[values]
    if dtype in {"F32", "F16"}:
        return values.astype(np.float32, copy=False)
    return values.astype(np.float64, copy=False)


def _float8_table(dtype: str) -> NDArray[np.float32]:
    """The value of each of the 256 codes of a float8 dtype.

    Micikevicius et al. 2022 (arXiv:2209.05433); for E8M0, a power of two, the Open Compute
    Project's microscaling formats 1.0.
    """
    code = np.arange(256)
    if dtype == "F8_E8M0":
        return np.where(code == 255, np.nan, 2.0 ** (code - 127.0)).astype(np.float32)
    bits = 3 if dtype == "F8_E4M3" else 2  # of the mantissa
    bias, top = (7, 15) if dtype == "F8_E4M3" else (15, 31)
    mantissa, exponent = code % (1 << bits), (code & 127) >> bits
    normal = (1 + mantissa / (1 << bits)) * 2.0 ** (exponent - bias)
    subnormal = mantissa * 2.0 ** (1 - bias - bits)
    value = np.where(exponent == 0, subnormal, normal)
    if dtype == "F8_E4M3":  # no infinities: of the top exponent only the last code is NaN
        value[(exponent == top) & (mantissa == 7)] = np.nan
    else:
        value[exponent == top] = np.where(mantissa[exponent == top] == 0, np.inf, np.nan)
    return np.where(code > 127, -value, value).astype(np.float32)
