"""Quantise a float matrix to int8 or int4.

int8: a weight is a whole number from -127 to 127 times a scale of its output row.

int4: a weight is one of 16 levels of its group of 32, each group with a scale and a zero of its
own. Token embedding and output head, where an error is seen at once, stay int8.

Shapes: K features in, M features out, G = K / 32 groups of a row.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptcli.core.errors import UsageError
from gptcli.model.dtypes import GROUP

_REFITS = 2  # of a group's scale and zero: each lowers the squared error, by 6, 4, 2 per cent
_CHUNK = 1 << 16  # weights rounded at a time: few enough for a core's own cache

Floats = NDArray[np.float32]


class Int8Matrix(NamedTuple):
    """(M, K) int8 values and (M,) float32 scales: weight = value * scale."""

    values: NDArray[np.int8]
    scales: Floats

    def floats(self) -> Floats:
        """(M, K) float32."""
        return self.values * self.scales[:, None]


class Int4Matrix(NamedTuple):
    """(M, K / 2) uint8, two levels of 0 to 15 each, the first in the low bits; (M, G) bfloat16
    scales and zeros, as uint16: weight = (level - 8) * scale + zero.
    """

    levels: NDArray[np.uint8]
    scales: NDArray[np.uint16]
    zeros: NDArray[np.uint16]

    def floats(self) -> Floats:
        """(M, K) float32."""
        M, half = self.levels.shape
        levels = np.stack([self.levels & 15, self.levels >> 4], -1).reshape(M, -1, GROUP)
        scales, zeros = (widened(part)[..., None] for part in (self.scales, self.zeros))
        floats: Floats = (levels.astype(np.float32) - 8) * scales + zeros
        return floats.reshape(M, 2 * half)


def to_int8(weight: Floats) -> Int8Matrix:
    """(M, K) → 8 bits, each row's largest magnitude at 127."""
    values = np.empty(weight.shape, np.int8)
    scales = np.empty(len(weight), np.float32)
    step = max(1, _CHUNK // weight.shape[1])
    for row in range(0, len(weight), step):
        rows = weight[row : row + step]
        scale = np.maximum(np.abs(rows).max(1), np.float32(1e-12)) / np.float32(127)
        values[row : row + step] = np.rint(rows / scale[:, None])
        scales[row : row + step] = scale
    return Int8Matrix(values, scales)


def to_int4(weight: Floats) -> Int4Matrix:
    """(M, K) → 4 bits: each group's full range, then scale and zero moved to a smaller error.

    Raises:
        UsageError: K is no multiple of the group.
    """
    M, K = weight.shape
    if K % GROUP:
        problem = f"int4 needs layers whose width is a multiple of {GROUP} (found {K})"
        raise UsageError("quantize", problem, "Use int8")
    groups = weight.reshape(-1, GROUP)
    pairs = np.empty((len(groups), GROUP // 2), np.uint8)
    scales, zeros = np.empty((2, len(groups)), np.uint16)
    step = _CHUNK // GROUP
    for at in range(0, len(groups), step):
        part = slice(at, at + step)
        levels, scale, zero = _levels(np.ascontiguousarray(groups[part].T))
        pairs[part] = (levels[::2] | levels[1::2] << 4).T
        scales[part], zeros[part] = bfloat16(scale), bfloat16(zero)
    return Int4Matrix(pairs.reshape(M, K // 2), scales.reshape(M, -1), zeros.reshape(M, -1))


def bfloat16(values: Floats) -> NDArray[np.uint16]:
    """Rounded to the nearest, half to even; the upper halves of float32 numbers."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():  # rounding may have carried into the sign
        rounded[nan] = 0x7FC0
    return rounded


def widened(values: NDArray[np.uint16]) -> Floats:
    """bfloat16 as float32, exactly."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def _levels(groups: Floats) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """(32, n) weights → (32, n) levels, (n,) scales and zeros that bfloat16 holds.

    The best scale and zero for given levels are those of a straight line through them by least
    squares; with it other levels are nearest, and so on (Lloyd 1982, doi:10.1109/TIT.1982.1056489).
    Sums go from the first weight of a group to its last, as in the compiled kernels: both round
    alike.
    """
    low, high = groups.min(0), groups.max(0)
    mean = groups.sum(0) / np.float32(GROUP)
    centred = (groups - mean).astype(np.float64)
    scale = _as_stored(np.maximum(high - low, np.float32(1e-8)) / np.float32(15))
    zero = _as_stored(low + 8 * scale)
    level = _nearest(groups, scale, zero)
    for _ in range(_REFITS):
        total, squares, products = level.sum(0), (level * level).sum(0), np.zeros_like(low)
        for one, other in zip(level, centred, strict=True):  # fused multiply-adds
            products = (one * other + products).astype(np.float32)
        middle = total / np.float32(GROUP)
        spread = squares - total * middle
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = products / spread
        slope = _as_stored(np.maximum(slope, np.float32(1e-8 / 15)))
        scale = np.where(spread > 0, slope, scale)
        zero = _as_stored(mean - scale * middle)
        level = _nearest(groups, scale, zero)
    return (level + 8).astype(np.uint8), scale, zero


def _nearest(groups: Floats, scale: Floats, zero: Floats) -> Floats:
    """The levels, less 8, that come nearest to the weights."""
    level = groups - zero
    level /= scale
    np.rint(level, out=level)
    return np.clip(level, -8, 7, out=level)


def _as_stored(value: Floats) -> Floats:
    return widened(bfloat16(value))
