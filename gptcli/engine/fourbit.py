"""The layer of 4-bit weights: PyTorch's weight-only product, and a faster way for many rows.

The product widens each weight again for every few rows, in bfloat16. Many rows at once are faster
by the float product on weights that are widened once, from the same packed bytes. How a processor
packs them is PyTorch's own business: it is asked, not assumed, and where the answer is unknown all
rows take the product.

Shapes: N rows, K features in, M features out, G groups of 32 inputs.
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.engine.linear import Activation, fastest_linear, gelu_
from gptcli.engine.precision import has_bfloat16

GROUP = 32
_TILE = 64  # the product takes output features in multiples of this
_MANY = 64  # rows from which on widening the weights costs less than it saves


class Int4Weight(NamedTuple):
    """(M, K) uint8 levels 0 to 15, (M, G) bfloat16 scales and zeros.

    weight = (level - 8) * scale + zero, by groups of 32 inputs.
    """

    levels: Tensor
    scales: Tensor
    zeros: Tensor

    def dequantized(self) -> Tensor:
        """(M, K) float32."""
        grouped = self.levels.unflatten(1, (-1, GROUP)).float() - 8
        return (grouped * self.scales.float()[..., None] + self.zeros.float()[..., None]).flatten(1)


class Int4Linear:
    """A layer of 4-bit weights, on a CPU."""

    def __init__(self, weight: Int4Weight, bias: Tensor | None, *, single: bool = False) -> None:
        """`single`: many rows are one text, so none needs the bits that it has among few."""
        self._features = weight.levels.shape[0]
        padding = -self._features % _TILE
        self._weight = _packed(F.pad(weight.levels, (0, 0, 0, padding)))
        both = torch.stack([weight.scales, weight.zeros], dim=-1)  # (M, G, 2)
        self._scales_and_zeros = F.pad(both, (0, 0, 0, 0, 0, padding)).transpose(0, 1).contiguous()
        self._bias = torch.zeros(self._features) if bias is None else bias.float()
        self._can_widen = single and packing() is not None

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(N, K) → (N, M), both float32."""
        if self._can_widen and len(x) >= _MANY:
            return self._by_floats(x, activation)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.bfloat16(), self._weight, GROUP, self._scales_and_zeros
        )
        y = y[:, : self._features] + self._bias
        return gelu_(y) if activation == "gelu" else y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(N, K) and (N, M) → (N, M)."""
        return self(x).add_(residual)

    def _by_floats(self, x: Tensor, activation: Activation) -> Tensor:
        """The same for many rows."""
        weight = self.dequantized()
        if has_bfloat16(weight.device):
            layer = fastest_linear(weight.bfloat16(), self._bias.bfloat16(), single=True)
            return layer(x.bfloat16(), activation).float()
        return fastest_linear(weight, self._bias, single=True)(x, activation)

    def dequantized(self) -> Tensor:
        """(M, K) float32, of what is packed.

        Raises:
            RuntimeError: how this processor packs is not known.
        """
        if (order := packing()) is None:
            raise RuntimeError("this PyTorch packs 4-bit weights in an unknown way")
        weight = torch.empty(self._weight.shape[0], self._weight.shape[1] * 2)
        _unpack(self._weight, order, weight)
        scales, zeros = self._scales_and_zeros.float().permute(2, 1, 0)[..., None]  # (M, G, 1) each
        weight.unflatten(1, (-1, GROUP)).mul_(scales).add_(zeros - 8 * scales)
        return weight[: self._features]


class Packing(NamedTuple):
    """Where the levels are: tiles of some output features, input by input.

    Attributes:
        features: output features of a tile; a byte holds two of them.
        is_split: whether those are one of the tile's first half and one of its second, in this
            order from the low bits; else neighbours.
    """

    features: int
    is_split: bool


@cache
def packing() -> Packing | None:
    """How this processor's product packs levels: the one answer that unpacks what was packed."""
    draw = torch.Generator().manual_seed(0)
    levels = torch.randint(16, (2 * _TILE, GROUP), generator=draw, dtype=torch.uint8)
    packed, found = _packed(levels), torch.empty(levels.shape)
    for order in (Packing(size, split) for size in (16, 32, 64) for split in (True, False)):
        _unpack(packed, order, found)
        if torch.equal(found, levels.float()):
            return order
    return None


def _packed(levels: Tensor) -> Tensor:
    """(M, K) uint8 → (M, K/2) uint8 in the product's own order."""
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.to(torch.int32), 1)


def _unpack(packed: Tensor, order: Packing, found: Tensor) -> None:
    """(n, K/2) bytes of whole tiles → `found`, (n, K) float32 levels 0 to 15."""
    half, K = order.features // 2, found.shape[1]
    bytes_ = packed.reshape(-1, K, half).transpose(1, 2)  # (tiles, half, K)
    shape = (-1, 2, half, K) if order.is_split else (-1, half, 2, K)
    low, high = found.view(shape).unbind(1 if order.is_split else 2)
    low.copy_(bytes_ & 15)
    high.copy_(bytes_ >> 4)
