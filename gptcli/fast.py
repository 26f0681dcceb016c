"""The same network as `gptcli.model`, arranged for speed: what generates.

Packed weights, query, key and value in one product, activations and additions fused, all rows of a
step in one flat product and attention row by row. Built from weights that it takes over one by one
(`gptcli.layers`), so that no second copy of the model exists at any time.

Shapes: N rows of a step, each one token of some sequence; E emb_dim, H heads, D head_dim.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.config import GPTConfig
from gptcli.layers import HEAD, Floats, Weights
from gptcli.linear import Linear, computed_in
from gptcli.model import GPTModel, KVCache, LayerNorm, late_mask
from gptcli.pace import Pace
from gptcli.quantize import Width


class Span(NamedTuple):
    """Consecutive tokens of one sequence within the N rows of a step."""

    row: int  # of the cache
    past: int  # positions of this sequence that the cache holds already
    first: int  # of the N rows
    length: int


class _Norm(NamedTuple):
    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, weights: Weights, name: str) -> "_Norm":
        return cls(_vector(weights, f"{name}.scale"), _vector(weights, f"{name}.shift"))

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, LayerNorm.eps)


class _Block(NamedTuple):
    norm1: _Norm
    qkv: Linear
    out_proj: Linear
    norm2: _Norm
    up: Linear
    down: Linear


class FastGPT:
    """A model for `gptcli.engine`: same ids in, same logits out, within rounding.

    Attributes:
        pace: chooses the number of threads for each step; None leaves it alone.
    """

    def __init__(self, model: GPTModel | Weights, width: Width | None = None) -> None:
        """Take over `model`, which is of no use afterwards.

        Args:
            model: the network; its dtype is that of the arithmetic.
            width: to round a GPTModel's weights to; None keeps its own.

        Raises:
            UsageError: this processor or model cannot have the width.
        """
        weights = Floats(model, width) if isinstance(model, GPTModel) else model
        self.config: GPTConfig = weights.config
        self._tok_emb = weights.embedding()
        self._out_head = weights.linear(HEAD)  # the largest first: what it was made of is gone soon
        self._pos_emb = _vector(weights, "pos_emb.weight")
        self._blocks = [_block(weights, f"trf_blocks.{n}") for n in range(self.config.n_layers)]
        self._final_norm = _Norm.of(weights, "final_norm")
        self.pace: Pace | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._pos_emb.device

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> KVCache:
        """An empty cache: float32 on a CPU, whose attention is several times slower in bfloat16."""
        dtype = torch.float32 if self.device.type == "cpu" else self._pos_emb.dtype
        return KVCache(self.config, batch, capacity, dtype, self.device)

    @torch.inference_mode()
    def __call__(self, ids: Tensor, cache: KVCache | None = None, last: bool = False) -> Tensor:
        """(B, T) ids → (B, T, V) logits, or (B, 1, V) of the last position if `last`.

        Raises:
            ValueError: if the positions go past `context_length` or the cache's capacity.
        """
        B, T = ids.shape
        cache = self.new_cache(B, T) if cache is None else cache
        past = cache.length
        spans = [Span(row, past, row * T, T) for row in range(B)]
        x = self.hidden(ids.flatten(), spans, cache).unflatten(0, (B, T))
        cache.length = past + T
        return self.logits((x[:, -1:] if last else x).flatten(0, 1)).unflatten(0, (B, -1))

    def hidden(self, ids: Tensor, spans: Sequence[Span], cache: KVCache) -> Tensor:
        """(N,) ids → (N, E) what the last block leaves; the cache gets every row's key and value.

        `cache.length` is not used: each span says where its sequence stands.

        Raises:
            ValueError: if a span goes past `context_length` or the cache's capacity.
        """
        self._refuse_overflow(spans, cache)
        positions = torch.cat(
            [torch.arange(s.past, s.past + s.length, device=self.device) for s in spans]
        )
        x = self._tok_emb[ids] + self._pos_emb[positions]
        with self.pace.step(len(ids)) if self.pace else nullcontext():
            for block, store in zip(self._blocks, cache.store, strict=True):
                x = block.out_proj.add(self._attend(block.qkv(block.norm1(x)), spans, store), x)
                x = block.down.add(block.up(block.norm2(x), "gelu"), x)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """(N, E) → (N, V)."""
        return self._out_head(self._final_norm(x))

    def _attend(self, qkv: Tensor, spans: Sequence[Span], store: Tensor) -> Tensor:
        """(N, 3E) and this layer's (2, B, H, C, D) keys and values → (N, E)."""
        qkv = qkv.view(qkv.shape[0], 3, self.config.n_heads, self.config.head_dim)
        rows = [_attend_span(qkv[s.first : s.first + s.length], s, store) for s in spans]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _refuse_overflow(self, spans: Sequence[Span], cache: KVCache) -> None:
        longest = max(s.past + s.length for s in spans)
        if longest > self.config.context_length:
            raise ValueError(f"{longest} tokens, but the context is {self.config.context_length}")
        if longest > cache.capacity:
            raise ValueError(f"the cache holds {cache.capacity} positions, {longest} are needed")


def _attend_span(qkv: Tensor, span: Span, store: Tensor) -> Tensor:
    """(T, 3, H, D) of one sequence → (T, E). Its shapes depend on no other sequence."""
    end = span.past + span.length
    held = store[:, span.row, :, :end]  # (2, H, S, D)
    held[:, :, span.past :] = qkv[:, 1:].permute(1, 2, 0, 3)
    queries = qkv[:, 0].transpose(0, 1).to(store.dtype)  # (H, T, D)
    if span.length == 1:
        context = _attend_one(queries, held[0], held[1])
    else:
        context = F.scaled_dot_product_attention(
            queries.unsqueeze(0),
            held[0].unsqueeze(0),
            held[1].unsqueeze(0),
            attn_mask=late_mask(span.length, end, queries.device) if span.past else None,
            is_causal=span.past == 0,
        )[0]
    return context.transpose(0, 1).flatten(1).to(qkv.dtype)


def _attend_one(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(H, 1, D) and (H, S, D) twice → (H, 1, D).

    Two plain products where the fused kernel would split the positions among threads, and so
    give other bits with another number of threads.
    """
    scores = torch.bmm(query, keys.transpose(1, 2)) * query.shape[-1] ** -0.5
    return torch.bmm(scores.softmax(-1), values)


def _vector(weights: Weights, name: str) -> Tensor:
    """What is no matrix, in the dtype that the products give and take."""
    tensor = weights.tensor(name)
    return tensor.to(computed_in(tensor))


def _block(weights: Weights, name: str) -> _Block:
    return _Block(
        _Norm.of(weights, f"{name}.norm1"),
        weights.linear(f"{name}.att.W_query", f"{name}.att.W_key", f"{name}.att.W_value"),
        weights.linear(f"{name}.att.out_proj"),
        _Norm.of(weights, f"{name}.norm2"),
        weights.linear(f"{name}.ff.layers.0"),
        weights.linear(f"{name}.ff.layers.2"),
    )
