"""8- and 4-bit weights: how they are chosen, and the layers that multiply by them.

int8: a weight is a whole number from -127 to 127 times a scale of its output row; inputs are
rounded to 8 or 7 bits too (`gptcli.engine.integer`), each token by its own largest value. Sums are
exact integers, so a token's result cannot depend on its neighbours.

int4: a weight is one of 16 levels of its group of 32, each group with a scale and a zero of its
own; inputs are bfloat16. The output head, where an error is seen at once, stays int8.

The token embedding is int8 at both widths, a scale for each token: the rows of a tied head.

Shapes: N tokens, K features in, M features out, G groups of a row.
"""

from typing import Literal

import torch
from torch import Tensor

from gptcli.core.errors import UsageError
from gptcli.engine.fourbit import GROUP, Int4Linear, Int4Weight
from gptcli.engine.integer import Int8Weight, integer_product
from gptcli.engine.linear import Activation, Linear, gelu_

Width = Literal["int8", "int4"]

_REFITS = 2  # of an int4 group's scale and zero: each lowers the squared error, by 6, 4, 2 per cent
_CHUNK = 1 << 16  # weights rounded at a time: few enough for a core's own cache


def to_int8(weight: Tensor) -> Int8Weight:
    """(M, K) → 8 bits, each row's largest magnitude at 127."""
    values, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    step = max(1, _CHUNK // weight.shape[1])
    for part, value, scale in zip(*(t.split(step) for t in (weight, values, scales)), strict=True):
        rows = part.float()
        torch.clamp_min(rows.abs().amax(dim=1), 1e-12, out=scale).div_(127)
        value.copy_((rows / scale[:, None]).round_())
    return Int8Weight(values, scales)


def to_int4(weight: Tensor) -> Int4Weight:
    """(M, K) → 4 bits: each group's full range, then scale and zero moved to a smaller error.

    Raises:
        UsageError: K is no multiple of the group.
    """
    M, K = weight.shape
    if K % GROUP:
        raise UsageError(
            "quantize",
            f"int4 needs layers whose width is a multiple of {GROUP} (found {K})",
            "Use int8",
        )
    levels = torch.empty(M * K // GROUP, GROUP, dtype=torch.uint8)
    scales, zeros = torch.empty(2, len(levels), 1, dtype=torch.bfloat16)
    parts = (weight.reshape(-1, GROUP), levels, scales, zeros)
    for groups, *found in zip(*(t.split(_CHUNK // GROUP) for t in parts), strict=True):
        for whole, part in zip(found, _levels(groups.float()), strict=True):
            whole.copy_(part)
    return Int4Weight(levels.view(M, K), scales.view(M, -1), zeros.view(M, -1))


def _levels(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, 32) weights → (n, 32) levels, (n, 1) scales and zeros, all float32.

    The best scale and zero for given levels are those of a straight line through them by least
    squares; with it other levels are nearest, and so on (Lloyd 1982, doi:10.1109/TIT.1982.1056489).
    """
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    mean = groups.mean(1, keepdim=True)
    centred = groups - mean
    scale = _as_stored((high - low).clamp_min(1e-8) / 15)
    zero = _as_stored(low + 8 * scale)
    level = _nearest(groups, scale, zero)
    for _ in range(_REFITS):
        middle = level.mean(1, keepdim=True)
        spread = (level * level).sum(1, keepdim=True) - GROUP * middle * middle
        slope = (level * centred).sum(1, keepdim=True) / spread
        scale = torch.where(spread > 0, _as_stored(slope.clamp_min_(1e-8 / 15)), scale)
        zero = _as_stored(mean - scale * middle)
        level = _nearest(groups, scale, zero)
    return level.add_(8), scale, zero


def _nearest(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The levels, less 8, that come nearest to the weights."""
    return torch.sub(groups, zero).div_(scale).round_().clamp_(-8, 7)


def _as_stored(value: Tensor) -> Tensor:
    return value.bfloat16().float()


class Int8Linear:
    """An integer product, exact up to one rounding of input and weight each."""

    def __init__(self, weight: Int8Weight, bias: Tensor | None) -> None:
        self._product = integer_product(weight)
        self._bias = torch.zeros(len(weight.scales)) if bias is None else bias.float()

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(N, K) → (N, M), both float32."""
        largest = x.abs().amax(1, keepdim=True).clamp_min_(1e-12)
        y = self._product(x / largest)
        torch.addcmul(self._bias, y, largest, out=y)
        return gelu_(y) if activation == "gelu" else y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(N, K) and (N, M) → (N, M)."""
        return self(x).add_(residual)


class Int8Embedding:
    """Rows of 8 bits, looked up as float32."""

    def __init__(self, weight: Int8Weight) -> None:
        self._weight = weight

    def __getitem__(self, ids: Tensor) -> Tensor:
        """(N,) ids → (N, E) float32."""
        values, scales = self._weight
        return Int8Weight(values[ids], scales[ids]).dequantized()


def quantized(weight: Tensor, width: Width, *, is_outer: bool) -> Int8Weight | Int4Weight:
    """(M, K) at a width; embedding and head, the outer ones, never have fewer than 8 bits.

    Raises:
        UsageError: this processor or layer cannot have the width. Never another width instead.
    """
    if weight.device.type != "cpu":
        raise UsageError("quantize", f"{width} weights run on a CPU only", "Use `device=cpu`")
    return to_int8(weight) if width == "int8" or is_outer else to_int4(weight)


def layer_of(
    weight: Int8Weight | Int4Weight, bias: Tensor | None, *, single: bool = False
) -> Linear:
    """The layer that multiplies by a rounded weight.

    `single`: its rows are one text, none of which needs the same bits beside others.
    """
    if isinstance(weight, Int8Weight):
        return Int8Linear(weight, bias)
    return Int4Linear(weight, bias, single=single)


def quantized_linear(
    weight: Tensor,
    bias: Tensor | None,
    width: Width,
    *,
    is_outer: bool = False,
    single: bool = False,
) -> Linear:
    """The layer of these weights (M, K) at a width; `single` as for `layer_of`.

    Raises:
        UsageError: as `quantized`.
    """
    return layer_of(quantized(weight, width, is_outer=is_outer), bias, single=single)
