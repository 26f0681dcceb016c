"""Sampling against transformers' warpers, exact distributions and itself in other batches."""

from math import e, inf, log, nan

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from gptcli.core.errors import RunError
from gptcli.generation.sequence import Sequence
from gptcli.sampling import filters, sampler
from gptcli.sampling.params import SamplingParams
from gptcli.sampling.processors import History, NothingLeftError
from gptcli.sampling.sampler import check_finite, refuse_non_finite, uniform

V = 211  # odd: rows of a batch begin at every alignment
PLAIN = {"temperature": 1.0, "top_p": None}
WARPERS = {
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": TypicalLogitsWarper,
}
MIXES = [
    {},
    {"temperature": 1.0, "top_p": None},
    {"top_k": 7},
    {"temperature": 1.7, "top_k": 30, "top_p": 0.8},
    {"min_p": 0.05, "top_p": 0.99},
    {"typical_p": 0.6, "top_p": None},
    {"temperature": 0.3, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9},
]


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    """Peaked, flat, constant, one-hot, -inf-laden and huge rows."""
    rows = torch.randn(8, V, generator=torch.Generator().manual_seed(3))
    rows *= torch.tensor([0.01, 1, 3, 10, 0, 1, 1, 1e36])[:, None]
    rows[5] -= 50
    rows[5, 17] = 50
    rows[6, 1::3] = -inf
    return rows


def filter_logits(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """(B, V) logits, divided by the temperature, -inf where a filter removes."""
    kept = torch.full(logits.shape, -inf)
    for row, out in zip(logits, kept, strict=True):
        ids = torch.from_numpy(filters.survivors(row.numpy(), params)[0])
        out[ids] = row[ids] / params.temperature
    return kept


def probabilities(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """(B, V) logits → (B, V), each row by itself."""
    rows = [torch.from_numpy(sampler.probabilities(row.numpy(), params)) for row in logits]
    return torch.stack(rows)


def sample(logits: torch.Tensor, params: SamplingParams, draws: list[float]) -> list[int]:
    """(B, V) logits → B ids, each row by itself."""
    return [sampler.sample(row.numpy(), params, u) for row, u in zip(logits, draws, strict=True)]


def log_probability(row: torch.Tensor, id: int) -> float:
    return sampler.log_probabilities(row.numpy(), id)[0]


def theirs(logits: torch.Tensor, **options: float) -> torch.Tensor:
    """What transformers' generate would draw from, its warpers in its order."""
    steps = LogitsProcessorList([TemperatureLogitsWarper(float(options.get("temperature", 1)))])
    for name, warper in WARPERS.items():
        if name in options:
            steps.append(warper(options[name]))
    return steps(torch.zeros(1, dtype=torch.long), logits.clone())


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 3.0},
        {"top_k": 1},
        {"top_k": 20},
        {"top_k": V + 5},
        {"top_p": 0.001},
        {"top_p": 0.5},
        {"top_p": 0.95},
        {"min_p": 0.01},
        {"min_p": 0.5},
        {"typical_p": 0.2},
        {"typical_p": 0.95},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9},
        {"temperature": 1.5, "top_k": 150, "top_p": 0.7},
    ],
)
def test_filters_equal_transformers(logits, options) -> None:
    rows = logits[[0, 1, 2, 3, 5, 6]]  # ties and float32's limit apart: see below
    ours = filter_logits(rows, SamplingParams(**{**PLAIN, **options}))
    expected = theirs(rows, **options)
    assert torch.equal(ours > -inf, expected > -inf)
    assert torch.allclose(ours, expected)


def test_probabilities_equal_transformers(logits) -> None:
    options = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}
    ours = probabilities(logits[:4], SamplingParams(**options))
    expected = theirs(logits[:4].double(), **options).softmax(dim=-1)
    assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-12)


def test_a_tie_keeps_exactly_k_where_transformers_keeps_all(logits) -> None:
    constant = logits[4:5]
    assert (theirs(constant, top_k=5) > -inf).sum() == V
    kept = filter_logits(constant, SamplingParams(**PLAIN, top_k=5)) > -inf
    assert kept.nonzero()[:, 1].tolist() == [0, 1, 2, 3, 4]


def test_top_p_of_ties_keeps_as_many_as_transformers(logits) -> None:
    tied = logits[1:2].round()
    for top_p in (0.1, 0.5, 0.9):
        ours = filter_logits(tied, SamplingParams(temperature=1.0, top_p=top_p))
        expected = theirs(tied.double(), top_p=top_p).float()
        assert torch.equal(ours.sort().values, expected.sort().values)


@pytest.mark.parametrize("options", MIXES)
def test_probabilities_sum_to_one_and_are_never_nan(logits, options) -> None:
    found = probabilities(logits, SamplingParams(**options))
    assert torch.allclose(found.sum(dim=-1), torch.ones(8, dtype=torch.float64), atol=1e-12)
    assert not found[6, 1::3].any()
    assert found.dtype == torch.float64


@pytest.mark.parametrize("options", [*MIXES, {"temperature": 0}])
def test_a_row_is_the_same_to_the_bit_wherever_it_lies(logits, options) -> None:
    """Alone, or a view into a batch at any alignment: V is odd."""
    params = SamplingParams(**options)
    draws = [uniform(5, str(i), 0, 0) for i in range(8)]
    alone = sample([row.clone() for row in logits], params, draws)
    exact = torch.stack([probabilities(row[None].clone(), params)[0] for row in logits])
    logprobs = [log_probability(row.clone(), i) for i, row in enumerate(logits)]
    for order in ([0, 1], [7, 6, 5, 4, 3, 2, 1, 0], [3] * 5, [2, 7, 1, 4, 0, 6, 5] * 4):
        batch = logits[order].contiguous()
        assert sample(batch, params, [draws[i] for i in order]) == [alone[i] for i in order]
        assert torch.equal(probabilities(batch, params), exact[order])
        found = [log_probability(row, i) for row, i in zip(batch, order, strict=True)]
        assert found == [logprobs[i] for i in order]


@pytest.mark.parametrize("options", MIXES)
def test_sample_is_a_draw_from_the_probabilities(logits, options) -> None:
    params = SamplingParams(**options)
    exact, left = probabilities(logits, params).numpy(), filter_logits(logits, params) > -inf
    for position in range(50):
        draws = [uniform(1, str(i), 0, position) for i in range(8)]
        chosen = sample(logits, params, draws)
        assert chosen == [filters.draw(row, u) for row, u in zip(exact, draws, strict=True)]
        assert left[range(8), chosen].all()


def exact(row: list[float], temperature: float, top_p: float) -> torch.Tensor:
    """The distribution of temperature and top_p, written out."""
    p = (torch.tensor(row, dtype=torch.float64) / temperature).softmax(dim=0)
    total, kept = 0.0, []
    for i in p.argsort(descending=True).tolist():
        kept.append(i)
        total += float(p[i])
        if total >= top_p:
            break
    result = torch.zeros_like(p)
    result[kept] = p[kept] / total
    return result


@pytest.mark.parametrize(("temperature", "top_p"), [(0.6, 1.0), (1.4, 0.9)])
def test_200_000_draws_have_the_exact_distribution(temperature, top_p) -> None:
    row = [1.2, -0.3, 0.0, 2.1, 0.7, -1.5, 0.7, 0.1, 1.9, -2.2]
    n, params = 200_000, SamplingParams(temperature=temperature, top_p=top_p)
    draws = [uniform(20, "", 0, position) for position in range(n)]
    # What sample does, without filtering the same row 200,000 times; see the test above.
    found = probabilities(torch.tensor([row]), params)[0].numpy()
    chosen = torch.tensor([filters.draw(found, u) for u in draws])
    expected = exact(row, temperature, top_p) * n
    counts = torch.bincount(chosen, minlength=len(row))
    assert not counts[expected == 0].any()
    observed, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    half_df = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    assert torch.special.gammaincc(half_df, statistic / 2) > 1e-3


@pytest.mark.parametrize("temperature", [0, 9e-6])
def test_greedy_takes_the_lowest_id_of_equals_and_no_draw(logits, temperature) -> None:
    params = SamplingParams(temperature=temperature)
    for row, expected in [([1, 3, 3, 2], 1), ([-inf, -5, -9, -5], 1), ([-7] * V, 0)]:
        assert sampler.sample(np.array(row, np.float32), params) == expected
    assert sample(logits, params, [0.5] * 8) == logits.argmax(dim=-1).tolist()
    assert torch.equal(probabilities(logits, params).argmax(dim=-1), logits.argmax(dim=-1))


def test_a_cold_temperature_tends_to_greedy_and_a_hot_one_to_uniform(logits) -> None:
    cold = probabilities(logits[1:4], SamplingParams(temperature=1e-4, top_p=None))
    assert (cold.gather(1, logits[1:4].argmax(dim=-1, keepdim=True)) > 0.999).all()
    hot = probabilities(logits[:4], SamplingParams(temperature=1e300, top_p=None))
    assert torch.allclose(hot, torch.full_like(hot, 1 / V))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 1}, 0),
        ({"top_k": 1, "presence_penalty": 1.0}, 1),
        ({"temperature": 0, "min_new_tokens": 3}, 1),
    ],
)
def test_penalties_come_before_the_filters(options, expected) -> None:
    text = Sequence(
        prompt=[2],
        params=SamplingParams(**options),
        context=9,
        seed=0,
        eos_ids=frozenset({0}),
        ids=[0],
    )
    token = text.choose(np.array([2.0, 1.9, 0.0], np.float32))
    assert (0 if token is None else token.id) == expected


def test_a_mask_comes_after_the_penalties_and_before_the_filters() -> None:
    row, history = np.array([3.0, 2.0, 1.0, 0.0], np.float32), History([], 0)
    params = SamplingParams(top_k=1, logit_bias=((2, 9.0), (1, -inf)))
    allowed = np.array([False, True, True, True])
    found = sampler.processed(row, params, history, (), allowed)
    assert found.tolist() == [-inf, -inf, 10.0, 0.0]
    assert sampler.sample(found, params, 0.5) == 2
    with pytest.raises(NothingLeftError):
        sampler.processed(row, params, history, (), np.array([False, True, False, False]))


def test_tokens_past_the_vocabulary_are_cut_before_anything_else() -> None:
    text = Sequence(
        prompt=[0], params=SamplingParams(temperature=0), context=9, seed=0, n_vocab=2, logprobs=1
    )
    token = text.choose(np.array([[1.0, 2.0, 50.0, nan]], np.float32))
    assert token.id == 1
    assert token.logprob == pytest.approx(-log(1 + 1 / e))
    assert token.top == ((1, token.logprob),)


def test_log_probabilities_are_those_of_the_whole_vocabulary(logits) -> None:
    rows, ids = logits[:7], torch.tensor([3, 210, 0, 5, 9, 17, 0])
    expected = rows.double().log_softmax(dim=-1).gather(1, ids[:, None])[:, 0]
    found = [log_probability(row, int(id)) for row, id in zip(rows, ids, strict=True)]
    assert torch.allclose(torch.tensor(found, dtype=torch.float64), expected)
    assert log_probability(logits[6], 1) == -inf


def test_alternatives_are_the_best_in_order_and_of_ties_the_first(logits) -> None:
    for row in logits[:4]:
        ids, values = zip(*sampler.log_probabilities(row.numpy(), 0, top=5)[1], strict=True)
        expected = row.double().log_softmax(dim=-1).topk(5)
        assert list(ids) == expected.indices.tolist()
        assert torch.allclose(torch.tensor(values, dtype=torch.float64), expected.values)
    tied = sampler.log_probabilities(np.array([0, 2, 1, 2], np.float32), 0, top=9)[1]
    assert [id for id, _ in tied] == [1, 3, 2, 0]
    assert sampler.log_probabilities(logits[0].numpy(), 0, top=0)[1] == ()


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([0.0, 1.0], (0, 0)),
        ([3e38, 3e38], (0, 0)),
        ([0.0, nan], (1, 0)),
        ([inf, -inf], (0, 2)),
        ([nan, inf], (1, 1)),
    ],
)
def test_values_that_are_not_finite_are_counted(values, counts) -> None:
    found = check_finite(np.array(values, np.float32))
    assert found == counts
    assert bool(found) == (sum(counts) > 0)


def test_values_that_are_not_finite_are_refused() -> None:
    refuse_non_finite(np.array([3e38, 3e38], np.float32), 1)
    with pytest.raises(RunError, match=r"non-finite logits at token 3 \(1 NaN, 0 inf\)"):
        refuse_non_finite(np.array([nan, 1.0], np.float32), 3)


def test_logits_are_left_as_they_were(logits) -> None:
    row = logits[1].numpy()
    row.flags.writeable = False
    params = SamplingParams(top_k=3, repetition_penalty=2)
    sampler.sample(sampler.processed(row, params, History([1], 0), (), row < 1), params, 0.5)
    sampler.probabilities(row, SamplingParams(temperature=0.3))
