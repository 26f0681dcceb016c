"""The book's GPT: the network of chapter 4 and its key/value cache.

Names, construction order and initialisation are those of "Build a Large Language Model (From
Scratch)", so that an untrained model reproduces the book's numbers. The optional keys of a config
never change the order of random draws.

Shapes: B batch, T new tokens, S cached + new tokens, E emb_dim, H heads, D head_dim, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.model.config import GPTConfig


class LayerNorm(nn.Module):
    """(…, E) → (…, E): zero mean, unit biased variance, then scale and shift."""

    def __init__(self, emb_dim: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """The fused form of scale * (x - mean) / sqrt(var + eps) + shift."""
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class GELU(nn.Module):
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the form GPT-2 was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise, any shape."""
        return F.gelu(x, approximate="tanh")


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), OpenAI's cheaper stand-in for GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise, any shape."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    "gelu_new": GELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "quick_gelu": QuickGELU,
}


class FeedForward(nn.Module):
    """(B, T, E) → (B, T, E) through a hidden layer, four times as wide unless n_inner is given."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(config.emb_dim, config.hidden_dim, bias=config.bias),
            ACTIVATION_MODULES[config.activation](),
            nn.Linear(config.hidden_dim, config.emb_dim, bias=config.bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Each position by itself."""
        return self.layers(x)


class KVCache:
    """Keys and values of the tokens so far, so that each is computed once.

    It is an argument of `forward` and not part of the model, so that generations share no state.
    `length` is the number of positions in it, `capacity` their maximum.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch: int = 1,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = capacity or config.context_length
        shape = (config.n_layers, 2, batch, config.n_heads, self.capacity, config.head_dim)
        self.store = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, T, D) new keys and values of a layer → (B, H, S, D) all of this layer."""
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, {end} are needed")
        stored = self.store[layer, ..., :end, :]
        stored[0, :, :, self.length :] = keys
        stored[1, :, :, self.length :] = values
        return stored[0], stored[1]

    def truncate(self, length: int) -> None:
        """Drop all but the first `length` positions."""
        self.length = min(self.length, length)

    def copy_prefix(self, other: "KVCache", length: int) -> None:
        """Replace the contents by the first `length` positions of another cache."""
        if not 0 <= length <= min(other.length, self.capacity):
            raise ValueError(f"{length} positions of {other.length} do not fit in {self.capacity}")
        self.store[..., :length, :] = other.store[..., :length, :]
        self.length = length


class MultiHeadAttention(nn.Module):
    """(B, T, E) → (B, T, E): each position attends to itself and the positions before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.W_query = nn.Linear(config.emb_dim, config.emb_dim, bias=config.qkv_bias)
        self.W_key = nn.Linear(config.emb_dim, config.emb_dim, bias=config.qkv_bias)
        self.W_value = nn.Linear(config.emb_dim, config.emb_dim, bias=config.qkv_bias)
        self.out_proj = nn.Linear(config.emb_dim, config.emb_dim, bias=config.bias)
        self.drop_rate = config.drop_rates.attn
        self.scale = config.attention_scale

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        """softmax(scale Q K^T + causal mask) V, heads concatenated, then projected.

        The scale is 1 / sqrt(D) unless the config says otherwise.
        """
        queries, keys, values = self.project(x)
        if cache is not None:
            keys, values = cache.append(layer, keys, values)
        return self.out_proj(self.attend(queries, keys, values, layer))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, E) → queries, keys and values, each (B, H, T, D)."""
        return (
            self._heads(self.W_query(x)),
            self._heads(self.W_key(x)),
            self._heads(self.W_value(x)),
        )

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, layer: int) -> Tensor:
        """(B, H, T, D) queries of the last T of S positions → (B, T, E), in block `layer`."""
        T, S = queries.shape[2], keys.shape[2]
        context = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if T in {1, S} else causal_mask(T, S, queries.device),
            is_causal=1 < T == S,
            dropout_p=self.drop_rate if self.training else 0.0,
            scale=self.scale(layer),
        )
        return context.transpose(1, 2).flatten(2)  # (B, H, T, D) → (B, T, E)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.n_heads, self.head_dim)).transpose(1, 2)  # → (B, H, T, D)


def causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """(T, S) mask of the last T of S positions: true where row i may attend to column j."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each on normalised input and added to it (pre-LayerNorm)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.att = MultiHeadAttention(config)
        self.ff = FeedForward(config)
        self.norm1 = _norm(config)
        self.norm2 = _norm(config)
        self.drop_shortcut = nn.Dropout(config.drop_rates.shortcut)

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        """(B, T, E) → (B, T, E)."""
        x = x + self.drop_shortcut(self.att(self.norm1(x), cache, layer))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


def _norm(config: GPTConfig) -> LayerNorm:
    return LayerNorm(config.emb_dim, config.layer_norm_epsilon, config.bias)


class GPTModel(nn.Module):
    """The full model: ids → logits.

    Raises:
        InputError: the config has an activation that is not supported.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        config.require_computable()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.emb_dim)
        self.pos_emb = nn.Embedding(config.context_length, config.emb_dim)
        self.drop_emb = nn.Dropout(config.drop_rates.emb)
        self.trf_blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))
        self.final_norm = _norm(config)
        self.out_head = nn.Linear(config.emb_dim, config.vocab_size, bias=False)
        if config.tie_weights:
            self.out_head.weight = self.tok_emb.weight

    def forward(self, ids: Tensor, cache: KVCache | None = None, last: bool = False) -> Tensor:
        """(B, T) ids → (B, T, V) logits, or (B, 1, V) of the last position if `last`.

        With a cache, the ids continue those in it, and are added to it.

        Raises:
            ValueError: if the positions go past `context_length` or the cache's capacity.
        """
        past = cache.length if cache is not None else 0
        x = self.drop_emb(self.tok_emb(ids) + self.pos_emb(self._positions(past, ids)))
        for layer, block in enumerate(self.trf_blocks):
            x = block(x, cache, layer)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.out_head(self.final_norm(x[:, -1:] if last else x))

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> KVCache:
        """An empty cache of this model's dtype on its device."""
        return KVCache(self.config, batch, capacity, self.pos_emb.weight.dtype, self.device)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.pos_emb.weight.device

    def _positions(self, past: int, ids: Tensor) -> Tensor:
        end = past + ids.shape[1]
        if end > self.config.context_length:
            raise ValueError(f"{end} tokens, but the context is {self.config.context_length}")
        return torch.arange(past, end, device=ids.device)


def untrained(config: GPTConfig, seed: int) -> GPTModel:
    """A model in evaluation mode, with PyTorch's default initialisation drawn from `seed`.

    The caller's random state is restored.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTModel(config).eval()
