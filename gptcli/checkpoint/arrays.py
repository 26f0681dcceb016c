"""Read a safetensors tensor into a new array, converting and checking it.

Reads with `pread`, never through a map: a file that shrinks or is rewritten meanwhile is an error,
not a signal or another model. A large tensor is read in pieces by a few threads, each piece
checked while it is in its core's cache.

An array's dtype says what it holds: float32, float16, uint16 for bfloat16 (NumPy has none of its
own), int8 and uint8 as in the file.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptcli.checkpoint.header import DTYPE_BITS, Header, TensorInfo
from gptcli.checkpoint.tensordata import open_unchanged, read_into, to_floats
from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.engine.quantize import bfloat16

Array = NDArray[Any]

CHUNK = 1 << 20  # bytes read at a time
_ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_NUMPY: dict[str, type[Any]] = {
    "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I8": np.int8, "U8": np.uint8,
}  # fmt: skip
_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_STORED_AS = {np.dtype(kind): name for name, kind in _NUMPY.items()}


def read_array(
    header: Header, info: TensorInfo, kept: str, *, check_finite: bool = True, threads: int = 1
) -> Array:
    """A tensor in the file's shape.

    Args:
        header: of the file, and what it was when it was checked.
        info: which tensor.
        kept: the dtype to convert to, by safetensors' name; integers keep theirs.
        check_finite: refuse NaN, infinities and values too large for the dtype (in F64 tensors the
            last is refused always).
        threads: that read.

    Raises:
        InputError: values that are not finite.
        RunError: the file changed while it was being read, or could not be read.
        MemoryError: there is none for it.
    """
    array = aligned(info.shape, _NUMPY[kept])
    flat, check = array.reshape(-1), check_finite or info.dtype == "F64"
    size = max(1, CHUNK // (DTYPE_BITS[info.dtype] // 8))
    with open_unchanged(header) as fd:

        def read(begin: int) -> None:
            _read_piece(fd, info, flat[begin : begin + size], begin, check)

        begins = range(0, info.numel, size)
        if threads == 1 or len(begins) < threads:
            for begin in begins:
                read(begin)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read, begins))  # raises the first error, in the file's order
    return array


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An empty array that begins at a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    space = np.empty(size + _ALIGNMENT, np.uint8)
    start = -space.ctypes.data % _ALIGNMENT
    return space[start : start + size].view(dtype).reshape(shape)


def safetensors_dtype(array: Array) -> str:
    """An array's dtype by safetensors' name."""
    return _STORED_AS[array.dtype]


def same_bytes(first: tuple[Header, TensorInfo], second: tuple[Header, TensorInfo]) -> bool:
    """Whether two tensors are equal bit for bit; stops at the first difference."""
    (header_a, a), (header_b, b) = first, second
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with open_unchanged(header_a) as fd_a, open_unchanged(header_b) as fd_b:
        for at in range(0, a.nbytes, CHUNK):
            count = min(CHUNK, a.nbytes - at)
            if os.pread(fd_a, count, a.start + at) != os.pread(fd_b, count, b.start + at):
                return False
    return True


def _read_piece(fd: int, info: TensorInfo, target: Array, begin: int, check: bool) -> None:
    kept, width = safetensors_dtype(target), DTYPE_BITS[info.dtype] // 8
    in_place = kept == info.dtype
    raw = target.view(np.uint8) if in_place else np.empty(len(target) * width, np.uint8)
    read_into(raw, fd, info.start + begin * width, info)
    values = target if in_place else _converted(raw, info.dtype, kept)
    if check and not _is_finite(values, kept):
        raise _not_finite(fd, info, kept)
    if not in_place:
        target[:] = values


def _converted(raw: NDArray[np.uint8], dtype: str, kept: str) -> Array:
    with np.errstate(over="ignore"):  # found where values are checked
        values = to_floats(raw, dtype).astype(np.float32, copy=False)
        if kept == "BF16":
            return bfloat16(values)
        return values.astype(np.float16) if kept == "F16" else values


def _is_finite(values: Array, kept: str) -> bool:
    """One pass: a sum is finite only if every value is; where it overflows, look at each."""
    if kept == "F32":
        with np.errstate(all="ignore"):
            return math.isfinite(values.sum()) or bool(np.isfinite(values).all())
    if kept in {"F16", "BF16"} and values.size:
        infinity = 0x7C00 if kept == "F16" else 0x7F80
        return int((values.view(np.uint16) & 0x7FFF).max()) < infinity
    return True


def _not_finite(fd: int, info: TensorInfo, kept: str) -> InputError:
    """The error, with the counts of NaN and infinite values in the whole tensor."""
    width = DTYPE_BITS[info.dtype] // 8
    nan = infinite = large = 0
    first: int | None = None
    for begin in range(0, info.numel, CHUNK):
        raw = np.empty(min(CHUNK, info.numel - begin) * width, np.uint8)
        read_into(raw, fd, info.start + begin * width, info)
        values = to_floats(raw, info.dtype)
        narrow = to_floats(_converted(raw, info.dtype, kept).view(np.uint8), kept)
        bad = ~np.isfinite(narrow)
        nan += int(np.isnan(values).sum())
        infinite += int(np.isinf(values).sum())
        large += int((bad & np.isfinite(values)).sum())
        if first is None and bad.any():
            first = begin + int(bad.argmax())
    found = [f"{nan:,} NaN"] * (nan > 0) + [f"{infinite:,} infinite"] * (infinite > 0)
    if not found:
        found = [f"{large:,} too large for {_NAMES[kept]}"]
    at = [int(n) for n in np.unravel_index(first or 0, info.shape)]
    problem = f'tensor "{shown(info.name)}" holds {" and ".join(found)} values (first at {at})'
    return InputError(shown(info.path), problem)
