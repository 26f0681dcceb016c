"""Measure the machine's memory bandwidth and matmul rate.

`gptcli.diagnostics.benchmark` compares a model with these, measured in the same run.
"""

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

_PASSES = 4  # the best counts; the first only warms up


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of a CPU by NumPy or the kernels, of a GPU by PyTorch.

    Attributes:
        read: bytes/s of a plain read.
        copy: bytes/s, reads and writes counted.
        product: FLOP/s of a square float32 matmul.
    """

    read: float
    copy: float
    product: float

    @property
    def memory(self) -> float:
        """Memory bandwidth in bytes/s: the faster of reading and copying."""
        return max(self.read, self.copy)


def measure(
    nbytes: int, side: int, threads: int, device: str = "cpu", *, native: bool = False
) -> Machine:
    """Measure the machine's rates.

    Args:
        nbytes: read and copied: as many as the model moves, since a cache would hold fewer.
        side: of the square matrices.
        threads: that read and copy; a matmul uses BLAS's own.
        device: "cpu", or PyTorch's name of a GPU.
        native: read with the kernels and their threads, as the native engine reads weights.
    """
    if device != "cpu":
        return _measure_device(nbytes, side, device)
    source = np.ones(max(nbytes // 4, threads), np.float32)
    parts = np.array_split(source, threads)
    targets = [np.empty_like(part) for part in parts]
    weight = np.ones((side, side), np.float32)
    with ThreadPoolExecutor(threads) as pool:
        if native:
            read = kernel_read(nbytes, threads)
        else:
            read = source.nbytes / _best(lambda: list(pool.map(np.max, parts)))
        copy = 2 * source.nbytes / _best(lambda: list(pool.map(np.copyto, targets, parts)))
    return Machine(read, copy, 2 * side**3 / _best(lambda: weight @ weight))


def kernel_read(nbytes: int, threads: int) -> float:
    """Bytes/s of the kernels' plain read of `nbytes`."""
    from gptcli.engine import library  # noqa: PLC0415  # not built on every machine

    memory = np.ones(nbytes, np.uint8)
    build, function = library.choose_build().number, library.load().gptcli_read
    with library.shared_pool(threads) as pool:
        return nbytes / _best(lambda: function(build, pool, memory.ctypes.data, nbytes))


def _measure_device(nbytes: int, side: int, device: str) -> Machine:
    import torch  # noqa: PLC0415  # only a GPU needs it

    source, weight = torch.ones(nbytes // 4, device=device), torch.ones(side, side, device=device)
    target = torch.empty_like(source)

    def seconds(work: Callable[[], Any]) -> float:
        def done() -> object:
            return work().flatten()[:1].cpu()  # waits for the GPU

        return _best(done)

    return Machine(
        nbytes / seconds(source.max),
        2 * nbytes / seconds(lambda: target.copy_(source)),
        2 * side**3 / seconds(lambda: weight @ weight),
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
    """The processor's name as the system gives it; empty if it gives none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
