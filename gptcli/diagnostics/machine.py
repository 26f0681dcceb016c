"""What this machine reaches by itself: reading and copying memory, multiplying matrices.

The yardstick that `gptcli.diagnostics.benchmark` holds a model against, measured in the same run.
Knows no model.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.engine.linear import can_pack, fastest_linear
from gptcli.engine.quantize import Width, quantized_linear

_PASSES = 4  # a bound is the best of several; the first of them only warms up


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates by PyTorch's own operators, with the threads that are set.

    Attributes:
        read: bytes/s, the sum of a float32 tensor.
        copy: bytes/s, reading and writing counted.
        product: FLOP/s of a square product.
    """

    read: float
    copy: float
    product: float

    @property
    def memory(self) -> float:
        """The faster of reading and copying: what a model can hope for."""
        return max(self.read, self.copy)


def measure(
    nbytes: int, side: int, dtype: torch.dtype, width: Width | None, device: torch.device
) -> Machine:
    """The machine's rates.

    Args:
        nbytes: read and copied; as many as the model moves, for a cache holds small ones.
        side: of the square matrices.
        dtype: of the product.
        width: of the product's weights; int4 multiplies in bfloat16 and is held against that.
        device: where.
    """
    read, copy = _memory(nbytes, device)
    return Machine(read, copy, 2 * side**3 / _best(_product(side, dtype, width, device), device))


def synchronize(device: torch.device) -> None:
    """Wait for what was only begun, where the clock would not see it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(nbytes: int, device: torch.device) -> tuple[float, float]:
    source = torch.ones(max(nbytes // 4, 1), device=device)
    target = torch.empty_like(source)
    read = 4 * source.numel() / _best(source.sum, device)
    return read, 8 * source.numel() / _best(lambda: target.copy_(source), device)


def _product(
    side: int, dtype: torch.dtype, width: Width | None, device: torch.device
) -> Callable[[], Tensor]:
    weight = torch.randn(side, side, device=device)
    if width == "int8":
        layer, x = quantized_linear(weight, None, width), torch.randn(side, side)
        return lambda: layer(x)
    weight = weight.to(torch.bfloat16 if width == "int4" else dtype)
    if dtype == torch.float16 and can_pack(weight):
        layer, x = fastest_linear(weight, None), weight.float()
        return lambda: layer(x)
    return lambda: F.linear(weight, weight)


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest pass."""
    seconds = []
    with torch.inference_mode():
        for _ in range(_PASSES):
            start = perf_counter()
            work()
            synchronize(device)
            seconds.append(perf_counter() - start)
    return min(seconds[1:])


def processor() -> str:
    """The processor's name as the system gives it; empty where it gives none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
