"""Measure the machine's memory bandwidth and matmul rate.

The yardstick that `gptcli.diagnostics.benchmark` holds a model against, measured in the same run.
"""

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

_PASSES = 4  # a bound is the best of several; the first of them only warms up


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of a CPU by NumPy, of a GPU by PyTorch.

    Attributes:
        read: bytes/s, the maximum of a float32 array.
        copy: bytes/s, reading and writing counted.
        product: FLOP/s of a square float32 product.
    """

    read: float
    copy: float
    product: float

    @property
    def memory(self) -> float:
        """The faster of reading and copying: what a model can hope for."""
        return max(self.read, self.copy)


def measure(nbytes: int, side: int, threads: int, device: str = "cpu") -> Machine:
    """The machine's rates.

    Args:
        nbytes: read and copied; as many as the model moves, for a cache holds small ones.
        side: of the square matrices.
        threads: that read and copy; the product's are BLAS's own.
        device: where.
    """
    if device != "cpu":
        return _measure_device(nbytes, side, device)
    source = np.ones(max(nbytes // 4, threads), np.float32)
    parts = np.array_split(source, threads)
    targets = [np.empty_like(part) for part in parts]
    weight = np.ones((side, side), np.float32)
    with ThreadPoolExecutor(threads) as pool:
        read = source.nbytes / _best(lambda: list(pool.map(np.max, parts)))
        copy = 2 * source.nbytes / _best(lambda: list(pool.map(np.copyto, targets, parts)))
    return Machine(read, copy, 2 * side**3 / _best(lambda: weight @ weight))


def _measure_device(nbytes: int, side: int, device: str) -> Machine:
    import torch  # noqa: PLC0415  # only a GPU needs it

    source, weight = torch.ones(nbytes // 4, device=device), torch.ones(side, side, device=device)
    target = torch.empty_like(source)

    def done(work: Callable[[], Any]) -> Callable[[], object]:
        def waited() -> object:
            return work().flatten()[:1].cpu()  # waits for the device

        return waited

    return Machine(
        nbytes / _best(done(source.max)),
        2 * nbytes / _best(done(lambda: target.copy_(source))),
        2 * side**3 / _best(done(lambda: weight @ weight)),
    )


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest pass."""
    seconds = []
    for _ in range(_PASSES):
        start = perf_counter()
        work()
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
