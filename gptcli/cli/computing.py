"""PyTorch, imported and set up as a process of ours wants it. Knows no model."""

import os
from typing import Any

from gptcli.cli.garbage import none_made

_SPINS = "20000"


def pytorch(threads: int | None = None) -> Any:
    """The module, with this many threads; None is its own choice.

    Floats below 1e-38 become 0: beside any other number they are nothing, but an Intel processor
    takes 10 to 400 times as long for a product of them, and the far tail of a softmax is full of
    them. A thread has this from the one that starts it, hence before any product.

    Threads that wait for the next product spin for about a millisecond and then sleep. Waking one
    up can take longer than the gaps between products: without spinning a quiet machine with two
    cores decodes at two thirds of the speed or less. What spinning costs beside another busy
    process is avoided by `gptcli.engine.pace`.

    Tensors of megabytes lie in huge pages where the system has them to give: a decoded token reads
    all weights, and finding 4 KiB pages took an eighth of its time.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    with none_made():
        import torch

    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    return torch
