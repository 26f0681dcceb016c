"""The same bits whatever computes them: the build, the threads, the cut of a prompt, the batch."""

import random
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import at_width, random_weights

from gptcli.engine import library
from gptcli.engine.native import NativeEngine, Span
from gptcli.model.config import GPTConfig

pytestmark = pytest.mark.skipif(
    library.why_unavailable() is not None, reason="needs the kernels, and so a C compiler"
)

Array = np.ndarray[Any, Any]
WIDTHS = ["float32", "bfloat16", "float16", "int8", "int4"]


def usable() -> list[str]:
    return [build.name for build in library.builds() if build.is_supported]


@cache
def model(config: GPTConfig, width: str, isa: str, threads: int) -> NativeEngine:
    weights = at_width(random_weights(config, seed=config.emb_dim), width)
    rounding: Any = width if width in {"int8", "int4"} else None
    return NativeEngine(config, weights, threads=threads, width=rounding, isa=isa)


@st.composite
def networks(draw: st.DrawFn) -> GPTConfig:
    heads = draw(st.sampled_from([1, 2, 3, 5]))
    return GPTConfig(
        vocab_size=draw(st.integers(1, 70)),
        context_length=draw(st.integers(2, 50)),
        emb_dim=heads * draw(st.sampled_from([1, 5, 16, 32, 64, 72])),
        n_heads=heads,
        n_layers=draw(st.integers(1, 3)),
        n_inner=draw(st.sampled_from([None, 3, 64, 1056])),
        activation=draw(st.sampled_from(["gelu_new", "gelu", "relu", "silu", "quick_gelu"])),
    )


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from(WIDTHS), st.integers(0, 1 << 32))
def test_builds_threads_cuts_and_batches_give_the_same_bits(
    config: GPTConfig, width: str, seed: int
) -> None:
    if width == "int4" and (config.emb_dim % 32 or config.hidden_dim % 32):
        width = "int8"
    draw = random.Random(seed)
    texts = [
        draw.choices(range(config.vocab_size), k=draw.randint(1, config.context_length))
        for _ in range(draw.randint(1, 9))
    ]
    alone = model(config, width, "plain", 1)
    expected = [alone.step([Span(alone.new_cache(len(t)), t, len(t))]) for t in texts]
    other = model(config, width, draw.choice(usable()), draw.randint(1, 4))
    caches = [other.new_cache(len(text)) for text in texts]
    while left := [n for n, text in enumerate(texts) if caches[n].length < len(text)]:
        spans, rows = [], []
        for number in draw.sample(left, draw.randint(1, len(left))):
            start, text = caches[number].length, texts[number]
            ids = text[start : start + draw.randint(1, len(text) - start)]
            spans.append(Span(caches[number], ids, draw.randint(0, len(ids))))
            end = start + len(ids)
            rows.append(expected[number][end - spans[-1].n_logits : end])
        assert (other.step(spans) == np.concatenate(rows)).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_step_of_many_texts_has_the_bits_of_short_ones(width: str) -> None:
    """More rows than one call takes, tiles of every size, and inputs taken in several parts."""
    config = GPTConfig(
        vocab_size=300, context_length=700, emb_dim=64, n_heads=1, n_layers=2, n_inner=2080
    )
    ids = [(n * n + 3) % 300 for n in range(700)]
    reference: Array | None = None
    for isa in usable():
        one = model(config, width, isa, 2)
        logits = one.step([Span(one.new_cache(), ids, 3)])
        again = one.new_cache()
        for first in range(0, 698, 349):
            one.step([Span(again, ids[first : first + 349], 0)])
        others = [Span(one.new_cache(n), ids[:n], 0) for n in range(1, 12)]
        assert (one.step([*others, Span(again, ids[698:], 2)]) == logits[1:]).all()
        reference = logits if reference is None else reference
        assert (logits == reference).all()


def test_a_copied_prefix_is_as_good_as_one_that_was_read() -> None:
    config = GPTConfig(vocab_size=50, context_length=60, emb_dim=24, n_heads=2, n_layers=2)
    one = model(config, "float32", usable()[0], 2)
    ids = [(n * n + 3) % 50 for n in range(60)]
    whole = one.step([Span(one.new_cache(), ids, 60)])
    source = one.new_cache(40)
    one.step([Span(source, ids[:37])])
    for length in (0, 1, 16, 33, 37):
        target = one.new_cache(length + 5)
        one.step([Span(target, ids[::-1][: length + 5])])  # what it held before must not matter
        target.copy_prefix(source, length)
        found = one.step([Span(target, ids[length : length + 5], 5)])
        assert (found == whole[length : length + 5]).all()
        target.truncate(length + 1)
        assert (one.step([Span(target, ids[length + 1 : length + 4], 3)]) == found[1:4]).all()
    with pytest.raises(ValueError, match="38 positions of 37"):
        target.copy_prefix(source, 38)
