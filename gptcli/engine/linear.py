"""Linear layers in the form this processor multiplies fastest, one class a weight width.

All private operators of PyTorch that we use stand in this file, each behind a check and with a
plain fallback. Knows no model.

A product of ours gives each row the same bits whatever rows stand beside it, as long as
there are at least two (`gptcli.generation.scheduler` relies on it, `gptcli selftest` checks it).

Shapes: N rows, K features in, M features out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# How many rows the packed layout is chosen for. With plain weights 2 to 64 rows take 5 to 25 per
# cent longer; one row takes 18 per cent less (AVX2) or the same (AVX-512).
_ROWS_HINT = 32

_PANEL = 120  # rows that FBGEMM's float16 product takes at a time
_POINTWISE = "_linear_pointwise"  # oneDNN's product with what follows it

Activation = Literal["none", "gelu"]


class Linear(Protocol):
    """What the fast model asks of a layer."""

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(N, K) → (N, M)."""

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(N, K) and (N, M) → (N, M): the layer's output added to the residual."""


def gelu_(y: Tensor) -> Tensor:
    """The activation, in the place of its input: a new tensor costs memory that is not in cache."""
    return torch.ops.aten.gelu_(y, approximate="tanh")


class PlainLinear:
    """PyTorch's own product: any device, any dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(N, K) → (N, M)."""
        y = F.linear(x, self._weight, self._bias)
        return gelu_(y) if activation == "gelu" else y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(N, K) and (N, M) → (N, M)."""
        return residual + self(x)


class OneDnnLinear:
    """oneDNN's product on the weights as they are, activation and addition fused in."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

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


class PackedLinear(OneDnnLinear):
    """The same on weights in oneDNN's own blocked layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT), bias)


class HalfLinear:
    """FBGEMM's product: float16 weights, read at half the cost of float32, inputs and sums float32.

    A processor without float16 or bfloat16 arithmetic is fast with it, for it widens each weight in
    a register. Weights beyond float16's 65,504 must not come here.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = half_packed(weight.float(), None if bias is None else bias.float())

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(N, K) → (N, M), both float32."""
        N, rows = len(x), stable_count(len(x))
        padded = x if rows == N else F.pad(x, (0, 0, 0, rows - N))
        y = half_product(padded, self._weight)[:N]
        return gelu_(y) if activation == "gelu" else y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(N, K) and (N, M) → (N, M)."""
        return self(x).add_(residual)


def half_packed(weight: Tensor, bias: Tensor | None) -> Any:
    """Float32 weights (M, K) as float16 in FBGEMM's layout."""
    with fbgemm():
        return torch.ops.quantized.linear_prepack_fp16(weight, bias)


def half_product(x: Tensor, packed: Any) -> Tensor:
    """(N, K) → (N, M), both float32."""
    return torch.ops.quantized.linear_dynamic_fp16(x, packed)


def stable_count(rows: int) -> int:
    """The fewest rows, no fewer than these, of which none has bits of its own in `half_product`.

    FBGEMM takes rows in panels of 120 and cuts what is left into kernels of several rows; those of
    the fewest rows add up in another order. Which counts lead to them is asked of the processor.
    """
    panels, rest = divmod(rows, _PANEL)
    return panels * _PANEL + (_stable_counts()[rest] if rest else 0)


@cache
def _stable_counts() -> tuple[int, ...]:
    """For 0 to 120 rows the fewest, no fewer, whose rows have the bits that 120 rows have."""
    draw = torch.Generator().manual_seed(0)
    packed = half_packed(torch.randn(64, 64, generator=draw), None)
    x = torch.randn(_PANEL, 64, generator=draw)
    whole = half_product(x, packed)
    counts = [_PANEL]
    for rows in reversed(range(_PANEL)):
        same = rows > 0 and torch.equal(half_product(x[:rows], packed), whole[:rows])
        counts.append(rows if same else counts[-1])
    return tuple(reversed(counts))


class _Engine:
    """Which library PyTorch packs weights for: one setting, for all threads."""

    lock = Lock()
    users = 0
    before = ""


@contextmanager
def fbgemm() -> Iterator[None]:
    """Inside, PyTorch packs weights for FBGEMM; several threads may be inside."""
    engines = torch.backends.quantized
    with _Engine.lock:
        if not _Engine.users:
            _Engine.before, engines.engine = engines.engine, "fbgemm"
        _Engine.users += 1
    try:
        yield
    finally:
        with _Engine.lock:
            _Engine.users -= 1
            if not _Engine.users:
                engines.engine = _Engine.before


def has_fbgemm() -> bool:
    """Whether FBGEMM is in this PyTorch: on x86 it is."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def fastest_linear(weight: Tensor, bias: Tensor | None, *, single: bool = False) -> Linear:
    """The fastest layer of these weights (M, K) on their device, in their dtype.

    `single`: for one row at a time more often than for several.
    """
    if can_pack(weight, single=single):
        return (HalfLinear if weight.dtype == torch.float16 else PackedLinear)(weight, bias)
    return (OneDnnLinear if _suits_onednn(weight) else PlainLinear)(weight, bias)


def can_pack(weight: Tensor, *, single: bool = False) -> bool:
    """Whether the fastest layer of this weight has a copy of its own, in a library's layout."""
    if weight.dtype == torch.float16:
        return weight.device.type == "cpu" and has_fbgemm()
    return _suits_onednn(weight) and not (single and weight.dtype == torch.float32)


def _suits_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by this weight, and fast."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, _POINTWISE):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def computed_in(weight: Tensor) -> torch.dtype:
    """The dtype of inputs and outputs of `fastest_linear`'s layers of such a weight."""
    half = weight.dtype == torch.float16 and can_pack(weight)
    return torch.float32 if half else weight.dtype
