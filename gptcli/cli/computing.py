"""PyTorch, imported and set up as a process of ours wants it. Knows no model."""

import os
from typing import Any


def pytorch(threads: int | None = None) -> Any:
    """The module, with this many threads; None is its own choice.

    Floats below 1e-38 become 0: beside any other number they are nothing, but an Intel processor
    takes 10 to 400 times as long for a product of them, and the far tail of a softmax is full of
    them. A thread has this from the one that starts it, hence before any product.
    """
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    return torch
