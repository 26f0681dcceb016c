"""Read a safetensors tensor into a new array, converting its dtype and checking its values.

Reads with `pread`, not with `mmap`: a file that shrinks or is rewritten meanwhile is an error, and
not a SIGBUS or another model. A large tensor is read in chunks by a few threads, each chunk checked
while it is in a core's cache.

Dtypes of arrays: float32, float16, int8 and uint8 as in the file, and uint16 for bfloat16, which
NumPy lacks.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptcli.checkpoint.header import DTYPE_BITS, Header, TensorInfo
from gptcli.checkpoint.tensordata import open_unchanged, read_into, to_floats
from gptcli.core.arrays import Array, aligned
from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.engine.quantize import bfloat16

CHUNK = 1 << 20  # bytes read at a time
_NUMPY: dict[str, type[Any]] = {
    "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I8": np.int8, "U8": np.uint8,
}  # fmt: skip
_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_STORED_AS = {np.dtype(kind): name for name, kind in _NUMPY.items()}


def read_array(
    header: Header, info: TensorInfo, dtype: str, *, check_finite: bool = True, threads: int = 1
) -> Array:
    """A tensor in the file's shape.

    Args:
        header: of the file.
        info: of the tensor.
        dtype: of the array, by safetensors' name; that of the file for integers.
        check_finite: refuse NaN, infinities and values too large for the dtype (in F64 tensors the
            last are always refused).
        threads: number of reading threads.

    Raises:
        InputError: values that are not finite.
        RunError: the file changed while it was being read, or could not be read.
        MemoryError: not enough memory for the array.
    """
    array = aligned(info.shape, _NUMPY[dtype])
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


def safetensors_dtype(array: Array) -> str:
    """The safetensors name of an array's dtype."""
    return _STORED_AS[array.dtype]


def same_bytes(first: tuple[Header, TensorInfo], second: tuple[Header, TensorInfo]) -> bool:
    """Whether two tensors are equal bit for bit; stops at the first difference."""
    (header_a, a), (header_b, b) = first, second
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with open_unchanged(header_a) as fd_a, open_unchanged(header_b) as fd_b:
        for offset in range(0, a.nbytes, CHUNK):
            count = min(CHUNK, a.nbytes - offset)
            if os.pread(fd_a, count, a.start + offset) != os.pread(fd_b, count, b.start + offset):
                return False
    return True


def _read_piece(fd: int, info: TensorInfo, target: Array, begin: int, check: bool) -> None:
    dtype, itemsize = safetensors_dtype(target), DTYPE_BITS[info.dtype] // 8
    in_place = dtype == info.dtype
    raw = target.view(np.uint8) if in_place else np.empty(len(target) * itemsize, np.uint8)
    read_into(raw, fd, info.start + begin * itemsize, info)
    values = target if in_place else _converted(raw, info.dtype, dtype)
    if check and not _is_finite(values, dtype):
        raise _not_finite(fd, info, dtype)
    if not in_place:
        target[:] = values


def _converted(raw: NDArray[np.uint8], stored: str, dtype: str) -> Array:
    """Bytes of the dtype `stored` → an array of `dtype`."""
    # `_is_finite` reports an overflow; a signalling NaN becomes a quiet one.
    with np.errstate(over="ignore", invalid="ignore"):
        values = to_floats(raw, stored).astype(np.float32, copy=False)
        if dtype == "BF16":
            return bfloat16(values)
        return values.astype(np.float16) if dtype == "F16" else values


def _is_finite(values: Array, dtype: str) -> bool:
    """One pass: a finite sum means finite values; each is looked at only if the sum overflows."""
    if dtype == "F32":
        with np.errstate(all="ignore"):
            return math.isfinite(values.sum()) or bool(np.isfinite(values).all())
    if dtype in {"F16", "BF16"} and values.size:
        infinity = 0x7C00 if dtype == "F16" else 0x7F80
        return int((values.view(np.uint16) & 0x7FFF).max()) < infinity
    return True


def _not_finite(fd: int, info: TensorInfo, dtype: str) -> InputError:
    """The error, with the counts of NaN and infinite values in the whole tensor."""
    itemsize = DTYPE_BITS[info.dtype] // 8
    nan = infinite = large = 0
    first: int | None = None
    for begin in range(0, info.numel, CHUNK):
        raw = np.empty(min(CHUNK, info.numel - begin) * itemsize, np.uint8)
        read_into(raw, fd, info.start + begin * itemsize, info)
        values = to_floats(raw, info.dtype)
        narrow = to_floats(_converted(raw, info.dtype, dtype).view(np.uint8), dtype)
        bad = ~np.isfinite(narrow)
        nan += int(np.isnan(values).sum())
        infinite += int(np.isinf(values).sum())
        large += int((bad & np.isfinite(values)).sum())
        if first is None and bad.any():
            first = begin + int(bad.argmax())
    found = [f"{nan:,} NaN"] * (nan > 0) + [f"{infinite:,} infinite"] * (infinite > 0)
    if not found:
        found = [f"{large:,} too large for {_NAMES[dtype]}"]
    at = [int(n) for n in np.unravel_index(first or 0, info.shape)]
    problem = f'tensor "{shown(info.name)}" holds {" and ".join(found)} values (first at {at})'
    return InputError(shown(info.path), problem)
