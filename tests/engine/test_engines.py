"""Both engines against the book's network: any mixture of prompts and tokens, cut anywhere."""

import numpy as np
import pytest
import torch

from gptcli.engine.interface import Engine, Span
from gptcli.engine.pytorch import TorchEngine
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, untrained

CONFIG = GPTConfig(
    vocab_size=61, context_length=32, emb_dim=24, n_heads=3, n_layers=2, qkv_bias=True
)


@pytest.fixture(scope="module")
def book() -> GPTModel:
    return untrained(CONFIG, 7)


@pytest.fixture(params=["torch"])
def engine(request: pytest.FixtureRequest, book: GPTModel) -> Engine:
    return TorchEngine(book)


def whole(book: GPTModel, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return book(torch.tensor([ids]))[0].numpy()


def test_a_prompt_cut_anywhere_beside_others_has_the_book_s_logits(engine, book):
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, CONFIG.vocab_size, n).tolist() for n in (1, 5, 17, 32)]
    caches = [engine.new_cache(len(text)) for text in texts]
    found: list[list[np.ndarray]] = [[] for _ in texts]
    while any(cache.length < len(text) for cache, text in zip(caches, texts, strict=True)):
        spans, owners = [], []
        for owner, (cache, text) in enumerate(zip(caches, texts, strict=True)):
            rest = text[cache.length :]
            if rest and rng.random() < 0.7:
                ids = rest[: int(rng.integers(1, len(rest) + 1))]
                spans.append(Span(cache, ids, len(ids)))
                owners.append(owner)
        if spans:
            logits = engine.step(spans)
            for owner, span in zip(owners, spans, strict=True):
                found[owner].append(logits[: span.n_logits])
                logits = logits[span.n_logits :]
    for text, parts in zip(texts, found, strict=True):
        np.testing.assert_allclose(np.concatenate(parts), whole(book, text), atol=1e-4)


def test_only_the_wanted_logits_come_back(engine, book):
    cache, other = engine.new_cache(), engine.new_cache()
    logits = engine.step([Span(cache, [1, 2, 3], 0), Span(other, [4, 5, 6], 2)])
    np.testing.assert_allclose(logits, whole(book, [4, 5, 6])[1:], atol=1e-4)
    assert engine.step([Span(cache, [7], 0)]).shape == (0, CONFIG.vocab_size)
    assert (cache.length, other.length) == (4, 3)


def test_a_cache_goes_on_from_a_copied_beginning(engine, book):
    text = [3, 1, 4, 1, 5, 9, 2, 6]
    cache, copy = engine.new_cache(8), engine.new_cache(8)
    engine.step([Span(cache, text, 0)])
    engine.step([Span(copy, [7, 7, 7], 0)])
    copy.copy_prefix(cache, 5)
    np.testing.assert_allclose(
        engine.step([Span(copy, text[5:])])[0], whole(book, text)[-1], atol=1e-4
    )
    cache.truncate(3)
    np.testing.assert_allclose(
        engine.step([Span(cache, [8, 8])])[0], whole(book, [3, 1, 4, 8, 8])[-1], atol=1e-4
    )


def test_what_does_not_fit_is_refused_and_changes_nothing(engine):
    cache = engine.new_cache(4)
    with pytest.raises(ValueError, match="holds 4"):
        engine.step([Span(cache, [0] * 5)])
    with pytest.raises(ValueError, match="context is 32"):
        engine.step([Span(engine.new_cache(), [0] * 33)])
    engine.step([Span(cache, [1, 2], 0)])
    with pytest.raises(ValueError, match="positions of"):
        engine.new_cache(4).copy_prefix(cache, 3)
    with pytest.raises(ValueError, match="positions of"):
        engine.new_cache(1).copy_prefix(cache, 2)
    assert cache.length == 2
