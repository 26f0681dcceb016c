"""The book's network as an engine: on a GPU, and where the compiled kernels are missing.

All tokens of a step go through each layer together; attention runs sequence by sequence, by
PyTorch's fused kernel.

Shapes: N tokens of a step, E emb_dim, V vocabulary.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from gptcli.engine.interface import Logits, Span
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, KVCache, TransformerBlock


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
            wanted += range(end - span.wanted, end)
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
