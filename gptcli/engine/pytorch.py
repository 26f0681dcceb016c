"""The book's network as an engine: on a GPU, and where the compiled kernels are missing.

All tokens of a step go through each layer together; attention runs sequence by sequence, by
PyTorch's fused kernel.

Shapes: N tokens of a step, E emb_dim, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gptcli.core.errors import UsageError
from gptcli.engine.interface import Logits, Span
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, KVCache, TransformerBlock

_BFLOAT16_CPUS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def torch_on(device: str, threads: int | None = None) -> Any:
    """PyTorch, with this many threads; None is its own choice.

    Raises:
        UsageError: it does not have the device.
    """
    kind = device.partition(":")[0]
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not is_there.get(kind, True):
        raise UsageError("device", f"{device} is not available to this PyTorch", "Use `device=cpu`")
    if threads is not None:
        torch.set_num_threads(threads)
    return torch


def wants_bfloat16(precision: str, device: str | torch.device) -> bool:
    """Whether matmuls run in bfloat16: if asked for, or for "auto" where it is faster."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = [getattr(torch.cpu, name, None) for name in _BFLOAT16_CPUS]  # not in every version
    return any(check is not None and check() for check in checks)


class TorchEngine:
    """Runs a `GPTModel` on the device and in the dtype that its weights have."""

    def __init__(self, model: GPTModel) -> None:
        self.model = model.eval()

    @property
    def config(self) -> GPTConfig:
        """The model's."""
        return self.model.config

    def new_cache(self, capacity: int | None = None) -> KVCache:
        """An empty cache for one sequence."""
        return self.model.new_cache(capacity=capacity)

    @torch.inference_mode()
    def step(self, spans: Sequence[Span]) -> Logits:
        """As `gptcli.engine.interface.Engine` has it."""
        for span in spans:
            self._refuse_overflow(span)
        ids = [id for span in spans for id in span.ids]
        positions = [span.cache.length + at for span in spans for at in range(len(span.ids))]
        hidden = self._hidden(ids, positions, spans)
        for span in spans:
            span.cache.length += len(span.ids)
        wanted: list[int] = []
        end = 0
        for span in spans:
            end += len(span.ids)
            wanted += range(end - span.n_logits, end)
        if not wanted:
            return np.empty((0, self.config.vocab_size), np.float32)
        logits = self.model.out_head(self.model.final_norm(hidden[wanted]))
        return logits.float().cpu().numpy()

    def _hidden(self, ids: list[int], positions: list[int], spans: Sequence[Span]) -> Tensor:
        """(N,) ids → (N, E) what the last block leaves; the caches hold every key and value."""
        model, lengths = self.model, [len(span.ids) for span in spans]
        at = torch.tensor([ids, positions], device=model.device)
        x = model.tok_emb(at[0]) + model.pos_emb(at[1])
        for layer, block in enumerate(cast(list[TransformerBlock], model.trf_blocks)):
            parts = [part.split(lengths, 2) for part in block.att.project(block.norm1(x)[None])]
            attended = []
            for queries, new_keys, new_values, span in zip(*parts, spans, strict=True):
                keys, values = span.cache.append(layer, new_keys, new_values)
                attended.append(block.att.attend(queries, keys, values, layer))
            x = x + block.att.out_proj(torch.cat(attended, 1)[0])
            x = x + block.ff(block.norm2(x))
        return x

    def _refuse_overflow(self, span: Span) -> None:
        end = span.cache.length + len(span.ids)
        if end > self.config.context_length:
            raise ValueError(f"{end} tokens, but the context is {self.config.context_length}")
        if end > span.cache.capacity:
            raise ValueError(f"the cache holds {span.cache.capacity} positions, {end} are needed")
