"""The kernels against a naive config in float64, the book's, and transformers'."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2
from native_models import naive_logits, random_weights

from gptcli.core.errors import UsageError
from gptcli.engine import library
from gptcli.engine.native import NativeEngine, Span
from gptcli.model.config import GPTConfig

pytestmark = pytest.mark.skipif(
    library.why_unavailable() is not None, reason="needs the kernels, and so a C compiler"
)

SMALL = GPTConfig(vocab_size=61, context_length=40, emb_dim=32, n_heads=4, n_layers=2)


def builds() -> list[str]:
    """What this processor runs."""
    if library.why_unavailable():
        return []
    return [build.name for build in library.builds() if build.is_supported]


def all_logits(model: NativeEngine, ids: list[int]) -> np.ndarray[Any, Any]:
    return model.step([Span(model.new_cache(len(ids)), ids, len(ids))])


@pytest.mark.parametrize("isa", builds())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_are_those_of_transformers_and_of_the_book(shape: dict[str, int], isa: str) -> None:
    oracle = lively_gpt2(**shape)
    book = copy_weights(oracle)
    c = book.config
    config = GPTConfig(
        vocab_size=c.vocab_size,
        context_length=c.context_length,
        emb_dim=c.emb_dim,
        n_heads=c.n_heads,
        n_layers=c.n_layers,
    )
    weights = {name: tensor.numpy() for name, tensor in book.state_dict().items()}
    del weights["out_head.weight"]
    model = NativeEngine(config, weights, threads=2, isa=isa)
    ids = [(7 * n + 3) % c.vocab_size for n in range(c.context_length)]
    found = all_logits(model, ids)
    with torch.no_grad():
        for expected in (oracle(torch.tensor([ids])).logits[0], book(torch.tensor([ids]))[0]):
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=0)
            assert (found.argmax(1) == expected.numpy().argmax(1)).all()


CHOICES: list[dict[str, Any]] = [
    {},
    {"activation": "gelu"},
    {"activation": "relu"},
    {"activation": "silu"},
    {"activation": "quick_gelu"},
    {"n_inner": 50},
    {"n_inner": 7},
    {"layer_norm_epsilon": 0.1},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"emb_dim": 30, "n_heads": 3},
    {"emb_dim": 21, "n_heads": 7, "n_layers": 3},
    {"emb_dim": 150, "n_heads": 2},
    {"vocab_size": 1},
    {"emb_dim": 1, "n_heads": 1, "n_inner": 1},
]


@pytest.mark.parametrize("changes", CHOICES, ids=str)
@pytest.mark.parametrize(
    "parts", [{}, {"qkv_bias": False}, {"bias": False}, {"tied": False}], ids=str
)
def test_logits_are_those_of_the_definition(
    changes: dict[str, Any], parts: dict[str, bool]
) -> None:
    sizes = {"vocab_size": 61, "context_length": 40, "emb_dim": 32, "n_heads": 4, "n_layers": 2}
    config = GPTConfig(**sizes | changes)
    weights = random_weights(config, seed=1, **parts)
    ids = [(7 * n + 3) % config.vocab_size for n in range(config.context_length)]
    found = all_logits(NativeEngine(config, weights, threads=1), ids)
    np.testing.assert_allclose(found, naive_logits(config, weights, ids), atol=2e-4, rtol=1e-5)


def test_an_unknown_or_unsupported_instruction_set_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GPTCLI_ISA", "sse9")
    with pytest.raises(UsageError, match=r'GPTCLI_ISA: unknown .*found "sse9", expected .*plain'):
        NativeEngine(SMALL, random_weights(SMALL))
    monkeypatch.setenv("GPTCLI_ISA", "plain")
    assert NativeEngine(SMALL, random_weights(SMALL)).build.name == "plain"
    for build in library.builds():
        if not build.is_supported:
            with pytest.raises(UsageError, match="this processor does not run it"):
                library.choose_build(build.name)


def test_what_does_not_fit_is_refused_before_the_kernels_see_it() -> None:
    weights = random_weights(SMALL)
    model = NativeEngine(SMALL, weights, threads=1)
    cache = model.new_cache(20)
    bad: list[tuple[Span, str]] = [
        (Span(cache, [61]), "ids from 61"),
        (Span(cache, [-1]), "ids from -1"),
        (Span(cache, [0] * 33), "the cache holds 20"),
        (Span(model.new_cache(), [0] * 41), "41 tokens, but the context is 40"),
        (Span(cache, [0], 2), "logits of 2 ids"),
    ]
    for span, message in bad:
        with pytest.raises(ValueError, match=message):
            model.step([span])
    with pytest.raises(ValueError, match="twice"):
        model.step([Span(cache, [0]), Span(cache, [1])])
    for name, wrong in [
        ("tok_emb.weight", np.zeros((61, 31), np.float32)),
        ("final_norm.scale", np.zeros(33, np.float32)),
        ("trf_blocks.1.ff.layers.2.weight", np.zeros((32, 128), np.float64)),
    ]:
        with pytest.raises(ValueError, match=name):
            NativeEngine(SMALL, weights | {name: wrong})
    del weights["pos_emb.weight"]
    with pytest.raises(ValueError, match=r"pos_emb\.weight: missing"):
        NativeEngine(SMALL, weights)


def test_a_row_that_is_not_finite_is_nan_and_leaves_the_others_alone() -> None:
    weights = random_weights(SMALL)
    weights["tok_emb.weight"] = weights["tok_emb.weight"].copy()
    weights["out_head.weight"] = weights["tok_emb.weight"].copy()
    good = NativeEngine(SMALL, weights, threads=2)
    expected = good.step([Span(good.new_cache(), [3, 4, 5])])
    for bad in (np.nan, np.inf, 1e38):
        weights["tok_emb.weight"][7, 5] = bad
        for width in (None, "int8", "int4"):
            model = NativeEngine(SMALL, weights, threads=2, width=width)
            spans = [Span(model.new_cache(), ids) for ids in ([3, 4, 5], [1, 7, 2])]
            found = model.step(spans)
            assert np.isnan(found[1]).all() or bad == 1e38
            assert np.isfinite(found[0]).all()
            if width is None:
                assert (found[0] == expected[0]).all()


def test_no_pytorch_is_imported() -> None:
    script = "import sys, gptcli.engine.native; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
