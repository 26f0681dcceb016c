"""8-bit inputs on a trained model with a few channels that are many times larger than the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import needs_kernels

import gptcli
from gptcli.checkpoint.weights import open_checkpoint
from gptcli.engine.interface import Span
from gptcli.engine.native import NativeEngine
from gptcli.model.config import GPTConfig, read_config

pytestmark = needs_kernels

Array = np.ndarray[Any, Any]
STORIES = Path(gptcli.__file__).parent / "data" / "stories"


@pytest.fixture(scope="module")
def trained() -> tuple[GPTConfig, dict[str, Array]]:
    """The built-in model."""
    weights = open_checkpoint(
        STORIES / "model.safetensors", read_config(STORIES / "config.yaml")
    ).weights()
    return weights.config, {name: np.array(weights.tensors[name]) for name in weights.tensors}


def log_shares(logits: Array) -> Array:
    """Natural logarithms of what logits make likely."""
    scores = logits.astype(np.float64)
    scores -= scores.max(1, keepdims=True)
    shares: Array = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return shares


def of_all(engine: NativeEngine, texts: list[list[int]]) -> Array:
    """(tokens, V) of all positions."""
    logits = [engine.step([Span(engine.new_cache(), ids, len(ids))]) for ids in texts]
    return log_shares(np.concatenate(logits))


def written(engine: NativeEngine) -> list[list[int]]:
    """A few texts drawn from the model."""
    draw = np.random.default_rng(0)
    texts = []
    for _ in range(4):
        cache, ids = engine.new_cache(), [int(draw.integers(engine.config.vocab_size))]
        while len(ids) < 200:
            shares = np.exp(log_shares(engine.step([Span(cache, ids[-1:])])))[0]
            ids.append(int(draw.choice(len(shares), p=shares / shares.sum())))
        texts.append(ids)
    return texts


def enlarged(config: GPTConfig, tensors: dict[str, Array], times: float) -> dict[str, Array]:
    """The same network: four channels of each LayerNorm so much larger, what reads them smaller."""
    draw, made = np.random.default_rng(1), {name: array.copy() for name, array in tensors.items()}
    for layer in range(config.n_layers):
        block = f"trf_blocks.{layer}"
        readers = {"norm1": ["att.W_query", "att.W_key", "att.W_value"], "norm2": ["ff.layers.0"]}
        for norm, names in readers.items():
            channels = draw.permutation(config.emb_dim)[:4]
            for part in ("scale", "shift"):
                made[f"{block}.{norm}.{part}"][channels] *= np.float32(times)
            for name in names:
                made[f"{block}.{name}.weight"][:, channels] /= np.float32(times)
    return made


def test_they_cost_8_bits_less_than_a_hundredth_of_the_perplexity(
    trained: tuple[GPTConfig, dict[str, Array]],
) -> None:
    """Inputs that shared a scale with their whole row would cost several times as much."""
    config, tensors = trained
    exact = NativeEngine(config, tensors, threads=2)
    texts = written(exact)
    expected = of_all(exact, texts)
    for times, most in [(1, 0.001), (10, 0.003), (30, 0.01)]:
        weights = enlarged(config, tensors, times)
        floats = of_all(NativeEngine(config, weights, threads=2), texts)
        assert np.abs(floats - expected).max() < 1e-3  # the same network
        found = of_all(NativeEngine(config, weights, threads=2, width="int8"), texts)
        nats = (np.exp(expected) * (expected - found)).sum(1).mean()  # of perplexity's logarithm
        assert nats < most, (times, nats)
