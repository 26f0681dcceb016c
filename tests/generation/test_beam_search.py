"""Beam search against transformers' own, and its edges by hand."""

import pytest
import torch
from engines import engine_of
from gpt2_oracle import copy_weights, lively_gpt2
from transformers import GPT2LMHeadModel

from gptcli.core.errors import RunError
from gptcli.generation.beam_search import Beam, beam_search
from gptcli.model.gpt import GPTModel
from gptcli.sampling.params import SamplingParams

SHAPE = {"vocab_size": 13, "n_positions": 40, "n_embd": 16, "n_head": 2, "n_layer": 2}
PROMPTS = [[5], [3, 9, 7, 2, 10], [11, 11, 11, 2]]
Pair = tuple[GPT2LMHeadModel, GPTModel]


def unsure(seed: int) -> Pair:
    """A model that is not sure of itself, so that beams cross, end and are overtaken; twice."""
    model = lively_gpt2(seed, **SHAPE)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(0.2)
        model.transformer.ln_f.bias.mul_(0.2)
    return model, copy_weights(model)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [unsure(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def oracle(pairs) -> GPT2LMHeadModel:
    return pairs[0][0]


@pytest.fixture(scope="module")
def model(pairs) -> GPTModel:
    return pairs[0][1]


def theirs(
    oracle: GPT2LMHeadModel, prompt: list[int], beams: int, new: int, eos: int | None, **options
) -> list[tuple[list[int], float]]:
    """transformers' beams: new tokens, end-of-text and padding cut off, and the score."""
    ids = torch.tensor([prompt])
    found = oracle.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=eos,
        pad_token_id=0,
        length_penalty=1.0,
        early_stopping=False,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    texts = [row[len(prompt) :].tolist() for row in found.sequences]
    cut = [text[: text.index(eos)] if eos in text else text[:new] for text in texts]
    return list(zip(cut, found.sequences_scores.tolist(), strict=True))


def same(ours: list[Beam], theirs: list[tuple[list[int], float]]) -> None:
    assert [list(found.ids) for found in ours] == [ids for ids, _ in theirs]
    assert [found.score for found in ours] == pytest.approx([s for _, s in theirs], abs=1e-4)


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_beams_and_scores_equal_transformers_without_an_end(oracle, model, prompt, beams) -> None:
    if beams == 1:  # transformers calls one beam greedy search, and scores nothing
        ids = torch.tensor([prompt])
        expected = oracle.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        found = beam_search(engine_of(model), prompt, SamplingParams(max_new_tokens=12), 1)
        assert list(found[0].ids) == expected[0, len(prompt) :].tolist()
        return
    found = beam_search(engine_of(model), prompt, SamplingParams(max_new_tokens=12), beams)
    same(found, theirs(oracle, prompt, beams, 12, None))
    assert {beam.finish_reason for beam in found} == {"length"}


@pytest.mark.parametrize("beams", [2, 3, 4])
def test_beams_that_end_equal_transformers(pairs, beams) -> None:
    params, mixed = SamplingParams(max_new_tokens=15), 0
    for oracle, model in pairs:
        for prompt in PROMPTS:
            open_ended = beam_search(engine_of(model), prompt, params, beams)
            for eos in {token for found in open_ended for token in found.ids}:
                found = beam_search(engine_of(model), prompt, params, beams, eos_ids=(eos,))
                same(found, theirs(oracle, prompt, beams, 15, eos))
                mixed += len({beam.finish_reason for beam in found}) == 2
    assert mixed >= 3  # the hard case has been met


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
        ({"min_new_tokens": 6}, {"min_new_tokens": 6}),
    ],
)
def test_bans_and_penalties_in_beams_equal_transformers(oracle, model, ours, options) -> None:
    params = SamplingParams(max_new_tokens=12, **ours)
    for eos in (2, 4, 10):
        found = beam_search(engine_of(model), PROMPTS[1], params, 3, eos_ids=(eos,))
        same(found, theirs(oracle, PROMPTS[1], 3, 12, eos, **options))


def test_ignore_eos_makes_the_end_an_ordinary_token(model) -> None:
    params = SamplingParams(max_new_tokens=15)
    ignoring = SamplingParams(max_new_tokens=15, ignore_eos=True)
    for eos in range(13):
        found = beam_search(engine_of(model), PROMPTS[0], ignoring, 3, eos_ids=(eos,))
        assert found == beam_search(engine_of(model), PROMPTS[0], params, 3)


def test_the_search_ends_where_the_context_does(model) -> None:
    prompt = [1 + i % 12 for i in range(38)]
    found = beam_search(engine_of(model), prompt, SamplingParams(max_new_tokens=9), 2)
    assert {len(beam.ids) for beam in found} == {3}  # the last needs no position
    assert {beam.finish_reason for beam in found} == {"context"}


def test_no_new_tokens_are_no_tokens(model) -> None:
    params = SamplingParams(max_new_tokens=0)
    assert beam_search(engine_of(model), [1], params, 3) == [Beam((), 0.0, "length")]


@pytest.mark.parametrize("prompt", [[], [1] * 41])
def test_a_prompt_that_cannot_be_read_is_refused(model, prompt) -> None:
    with pytest.raises(ValueError, match="the context is 40"):
        beam_search(engine_of(model), prompt, SamplingParams(), 2)


def test_more_beams_than_tokens_find_the_best_of_all(model) -> None:
    params = SamplingParams(max_new_tokens=2)
    found = beam_search(engine_of(model), [5], params, 50, n_vocab=4)
    with torch.inference_mode():
        first = model(torch.tensor([[5]]))[0, -1, :4].log_softmax(-1)
        totals = {
            (i, j): (first[i] + model(torch.tensor([[5, i]]))[0, -1, :4].log_softmax(-1)[j]) / 2
            for i in range(4)
            for j in range(4)
        }
    expected = sorted(totals, key=lambda pair: -totals[pair])
    assert [beam.ids for beam in found] == expected


def test_numbers_that_are_not_finite_stop_the_search(oracle) -> None:
    broken = copy_weights(oracle)
    with torch.no_grad():
        broken.final_norm.shift[3] = torch.nan
    with pytest.raises(RunError, match=r"non-finite logits at token 1 \(13 NaN, 0 inf\)"):
        beam_search(engine_of(broken), [1, 2], SamplingParams(), 2)
