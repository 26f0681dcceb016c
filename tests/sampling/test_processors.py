"""Bias, penalties and bans: transformers' processors on the same logits, and cases by hand."""

from collections import Counter
from math import inf

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from gptcli.core.errors import RunError, UsageError
from gptcli.sampling import processors
from gptcli.sampling.params import SamplingParams
from gptcli.sampling.processors import History, repeated_ngrams

V = 30
TOKENS = st.lists(st.integers(0, 4), max_size=25)


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    """Ordinary rows, and one each of equals, of huge values and of -inf."""
    rows = torch.randn(6, V, generator=torch.Generator().manual_seed(1)) * 4
    rows[3] = 1.5
    rows[4] *= 1e37
    rows[5, ::2] = -inf
    return rows


@pytest.fixture(scope="module")
def past() -> torch.Tensor:
    return torch.randint(0, V, (6, 14), generator=torch.Generator().manual_seed(2)) % 9


def penalize(logits: torch.Tensor, params, histories, eos_ids=()) -> torch.Tensor:
    """Each row by itself, as a tensor beside transformers' own."""
    rows = [
        torch.from_numpy(processors.penalize(row.numpy(), params, history, eos_ids))
        for row, history in zip(logits, histories, strict=True)
    ]
    return torch.stack(rows)


def histories(past: torch.Tensor, prompt_length: int = 4) -> list[History]:
    return [History(row.tolist(), prompt_length) for row in past]


@pytest.mark.parametrize("penalty", [0.5, 0.99, 1.3, 10.0])
def test_repetition_penalty_equals_transformers(logits, past, penalty) -> None:
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(past, logits.clone())
    ours = penalize(logits, SamplingParams(repetition_penalty=penalty), histories(past))
    assert torch.equal(ours, theirs.clamp(max=torch.finfo(torch.float32).max))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 14, 15, 40])
def test_no_repeat_ngram_equals_transformers(logits, past, size) -> None:
    theirs = NoRepeatNGramLogitsProcessor(size)(past, logits.clone())
    assert torch.equal(
        penalize(logits, SamplingParams(no_repeat_ngram=size), histories(past)), theirs
    )


@pytest.mark.parametrize("minimum", [9, 10, 11])
def test_min_new_tokens_equals_transformers(logits, past, minimum) -> None:
    theirs = MinNewTokensLengthLogitsProcessor(4, minimum, [7])(past, logits.clone())
    params = SamplingParams(min_new_tokens=minimum)
    assert torch.equal(penalize(logits, params, histories(past), eos_ids={7}), theirs)


def test_logit_bias_equals_transformers(logits, past) -> None:
    biases = ((3, 2.5), (0, -inf), (29, -7.0))
    theirs = SequenceBiasLogitsProcessor([[[token], bias] for token, bias in biases])
    ours = penalize(logits, SamplingParams(logit_bias=biases), histories(past))
    assert torch.equal(ours, theirs(past, logits.clone()))


def test_presence_and_frequency_count_new_tokens_only() -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, as OpenAI's API documents it."""
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    history = History([0, 1, 1, 2, 2, 2, 3], prompt_length=3)
    found = penalize(torch.zeros(1, 5), params, [history])
    assert found.tolist() == [[0, 0, -1.25, -0.75, 0]]
    assert Counter(history.new) == {2: 3, 3: 1}


def test_negative_penalties_encourage() -> None:
    params = SamplingParams(presence_penalty=-0.5, frequency_penalty=-0.25)
    assert penalize(torch.zeros(1, 3), params, [History([9, 1, 1], 1)]).tolist() == [[0, 1.0, 0]]


@given(TOKENS, st.integers(1, 6))
def test_a_text_without_repeated_ngrams_gets_none(prompt, size) -> None:
    """Follow the ban with any token that it allows: no n-gram occurs twice."""
    text: list[int] = []
    for token in prompt:
        allowed = [t for t in range(6) if t not in repeated_ngrams(text, size)]
        if not allowed:
            return
        text.append(allowed[token % len(allowed)])
    grams = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
    assert len(grams) == len(set(grams))


def test_the_order_is_bias_then_repetition_then_frequency() -> None:
    params = SamplingParams(
        logit_bias=((1, 3.0),), repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=1
    )
    found = penalize(torch.tensor([[1.0, 1.0, 1.0]]), params, [History([1, 1], 1)])
    assert found.tolist() == [[1, (1 + 3) / 2 - 1 - 0.5, 1]]


def test_each_row_has_its_own_history(logits, past) -> None:
    params = SamplingParams(
        repetition_penalty=1.2, presence_penalty=0.3, no_repeat_ngram=2, min_new_tokens=8
    )
    lengths = [4, 13, 1, 14, 0, 7]
    rows = [History(row.tolist(), n) for row, n in zip(past, lengths, strict=True)]
    together = penalize(logits, params, rows, eos_ids={5})
    for i, history in enumerate(rows):
        assert torch.equal(together[i : i + 1], penalize(logits[i : i + 1], params, [history], {5}))


def test_logits_are_never_changed_in_place(logits, past) -> None:
    before = logits.clone()
    params = SamplingParams(
        logit_bias=((1, 3.0),), repetition_penalty=2.0, frequency_penalty=1, no_repeat_ngram=1
    )
    penalize(logits, params, histories(past))
    assert torch.equal(logits, before)


def test_nothing_to_do_copies_nothing(logits) -> None:
    row = logits[0].numpy()
    assert processors.penalize(row, SamplingParams(), History([], 0)) is row


def test_what_a_penalty_pushes_past_float32_stays_finite() -> None:
    params = SamplingParams(repetition_penalty=0.01, logit_bias=((1, 1000),))
    found = penalize(torch.tensor([[3e38, 3.4e38, -3e38]]), params, [History([0, 1, 2], 0)])
    assert found.isfinite().all()


def test_tokens_that_only_a_padded_embedding_has_are_no_obstacle() -> None:
    params = SamplingParams(repetition_penalty=2.0, frequency_penalty=1, no_repeat_ngram=1)
    found = penalize(torch.ones(1, 3), params, [History([50, 1, 60], 1)])
    assert found.tolist() == [[1, -inf, 1]]


def test_a_bias_outside_the_vocabulary_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"must name tokens below 3, got 3") as caught:
        penalize(torch.zeros(1, 3), SamplingParams(logit_bias=((3, 1.0),)), [History([], 0)])
    assert caught.value.where == "logit_bias"


def test_a_ban_on_everything_is_an_error_and_not_token_0() -> None:
    params = SamplingParams(no_repeat_ngram=1)
    with pytest.raises(RunError, match="every token is banned"):
        penalize(torch.zeros(2, 3), params, [History([0, 1, 2], 3), History([0], 1)])
