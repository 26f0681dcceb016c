"""New arrays for weights: aligned, and side by side in large blocks of memory."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_CACHE_LINE = 64  # bytes, and the widest vector
_SLAB = 16 << 20  # bytes


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array that begins at a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    space = np.empty(size + _CACHE_LINE, np.uint8)
    start = -space.ctypes.data % _CACHE_LINE
    return space[start : start + size].view(dtype).reshape(shape)


class Slabs:
    """Allocates arrays side by side in large blocks.

    NumPy asks for huge pages where an array has megabytes, which most of a small model's matrices
    have not; with small pages decoding is 4 % slower (int8 and int4, GPT-2 124M).
    """

    def __init__(self) -> None:
        self._free = np.empty(0, np.uint8)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """As `aligned`. A block is freed once none of its arrays is used."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > len(self._free):
            self._free = aligned((max(_SLAB, size),), np.uint8)
        found = self._free[:size]
        self._free = self._free[-(-size // _CACHE_LINE) * _CACHE_LINE :]
        return found.view(dtype).reshape(shape)
