"""Sampling against transformers' warpers, exact distributions and itself in other batches."""

from math import e, inf, log, nan

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
from gptcli.sampling.sampler import (
    History,
    SamplingParams,
    alternatives,
    check_finite,
    choose,
    filter_logits,
    greedy,
    log_probabilities,
    probabilities,
    refuse_non_finite,
    sample,
    uniform,
    within_vocabulary,
)

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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_to_the_bit_in_any_batch(logits, options, dtype) -> None:
    params, rows = SamplingParams(**options), logits.to(dtype)
    draws = [uniform(5, str(i), 0, 0) for i in range(8)]
    alone = [sample(rows[i : i + 1], params, draws[i : i + 1]).item() for i in range(8)]
    exact = torch.cat([probabilities(rows[i : i + 1], params) for i in range(8)])
    for order in ([0, 1], [7, 6, 5, 4, 3, 2, 1, 0], [3] * 5, [2, 7, 1, 4, 0, 6, 5] * 4):
        batch = rows[order].contiguous()
        chosen = sample(batch, params, [draws[i] for i in order])
        assert chosen.tolist() == [alone[i] for i in order]
        assert torch.equal(probabilities(batch, params), exact[order])
        one_by_one = [log_probabilities(rows[i : i + 1], torch.tensor([i])) for i in order]
        assert torch.equal(log_probabilities(batch, torch.tensor(order)), torch.cat(one_by_one))


@pytest.mark.parametrize("options", MIXES)
def test_sample_is_choose_after_probabilities(logits, options) -> None:
    params = SamplingParams(**options)
    for position in range(50):
        draws = [uniform(1, str(i), 0, position) for i in range(8)]
        chosen = sample(logits, params, draws)
        assert torch.equal(chosen, choose(probabilities(logits, params), draws))
        assert (filter_logits(logits, params).gather(1, chosen[:, None]) > -inf).all()


def test_every_row_needs_its_own_draw(logits) -> None:
    with pytest.raises(ValueError, match="shorter"):
        sample(logits, SamplingParams(), [0.5] * 7)


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
    chosen = choose(probabilities(torch.tensor([row]), params).expand(n, -1), draws)
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
    assert sample(torch.tensor([[1.0, 3, 3, 2], [-inf, -5, -9, -5]]), params, []).tolist() == [1, 1]
    assert sample(torch.full((2, V), -7.0), params, []).tolist() == [0, 0]
    assert torch.equal(sample(logits, params, []), logits.argmax(dim=-1))
    assert torch.equal(probabilities(logits, params).argmax(dim=-1), greedy(logits))


def test_a_cold_temperature_tends_to_greedy_and_a_hot_one_to_uniform(logits) -> None:
    cold = probabilities(logits[1:4], SamplingParams(temperature=1e-4, top_p=None))
    assert (cold.gather(1, greedy(logits[1:4])[:, None]) > 0.999).all()
    hot = probabilities(logits[:4], SamplingParams(temperature=1e300, top_p=None))
    assert torch.allclose(hot, torch.full_like(hot, 1 / V))


def test_penalties_come_before_the_filters() -> None:
    row = torch.tensor([[2.0, 1.9, 0.0]])
    history = [History([0], 0)]
    params = SamplingParams(top_k=1, presence_penalty=1.0)
    assert sample(row, SamplingParams(top_k=1), [0.5], history).tolist() == [0]
    assert sample(row, params, [0.5], history).tolist() == [1]
    banned = SamplingParams(temperature=0, min_new_tokens=2)
    assert sample(row, banned, [], history, eos_ids={0}).tolist() == [1]


def test_tokens_past_the_vocabulary_are_cut_before_anything_else() -> None:
    padded = torch.tensor([[1.0, 2.0, 50.0, nan]])
    known = within_vocabulary(padded, 2)
    assert sample(known, SamplingParams(temperature=0), []).tolist() == [1]
    assert log_probabilities(known, torch.tensor([0])).item() == pytest.approx(-log(1 + e))
    assert within_vocabulary(padded, None) is padded


def test_log_probabilities_are_those_of_the_whole_vocabulary(logits) -> None:
    rows, ids = logits[:7], torch.tensor([3, 210, 0, 5, 9, 17, 0])
    expected = rows.double().log_softmax(dim=-1).gather(1, ids[:, None])[:, 0]
    assert torch.allclose(log_probabilities(rows, ids), expected)
    assert log_probabilities(logits[6:7], torch.tensor([1])).item() == -inf


def test_alternatives_are_the_best_in_order_and_of_ties_the_first(logits) -> None:
    ids, values = alternatives(logits[:4], 5)
    expected = logits[:4].double().log_softmax(dim=-1).topk(5)
    assert torch.equal(ids, expected.indices)
    assert torch.allclose(values, expected.values)
    tied = alternatives(torch.tensor([[0.0, 2.0, 1.0, 2.0]]), 9)[0]
    assert tied.tolist() == [[1, 3, 2, 0]]
    assert alternatives(logits, 0)[0].shape == (8, 0)


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
    found = check_finite(torch.tensor([values]))
    assert found == counts
    assert bool(found) == (sum(counts) > 0)


def test_values_that_are_not_finite_are_refused() -> None:
    refuse_non_finite(torch.tensor([[65504.0, 65504.0]]).half(), 1)
    with pytest.raises(RunError, match=r"non-finite logits at token 3 \(1 NaN, 0 inf\)"):
        refuse_non_finite(torch.tensor([[nan, 1.0]]), 3)


def test_logits_of_any_kind_are_left_as_they_were(logits) -> None:
    before = logits.clone().requires_grad_()
    sample(before, SamplingParams(top_k=3), [0.5] * 8)
    filter_logits(before, SamplingParams(top_k=3))
    assert torch.equal(before, logits)
