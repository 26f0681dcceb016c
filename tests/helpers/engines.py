"""What generates on this machine, made from a model of the book's."""

from typing import Any

import pytest

from gptcli.checkpoint.load import weights_of
from gptcli.engine.interface import Engine
from gptcli.engine.library import why_unavailable
from gptcli.engine.pytorch import TorchEngine
from gptcli.model.gpt import GPTModel

HAS_KERNELS = why_unavailable() is None
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason=f"no kernels: {why_unavailable()}")


def engine_of(model: GPTModel, width: Any = None, *, threads: int = 2, isa: Any = None) -> Engine:
    """The compiled kernels; PyTorch where they were not built."""
    if not HAS_KERNELS:
        assert width is None, "rounded weights need the kernels"
        return TorchEngine(model)
    from gptcli.engine.native import NativeEngine

    tensors = weights_of(model).tensors
    return NativeEngine(model.config, tensors, threads=threads, width=width, isa=isa)
