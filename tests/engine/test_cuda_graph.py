"""A step of fixed shape against the ordinary one. A processor repeats it by computing it again."""

import pytest
import torch

from gptcli.engine import cuda_graph as replayed
from gptcli.engine.cuda_graph import Replayed, Step, cuda_graph
from gptcli.engine.fast import FastGPT
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained

CONFIG = GPTConfig(vocab_size=97, context_length=40, emb_dim=64, n_heads=4, n_layers=2)


def pair() -> tuple[FastGPT, FastGPT, list[Step]]:
    """An ordinary model, one of the same weights that replays, and the recordings it has made."""
    made: list[Step] = []

    def record(step: Step) -> Step:
        made.append(step)
        return step

    plain, fixed = FastGPT(untrained(CONFIG, 0)), FastGPT(untrained(CONFIG, 0))
    fixed.replayed = Replayed(fixed, record)
    return plain, fixed, made


def test_every_position_has_the_logits_of_the_ordinary_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replayed, "STEP", 16)
    plain, fixed, made = pair()
    ids = torch.randint(97, (1, 40), generator=torch.Generator().manual_seed(1))
    for prompt in (3, 20):  # the second text has a cache of its own
        caches = plain.new_cache(), fixed.new_cache()
        caches[1].store.fill_(torch.nan)  # what unused memory may hold
        for part in [ids[:, :prompt], *ids[:, prompt:].split(1, dim=1)]:
            expected, found = plain(part, caches[0]), fixed(part, caches[1])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert caches[1].length == 40
    assert len(made) == 3 + 2  # of 16, 32 and 40 positions, and of 32 and 40


def test_a_text_begun_again_sees_nothing_of_the_one_before() -> None:
    plain, fixed, made = pair()
    caches = plain.new_cache(), fixed.new_cache()
    for last in (5, 6):
        for model, cache in zip((plain, fixed), caches, strict=True):
            cache.truncate(0)
            model(torch.arange(4)[None], cache)
        for id in (last, 7, 8):
            expected, found = (
                model(torch.tensor([[id]]), cache)
                for model, cache in zip((plain, fixed), caches, strict=True)
            )
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(made) == 1


def test_a_position_past_the_cache_is_refused() -> None:
    _, fixed, _ = pair()
    cache = fixed.new_cache(capacity=2)
    fixed(torch.zeros(1, 2, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="the cache holds 2 positions, 3 are needed"):
        fixed(torch.zeros(1, 1, dtype=torch.long), cache)
    assert cache.length == 2


def test_a_processor_records_nothing() -> None:
    assert FastGPT(untrained(CONFIG, 0)).replayed is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_replays_what_it_computes() -> None:
    model = FastGPT(untrained(CONFIG, 0).to("cuda"))
    plain = FastGPT(untrained(CONFIG, 0).to("cuda"))
    plain.replayed = None
    model.replayed = Replayed(model, cuda_graph)
    ids = torch.randint(97, (1, 40), device="cuda")
    caches = plain.new_cache(), model.new_cache()
    for part in ids.split(1, dim=1):
        expected, found = plain(part, caches[0]), model(part, caches[1])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
