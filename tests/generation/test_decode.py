"""The loop against transformers' generate, a naive loop without a cache, and its own promises."""

import itertools

import pytest
import torch
from engines import engine_of
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2

from gptcli.core.errors import RunError, UsageError
from gptcli.generation.decode import Generation, Prompt, Token
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, untrained
from gptcli.sampling.params import SamplingParams

TINY = GPTConfig(vocab_size=50, context_length=12, emb_dim=8, n_heads=2, n_layers=2)


@pytest.fixture(scope="module")
def model() -> GPTModel:
    return copy_weights(lively_gpt2(**SHAPES[1]))


def generated(
    model: GPTModel, ids: list[int], max_new_tokens: int, **options: object
) -> tuple[list[int], str | None]:
    sampling = {name: options.pop(name) for name in list(options) if hasattr(SamplingParams, name)}
    params = SamplingParams(max_new_tokens=max_new_tokens, **sampling)  # type: ignore[arg-type]
    overflow = options.get("overflow", "stop")
    prompt = Prompt(engine_of(model), ids, max_new_tokens, overflow)  # type: ignore[arg-type]
    generation = Generation(prompt, params, **{"seed": 0, **options})  # type: ignore[arg-type]
    tokens = [token.id for token in generation]
    assert tokens == generation.ids
    return tokens, generation.finish_reason


@torch.inference_mode()
def naive_greedy(model: GPTModel, ids: list[int], max_new_tokens: int) -> list[int]:
    """The book's generate_text_simple: no cache, the last context_length tokens, argmax, append."""
    ids = list(ids)
    for _ in range(max_new_tokens):
        window = torch.tensor([ids[-model.config.context_length :]])
        ids.append(int(model(window)[0, -1].argmax()))
    return ids[-max_new_tokens:]


def test_greedy_equals_transformers_generate() -> None:
    oracle = lively_gpt2(**SHAPES[1])
    ids = torch.randint(SHAPES[1]["vocab_size"], (1, 7))
    expected = oracle.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=25,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, 7:]
    tokens, reason = generated(copy_weights(oracle), ids[0].tolist(), 25, temperature=0.0)
    assert (tokens, reason) == (expected.tolist(), "length")


@pytest.mark.parametrize("length", [1, 39, 40, 55])
def test_sliding_equals_the_books_loop_past_the_context(model: GPTModel, length: int) -> None:
    ids = [n % 97 for n in range(3, 3 + length)]
    tokens, reason = generated(model, ids, 50, temperature=0.0, overflow="slide")
    assert (tokens, reason) == (naive_greedy(model, ids, 50), "length")


def test_at_the_end_of_the_context_it_stops_with_every_position_used(model: GPTModel) -> None:
    tokens, reason = generated(model, [5] * 30, 50, temperature=0.0)
    assert reason == "context"
    assert tokens == naive_greedy(model, [5] * 30, 11)  # 40 positions read, an 11th token chosen


def test_overflow_error_keeps_the_tokens_and_says_where(model: GPTModel) -> None:
    prompt = Prompt(engine_of(model), [5] * 30, 50)
    generation = Generation(prompt, SamplingParams(temperature=0.0), seed=0, overflow="error")
    with pytest.raises(RunError, match="context: full after 11 new tokens"):
        list(generation)
    assert len(generation.ids) == 11


def test_a_prompt_that_is_too_long_or_empty_is_a_usage_error(model: GPTModel) -> None:
    with pytest.raises(UsageError, match=r"too long \(41 tokens, expected at most 40"):
        Prompt(engine_of(model), [1] * 41, 1)
    with pytest.raises(UsageError, match="prompt: is empty"):
        Prompt(engine_of(model), [], 1)


def test_the_end_of_text_token_stops_and_is_left_out(model: GPTModel) -> None:
    tokens, _ = generated(model, [1, 2], 20, temperature=0.0)
    eos_id = tokens[4]
    first = tokens.index(eos_id)
    stopped = generated(model, [1, 2], 20, temperature=0.0, eos_ids=frozenset({eos_id}))
    assert stopped == (tokens[:first], "stop")
    ignored = generated(
        model, [1, 2], 20, temperature=0.0, eos_ids=frozenset({eos_id}), ignore_eos=True
    )
    assert ignored == (tokens, "length")


def test_min_new_tokens_bans_the_end_of_text_token_until_then(model: GPTModel) -> None:
    first = generated(model, [1, 2], 1, temperature=0.0)[0][0]
    tokens, _ = generated(
        model, [1, 2], 20, temperature=0.0, eos_ids=frozenset({first}), min_new_tokens=6
    )
    assert len(tokens) >= 6


def test_zero_new_tokens_are_none(model: GPTModel) -> None:
    assert generated(model, [1], 0) == ([], "length")


def test_a_deadline_and_an_interruption_end_it_between_tokens(model: GPTModel) -> None:
    assert generated(model, [1], 9, deadline=0.0) == ([], "time")
    calls = itertools.count()
    tokens, reason = generated(model, [1], 9, stopped=lambda: next(calls) >= 3)
    assert (len(tokens), reason) == (3, "interrupted")


def test_a_sample_depends_on_seed_record_and_sample_number_only(model: GPTModel) -> None:
    def text(**draw: object) -> list[int]:
        return generated(model, [1, 2, 3], 20, temperature=1.5, **draw)[0]

    assert text(seed=1) == text(seed=1)
    different = [text(seed=1), text(seed=2), text(seed=1, sample=1), text(seed=1, record="a")]
    assert len({tuple(tokens) for tokens in different}) == 4


def test_samples_share_a_prompt_that_is_read_once(model: GPTModel) -> None:
    params = SamplingParams(max_new_tokens=8, temperature=1.5)
    prompt = Prompt(engine_of(model), [1, 2, 3], 8)
    shared = [[t.id for t in Generation(prompt, params, seed=7, sample=n)] for n in range(3)]
    alone = [generated(model, [1, 2, 3], 8, temperature=1.5, seed=7, sample=n)[0] for n in range(3)]
    assert shared == alone


def test_log_probabilities_are_those_of_the_models_own_logits(model: GPTModel) -> None:
    prompt = Prompt(engine_of(model), [4, 5], 3)
    params = SamplingParams(max_new_tokens=3, temperature=0.3, top_k=2)
    tokens: list[Token] = list(Generation(prompt, params, seed=0, logprobs=4))
    ids = [4, 5, *(token.id for token in tokens)]
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0].log_softmax(-1)
    for position, token in enumerate(tokens, start=1):
        assert token.logprob == pytest.approx(float(expected[position, token.id]), abs=1e-4)
        best = expected[position].topk(4)
        assert [id for id, _ in token.top] == best.indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_ids_past_the_tokenizers_vocabulary_are_never_drawn(model: GPTModel) -> None:
    tokens, _ = generated(model, [1], 30, temperature=5.0, top_p=None, n_vocab=3)
    assert set(tokens) <= {0, 1, 2}


def test_non_finite_logits_are_an_error_that_keeps_what_came_before() -> None:
    model = untrained(TINY, 0)
    prompt = Prompt(engine_of(model), [1], 5)
    generation = Generation(prompt, SamplingParams(max_new_tokens=5), seed=0)
    tokens = iter(generation)
    next(tokens)
    with torch.no_grad():
        model.out_head.weight[3] = float("nan")
    with pytest.raises(RunError, match="non-finite logits at token 2"):
        next(tokens)
    assert len(generation.ids) == 1
