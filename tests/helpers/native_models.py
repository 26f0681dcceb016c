"""Random models for the engine's tests, and the same config written naively in float64.

Numbers come from a generator of integers, so a model is the same on every machine and under every
version of NumPy.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptcli.model.config import GPTConfig

Array = NDArray[Any]
Weights = dict[str, Array]


def numbers(shape: tuple[int, ...], seed: int, deviation: float, mean: float = 0.0) -> Array:
    """Float32, roughly normal: the sum of four 16-bit integers of a 64-bit mixing function."""
    n = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(seed << 40 & (1 << 64) - 1)
    n = (n ^ (n >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's mixing
    n = (n ^ (n >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    n = n ^ (n >> np.uint64(31))
    total = sum(
        ((n >> np.uint64(16 * part)) & np.uint64(0xFFFF)).astype(np.int64) for part in range(4)
    )
    unit = (total - 2 * 65535).astype(np.float64) / (65535 / math.sqrt(3))  # variance 1
    return (unit * deviation + mean).astype(np.float32).reshape(shape)


def random_weights(
    config: GPTConfig, *, seed: int = 0, qkv_bias: bool = True, bias: bool = True, tied: bool = True
) -> Weights:
    """By the book's names; every tensor matters to the logits."""
    weights: Weights = {}

    def add(name: str, *shape: int, deviation: float, mean: float = 0.0) -> None:
        weights[name] = numbers(shape, seed * 1000 + len(weights), deviation, mean)

    E, inner = config.emb_dim, config.hidden_dim
    linears: list[tuple[str, int, int, bool]] = []
    norms = ["final_norm"]
    for layer in range(config.n_layers):
        name = f"trf_blocks.{layer}"
        norms += [f"{name}.norm1", f"{name}.norm2"]
        linears += [(f"{name}.att.W_{part}", E, E, qkv_bias) for part in ("query", "key", "value")]
        linears += [(f"{name}.att.out_proj", E, E, bias), (f"{name}.ff.layers.0", inner, E, bias)]
        linears += [(f"{name}.ff.layers.2", E, inner, bias)]
    add("tok_emb.weight", config.vocab_size, E, deviation=0.5)
    add("pos_emb.weight", config.context_length, E, deviation=0.5)
    for name, rows, cols, has_bias in linears:
        add(f"{name}.weight", rows, cols, deviation=1.5 / math.sqrt(cols))
        if has_bias:
            add(f"{name}.bias", rows, deviation=0.3)
    for name in norms:
        add(f"{name}.scale", E, deviation=0.3, mean=1.0)
        if bias:
            add(f"{name}.shift", E, deviation=0.3)
    if not tied:
        add("out_head.weight", config.vocab_size, E, deviation=0.3)
    return weights


def at_width(weights: Weights, width: str) -> Weights:
    """The same as float16 or, cut off, bfloat16; at any other width as they are."""
    if width == "float16":
        return {name: array.astype(np.float16) for name, array in weights.items()}
    if width == "bfloat16":
        return {n: (a.view(np.uint32) >> 16).astype(np.uint16) for n, a in weights.items()}
    return weights


_ERF = np.vectorize(math.erf, otypes=[float])
ACTIVATIONS = {
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + _ERF(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


def naive_logits(config: GPTConfig, weights: Weights, ids: list[int]) -> Array:
    """(T, V) float64, by the definition: no cache, a whole softmax a row."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    T, H, D = len(ids), config.n_heads, config.head_dim

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        unit = centred / np.sqrt(variance + config.layer_norm_epsilon)
        return unit * w[f"{name}.scale"] + w.get(f"{name}.shift", 0)

    x = w["tok_emb.weight"][ids] + w["pos_emb.weight"][:T]
    for layer in range(config.n_layers):
        name = f"trf_blocks.{layer}"
        h = norm(x, f"{name}.norm1")
        q, k, v = (
            linear(h, f"{name}.att.W_{part}").reshape(T, H, D).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) * config.attention_scale(layer)
        scores[:, np.triu(np.ones((T, T), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + linear((shares @ v).transpose(1, 0, 2).reshape(T, -1), f"{name}.att.out_proj")
        h = linear(norm(x, f"{name}.norm2"), f"{name}.ff.layers.0")
        x = x + linear(ACTIVATIONS[config.activation](h), f"{name}.ff.layers.2")
    return norm(x, "final_norm") @ w.get("out_head.weight", w["tok_emb.weight"]).T
