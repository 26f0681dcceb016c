"""PyTorch, imported and set up as a process of ours wants it. Knows no model."""

import os
from typing import Any

_SPINS = "2000"


def pytorch(threads: int | None = None) -> Any:
    """The module, with this many threads; None is its own choice.

    Floats below 1e-38 become 0: beside any other number they are nothing, but an Intel processor
    takes 10 to 400 times as long for a product of them, and the far tail of a softmax is full of
    them. A thread has this from the one that starts it, hence before any product.

    Threads that wait for the next product spin for some 50 to 100 microseconds, which bridges the
    gaps between products, and then sleep: without spinning two cores are half as fast, with GNU
    OpenMP's default of milliseconds nine tenths of the speed are lost beside another busy process.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    return torch
