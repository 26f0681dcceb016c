"""Linear layers in the form this processor multiplies fastest, one class a weight width.

All private operators of PyTorch that we use stand in this file, each behind a check and with a
plain fallback. Knows no model.

A product with packed weights gives each row the same bits whatever rows stand beside it, as long as
there are at least two (`gptcli.batching` relies on it, `gptcli selftest` checks it).

Shapes: N rows, K features in, M features out.
"""

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# How many rows the packed layout is chosen for. Measured for 1 to 32 rows: the layout for 32 reads
# memory at full speed for one row too.
_ROWS_HINT = 32

Activation = Literal["none", "gelu"]


class Linear(Protocol):
    """What the fast model asks of a layer."""

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(N, K) → (N, M)."""

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(N, K) and (N, M) → (N, M): the layer's output added to the residual."""


class PlainLinear:
    """PyTorch's own product: any device, any dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(N, K) → (N, M)."""
        y = F.linear(x, self._weight, self._bias)
        return F.gelu(y, approximate="tanh") if activation == "gelu" else y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(N, K) and (N, M) → (N, M)."""
        return residual + self(x)


class PackedLinear:
    """oneDNN's product on weights in its own blocked layout, activation and addition fused in."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)
        self._bias = bias

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(N, K) → (N, M)."""
        algorithm = "tanh" if activation == "gelu" else ""
        return torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, activation, [], algorithm
        )

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(N, K) and (N, M) → (N, M)."""
        return torch.ops.mkldnn._linear_pointwise.binary(
            x, residual, self._weight, self._bias, "add"
        )


def packed_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """The fastest layer of these weights (M, K) on their device, in their dtype."""
    if can_pack(weight):
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)


def can_pack(weight: Tensor) -> bool:
    """Whether a layer of this weight has a copy of its own, in oneDNN's layout."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
