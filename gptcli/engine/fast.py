"""The same network as `gptcli.model.gpt`, arranged for speed: what generates.

Packed weights, query, key and value in one product, activations and additions fused, all rows of a
step in one flat product and attention sequence by sequence (`gptcli.engine.attention`). Built from
weights that it takes over one by one (`gptcli.engine.layers`), so that no second copy of the model
exists at any time.

Shapes: N rows of a step, each one token of some sequence; E emb_dim, H heads, D head_dim.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.engine.attention import Span, StepAttention
from gptcli.engine.cuda_graph import FixedAttention, Replayed, cuda_graph
from gptcli.engine.layers import HEAD, Floats, Weights, of_block
from gptcli.engine.linear import Linear, computed_in
from gptcli.engine.pace import Pace
from gptcli.engine.quantize import Width
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import ACTIVATION_MODULES, GPTModel, KVCache


class _Norm(NamedTuple):
    scale: Tensor
    shift: Tensor | None
    eps: float

    @classmethod
    def of(cls, weights: Weights, name: str) -> "_Norm":
        config = weights.config
        shift = _vector(weights, f"{name}.shift") if config.bias else None
        return cls(_vector(weights, f"{name}.scale"), shift, config.layer_norm_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class _Block(NamedTuple):
    norm1: _Norm
    qkv: Linear
    out_proj: Linear
    norm2: _Norm
    up: Linear
    down: Linear


class FastGPT:
    """A model for `gptcli.generation.decode`: same ids in, same logits out, within rounding.

    Attributes:
        pace: chooses the number of threads for each step; None leaves it alone.
        replayed: what a single token of a single text is computed by; None where nothing is gained.
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
        self._activate = ACTIVATION_MODULES[self.config.activation]()
        self._tok_emb = weights.embedding()
        self._out_head = weights.linear(HEAD)  # the largest first: what it was made of is gone soon
        self._pos_emb = _vector(weights, "pos_emb.weight")
        self._blocks = [_block(weights, n) for n in range(self.config.n_layers)]
        self._final_norm = _Norm.of(weights, "final_norm")
        self.pace: Pace | None = None
        on_gpu = self.device.type == "cuda"
        self.replayed = Replayed(self, cuda_graph) if on_gpu else None

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
        spans = [Span(row, past, T) for row in range(B)]
        if self.replayed is not None and past > 0 and B == T == 1:
            self._refuse_overflow(spans, cache)
            cache.length = past + 1
            return self.replayed(ids[0], past, cache.store)[None]
        x = self.hidden(ids.flatten(), spans, cache).unflatten(0, (B, T))
        cache.length = past + T
        return self.logits((x[:, -1:] if last else x).flatten(0, 1)).unflatten(0, (B, -1))

    def hidden(self, ids: Tensor, spans: Sequence[Span], cache: KVCache) -> Tensor:
        """(N,) ids → (N, E) what the last block leaves; the cache gets every row's key and value.

        `cache.length` is not used: each span says where its sequence stands. They are in the order
        of the ids.

        Raises:
            ValueError: if a span goes past `context_length` or the cache's capacity.
        """
        self._refuse_overflow(spans, cache)
        positions = [at for s in spans for at in range(s.past, s.end)]
        x = self._tok_emb[ids] + self._pos_emb[torch.tensor(positions, device=self.device)]
        with self.pace.step(len(ids)) if self.pace else nullcontext():
            return self._through_blocks(x, StepAttention(spans, cache.store))

    def fixed(self, ids: Tensor, position: Tensor, attend: FixedAttention) -> Tensor:
        """(1,) id, (1,) position → (1, V) logits, the attention being the caller's."""
        return self.logits(
            self._through_blocks(self._tok_emb[ids] + self._pos_emb[position], attend)
        )

    def _through_blocks(self, x: Tensor, attend: StepAttention | FixedAttention) -> Tensor:
        """(N, E) → (N, E)."""
        shape = (-1, 3, self.config.n_heads, self.config.head_dim)
        for layer, block in enumerate(self._blocks):
            heads = block.qkv(block.norm1(x)).view(shape)
            self._scale_queries(layer, heads)
            x = block.out_proj.add(attend(layer, heads).flatten(1), x)
            x = block.down.add(self._up(block, block.norm2(x)), x)
        return x

    def _scale_queries(self, layer: int, heads: Tensor) -> None:
        """Where the config scales attention otherwise than by the 1 / sqrt(D) to come."""
        factor = self.config.attention_scale(layer) * self.config.head_dim**0.5
        if self.config.scale_attn_by_inverse_layer_idx or not self.config.scale_attn_weights:
            heads[:, 0] *= factor

    def _up(self, block: _Block, x: Tensor) -> Tensor:
        if self.config.activation == "gelu_new":
            return block.up(x, "gelu")
        return self._activate(block.up(x))

    def logits(self, x: Tensor) -> Tensor:
        """(N, E) → (N, V)."""
        return self._out_head(self._final_norm(x))

    def _refuse_overflow(self, spans: Sequence[Span], cache: KVCache) -> None:
        longest = max(span.end for span in spans)
        if longest > self.config.context_length:
            raise ValueError(f"{longest} tokens, but the context is {self.config.context_length}")
        if longest > cache.capacity:
            raise ValueError(f"the cache holds {cache.capacity} positions, {longest} are needed")


def _vector(weights: Weights, name: str) -> Tensor:
    """What is no matrix, in the dtype that the products give and take."""
    tensor = weights.tensor(name)
    return tensor.to(computed_in(tensor))


def _block(weights: Weights, number: int) -> _Block:
    qkv, out_proj, up, down = (weights.linear(*names) for names in of_block(number))
    norm1, norm2 = (_Norm.of(weights, f"trf_blocks.{number}.{norm}") for norm in ("norm1", "norm2"))
    return _Block(norm1, qkv, out_proj, norm2, up, down)
