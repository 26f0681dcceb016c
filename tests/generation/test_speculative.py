"""Guessing changes no token, whoever guesses and however badly."""

import random
import re

import pytest
import torch
from engines import engine_of
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2

from gptcli.engine.interface import Engine
from gptcli.generation.decode import Generation, Prompt
from gptcli.generation.sequence import Sequence
from gptcli.generation.speculative import Drafter, DraftModel, PromptLookup, Speculation
from gptcli.sampling.constraint import Matcher, matcher
from gptcli.sampling.params import SamplingParams


class Oracle:
    """Guesses a text it was told, with mistakes now and then."""

    def __init__(self, ids: list[int], wrong: float) -> None:
        self.ids, self.wrong, self.rng = ids, wrong, random.Random(0)

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        here = self.ids[len(sequence.ids) : len(sequence.ids) + count]
        return [96 if self.rng.random() < self.wrong else id for id in here]


@pytest.fixture(scope="module")
def model() -> Engine:
    return engine_of(copy_weights(lively_gpt2(**SHAPES[1])))


def plain(model: Engine, ids: list[int], params: SamplingParams, **options: object) -> list[int]:
    prompt = Prompt(model, ids, params.max_new_tokens)
    return [token.id for token in Generation(prompt, params, seed=4, **options)]  # type: ignore[arg-type]


def guessed(
    model: Engine, ids: list[int], params: SamplingParams, drafter: Drafter, **options: object
) -> tuple[list[int], Speculation]:
    prompt = Prompt(model, ids, params.max_new_tokens)
    speculation = Speculation(prompt, drafter)
    generation = Generation(prompt, params, seed=4, speculation=speculation, **options)  # type: ignore[arg-type]
    return [token.id for token in generation], speculation


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("wrong", [0.0, 0.4, 1.0])
def test_right_and_wrong_guesses_change_no_token(
    model: Engine, temperature: float, wrong: float
) -> None:
    params = SamplingParams(max_new_tokens=34, temperature=temperature)
    expected = plain(model, [1, 2, 3], params)
    written, speculation = guessed(model, [1, 2, 3], params, Oracle(expected, wrong))
    assert written == expected
    assert speculation.drafted > 0
    assert (speculation.accepted > 0) == (wrong < 1)


def test_right_guesses_save_readings_of_the_weights(model: Engine) -> None:
    params = SamplingParams(max_new_tokens=30, temperature=0.0)
    expected = plain(model, [1, 2, 3], params)
    _, speculation = guessed(model, [1, 2, 3], params, Oracle(expected, 0.0))
    assert speculation.accepted == speculation.drafted >= 24  # 29 tokens in 9s: at most 5 steps


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lookup_and_a_draft_model_change_no_token(model: Engine, temperature: float) -> None:
    params = SamplingParams(max_new_tokens=30, temperature=temperature, repetition_penalty=1.1)
    small = engine_of(copy_weights(lively_gpt2(seed=9, **SHAPES[1])))
    expected = plain(model, [5, 6, 7, 5, 6], params, eos_ids=frozenset({3}))
    for drafter in (PromptLookup(), DraftModel(small), DraftModel(model)):
        written, speculation = guessed(
            model, [5, 6, 7, 5, 6], params, drafter, eos_ids=frozenset({3})
        )
        assert written == expected
    assert speculation.accepted == speculation.drafted > 0  # the model itself guesses all


def test_several_samples_of_one_prompt_can_share_a_drafter(model: Engine) -> None:
    params, lookup = SamplingParams(max_new_tokens=20, temperature=1.0), PromptLookup()
    prompt = Prompt(model, [5, 6, 5, 6], 20)
    speculation = Speculation(prompt, lookup)
    for sample in range(3):
        generation = Generation(prompt, params, seed=4, sample=sample, speculation=speculation)
        written = [token.id for token in generation]
        assert written == plain(model, [5, 6, 5, 6], params, sample=sample)


def test_guesses_stop_where_the_context_or_the_length_does(model: Engine) -> None:
    params = SamplingParams(max_new_tokens=99, temperature=0.0)
    expected = plain(model, [2] * 30, params)
    assert len(expected) == 11
    assert guessed(model, [2] * 30, params, Oracle([*expected] * 9, 0.0))[0] == expected


def test_lookup_finds_what_followed_the_longest_known_run() -> None:
    def proposed(ids: list[int], count: int = 3) -> list[int]:
        text = Sequence(prompt=ids, params=SamplingParams(), context=99, seed=0)
        return PromptLookup().propose(text, count)

    assert proposed([1, 2, 3, 4, 9, 1, 2, 3]) == [4, 9, 1]
    assert proposed([1, 2, 3, 1, 2, 4, 8, 1, 2]) == [4, 8, 1]  # the later of two equal runs
    assert proposed([1, 2, 3, 4]) == []
    assert proposed([1]) == []


def test_guessing_pauses_while_nothing_comes_true(model: Engine) -> None:
    class Wrong:
        asked = 0

        def propose(self, sequence: Sequence, count: int) -> list[int]:
            self.asked += 1
            return [96] * min(count, 1)

    long = engine_of(
        copy_weights(lively_gpt2(vocab_size=97, n_positions=200, n_embd=24, n_head=3, n_layer=1))
    )
    drafter = Wrong()
    params = SamplingParams(max_new_tokens=90, temperature=0.0, logit_bias=((96, float("-inf")),))
    expected = plain(long, [1], params)
    assert guessed(long, [1], params, drafter)[0] == expected
    assert drafter.asked == 32
    assert torch.is_inference_mode_enabled() is False


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guesses_against_a_constraint_change_no_token(model: Engine, temperature: float) -> None:
    """A token is the byte of its id here, and its byte alone."""

    class Bytes:
        n_vocab, eos_ids = model.config.vocab_size, frozenset({3})
        token_bytes = staticmethod(lambda id: bytes([id]))
        encode = staticmethod(lambda text: list(text.encode()))
        special_tokens, id_of = (), None

    params = SamplingParams(max_new_tokens=30, temperature=temperature, regex="([0-9][A-Z]{2})+")
    options = {"eos_ids": frozenset({3})}

    def constraint() -> Matcher | None:
        return matcher(params.constraint, Bytes())

    expected = plain(model, [5, 6, 7], params, **options, constraint=constraint())
    assert re.fullmatch("([0-9][A-Z]{2})+([0-9][A-Z]?)?", bytes(expected).decode())
    small = engine_of(copy_weights(lively_gpt2(seed=9, **SHAPES[1])))
    for drafter in (PromptLookup(), DraftModel(small), Oracle(expected, 0.4)):
        written, _ = guessed(model, [5, 6, 7], params, drafter, **options, constraint=constraint())
        assert written == expected
