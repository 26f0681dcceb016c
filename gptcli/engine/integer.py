"""The product of 8-bit inputs and 8-bit weights, exact: sums of whole numbers, rounded nowhere.

Two kernels of PyTorch's, each private and each with its own kind of processor:

oneDNN's, where the processor multiplies 8-bit numbers by itself (VNNI, AMX). Inputs have 8 bits.

FBGEMM's elsewhere: it reads weights three times as fast as oneDNN's does there (one row, AVX2).
Without such instructions both kernels add two products in 16 bits, where 255 x 127 twice does not
fit and is cut off, silently. Inputs therefore have 7 bits: 127 x 127 twice does fit.

Shapes: N rows, K features in, M features out.
"""

import warnings
from functools import cache
from threading import Lock
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gptcli.engine.linear import fbgemm, has_fbgemm

_FILTERS = Lock()  # what is warned of is one setting, for all threads


class Int8Weight(NamedTuple):
    """(M, K) int8 values and (M,) float32 scales: weight = values * scales."""

    values: Tensor
    scales: Tensor

    def dequantized(self) -> Tensor:
        """(M, K) float32."""
        return self.values * self.scales[:, None]


class IntegerProduct(Protocol):
    """Weights packed for one kernel.

    Attributes:
        most: into how many steps the inputs from 0 to 1 are rounded, those from 0 to -1 likewise.
    """

    most: int

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K) float32 from -1 to 1 → (N, M) float32: rounded inputs times weights."""


class OneDnnProduct:
    """oneDNN's integer product."""

    def __init__(self, weight: Int8Weight, most: int) -> None:
        self.most, self._zero = most, most + 1
        # Whole numbers are cut off, not rounded; half a step more makes that a rounding.
        self._middle = torch.tensor(self._zero + 0.5)
        M, K = weight.values.shape
        self._weight = torch.ops.onednn.qlinear_prepack(weight.values, [32, K])
        self._scales = weight.scales
        self._no_zeros = torch.zeros(M, dtype=torch.int64)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K) → (N, M)."""
        # Unsigned: the kernels for signed inputs are far slower.
        unsigned = torch.add(self._middle, x, alpha=self.most).to(torch.uint8)
        return torch.ops.onednn.qlinear_pointwise(
            unsigned, 1 / self.most, self._zero, self._weight, self._scales, self._no_zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip


class FbgemmProduct:
    """FBGEMM's integer product, which rounds the inputs itself while it packs them."""

    def __init__(self, weight: Int8Weight, most: int) -> None:
        self.most, self._zero = most, most + 1
        self._weight = _prepacked(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K) → (N, M)."""
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x, 1 / self.most, self._zero, self._weight
        )


def integer_product(weight: Int8Weight) -> IntegerProduct:
    """The product for this processor: the same kernel for every weight, and in every process."""
    if multiplies_bytes():
        return OneDnnProduct(weight, 127)
    if has_fbgemm():
        return FbgemmProduct(weight, 63)
    return OneDnnProduct(weight, 63)


@cache
def multiplies_bytes() -> bool:
    """Whether sums are right for 8-bit inputs: asked of a product that 16 bits cannot hold."""
    K = 64
    weight = Int8Weight(torch.full((64, K), 127, dtype=torch.int8), torch.ones(64))
    sums = OneDnnProduct(weight, 127)(torch.ones(2, K))
    return torch.allclose(sums, torch.tensor(127.0 * K))


def _prepacked(weight: Int8Weight) -> Any:
    """In FBGEMM's layout."""
    scales = weight.scales.double()
    no_zeros = torch.zeros(len(scales), dtype=torch.int64)
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors are to go in a version we exclude
        values = torch._make_per_channel_quantized_tensor(weight.values, scales, no_zeros, 0)
    with fbgemm():
        return torch.ops.quantized.linear_prepack(values, None)
