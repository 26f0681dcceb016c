"""Weights in whatever form they come: turned, fused, unaligned, rounded here or by `quantize`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import Weights, at_width, numbers, random_weights

from gptcli.core.errors import UsageError
from gptcli.engine import library
from gptcli.engine.native import NativeEngine, Span
from gptcli.engine.quantize import bfloat16, to_int4, to_int8
from gptcli.model.config import GPTConfig

pytestmark = pytest.mark.skipif(
    library.why_unavailable() is not None, reason="needs the kernels, and so a C compiler"
)

Array = np.ndarray[Any, Any]
NETWORK = GPTConfig(vocab_size=61, context_length=40, emb_dim=96, n_heads=4, n_layers=2, n_inner=64)
IDS = [(7 * n + 3) % 61 for n in range(40)]
WIDTHS: list[Any] = [None, "int8", "int4"]


def logits(weights: Weights, config: GPTConfig = NETWORK, **how: Any) -> Array:
    model = NativeEngine(config, weights, threads=2, **how)
    return model.step([Span(model.new_cache(), IDS, len(IDS))])


def matrices(weights: Weights) -> list[str]:
    return [name for name, array in weights.items() if array.ndim == 2]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_way_weights_lie_in_memory_changes_no_bit(
    dtype: str, width: Any, tmp_path: Path
) -> None:
    weights = at_width(random_weights(NETWORK), dtype)
    expected = logits(weights, width=width)
    turned = {n: np.ascontiguousarray(a.T).T if a.ndim == 2 else a for n, a in weights.items()}
    apart = {n: np.repeat(a, 2, axis=-1)[..., ::2] for n, a in weights.items()}
    wide = {n: np.pad(a, (0, 5))[: len(a), : a.shape[1]] for n, a in weights.items() if a.ndim > 1}
    odd: Weights = {}
    for number, (name, array) in enumerate(weights.items()):
        path = tmp_path / str(number)
        path.write_bytes(b"x" + array.tobytes())
        odd[name] = np.memmap(path, array.dtype, "r", offset=1, shape=array.shape)
    for other in (turned, apart, weights | wide, odd):
        assert (logits(other, width=width) == expected).all()
    fused = dict(weights)
    for layer in range(NETWORK.n_layers):
        for kind in ("weight", "bias"):
            parts = [f"trf_blocks.{layer}.att.W_{p}.{kind}" for p in ("query", "key", "value")]
            whole = np.concatenate([fused.pop(part) for part in parts])
            fused[f"trf_blocks.{layer}.att.qkv.{kind}"] = np.ascontiguousarray(whole.T).T
    assert (logits(fused, width=width) == expected).all()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["int8", "int4"]),
    st.sampled_from([1, 3, 16, 20]).map(lambda n: 32 * n),
    st.integers(0, 1 << 30),
    st.sampled_from(["float32", "float16", "bfloat16"]),
)
def test_rounding_here_has_the_bits_of_what_quantize_stores(
    width: Any, inner: int, seed: int, dtype: str
) -> None:
    config = GPTConfig(
        vocab_size=61, context_length=40, emb_dim=32, n_heads=2, n_layers=1, n_inner=inner
    )
    weights = at_width(random_weights(config, seed=seed), dtype)
    stored: Weights = {}
    for name, array in weights.items():
        floats = (
            (array.astype(np.uint32) << 16).view(np.float32)
            if array.dtype == np.uint16
            else array.astype(np.float32)
        )
        if array.ndim < 2 or name == "pos_emb.weight":
            stored[name] = array
        elif width == "int8" or name == "tok_emb.weight":
            rounded = to_int8(floats)
            stored |= {f"{name}.values": rounded.values, f"{name}.scales": rounded.scales}
        else:
            parts = to_int4(floats)
            stored |= {f"{name}.levels": parts.levels, f"{name}.scales": parts.scales}
            stored |= {f"{name}.zeros": parts.zeros}
    assert (logits(stored, config) == logits(weights, config, width=width)).all()


def test_products_of_rounded_weights_are_those_of_the_values() -> None:
    """The head alone: what NumPy computes in float64 of the rounded inputs and weights."""
    config = GPTConfig(vocab_size=400, context_length=4, emb_dim=96, n_heads=1, n_layers=1)
    weights = random_weights(config, tied=False)
    for name in matrices(weights):
        if name.startswith("trf"):
            weights[name] = np.zeros_like(weights[name])
    for name in list(weights):
        if name.startswith("trf") and name.endswith("bias"):
            del weights[name]
    model = NativeEngine(config, weights, threads=1, width="int8")
    x = to_int8(weights["tok_emb.weight"]).floats()[5].astype(np.float64)
    x = x + weights["pos_emb.weight"][0]
    x = (x - x.mean()) / np.sqrt(x.var() + config.layer_norm_epsilon)
    x = x * weights["final_norm.scale"] + weights["final_norm.shift"]
    groups = x.reshape(3, 32)
    scales = np.abs(groups).max(1, keepdims=True) / 127
    rounded = np.rint(groups / scales) * scales
    head = to_int8(weights["out_head.weight"]).floats().astype(np.float64)
    found = model.step([Span(model.new_cache(), [5])])[0]
    np.testing.assert_allclose(found, head @ rounded.reshape(96), atol=2e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-20, 1e10])
def test_weights_of_any_size_are_rounded(scale: float) -> None:
    weights = random_weights(NETWORK)
    name = "trf_blocks.0.ff.layers.0.weight"
    weights[name] = weights[name] * np.float32(scale)
    for width in WIDTHS:
        assert np.isfinite(logits(weights, width=width)).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_weights_that_are_not_finite_give_no_number(width: Any) -> None:
    for value in (np.nan, np.inf, -np.inf):
        weights = random_weights(NETWORK)
        weights["trf_blocks.0.ff.layers.0.weight"][5, 40] = value
        assert np.isnan(logits(weights, width=width)).all()


def test_int4_needs_whole_groups() -> None:
    config = GPTConfig(vocab_size=9, context_length=4, emb_dim=48, n_heads=2, n_layers=1)
    with pytest.raises(UsageError, match=r"multiple of 32 \(found 48\)\. Use int8"):
        NativeEngine(config, random_weights(config), width="int4")


def test_bfloat16_and_its_floats_give_the_same_bits() -> None:
    weights = random_weights(NETWORK)
    narrow = {name: bfloat16(array) for name, array in weights.items()}
    wide = {n: (a.astype(np.uint32) << 16).view(np.float32) for n, a in narrow.items()}
    assert (logits(narrow) == logits(wide)).all()
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    halves["trf_blocks.0.att.W_key.weight"] = numbers((96, 96), 3, 1e-6).astype(np.float16)
    floats = {name: array.astype(np.float32) for name, array in halves.items()}
    assert (logits(halves) == logits(floats)).all()
