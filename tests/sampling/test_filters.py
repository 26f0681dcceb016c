"""The filters of one row: four tokens worked by hand, and what holds for any row."""

import hashlib
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.sampling import filters
from gptcli.sampling.params import SamplingParams

OFF = {"temperature": 1.0, "top_p": None}
FLOATS = st.floats(-1e4, 1e4, width=32) | st.sampled_from(
    [0.0, -0.0, 1.0, -inf, 3.4e38, -3.4e38, 1e-45]
)
ROWS = st.lists(FLOATS, min_size=1, max_size=40).filter(lambda row: max(row) > -inf)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0, 1e-5, 0.1, 0.8, 1.0, 5.0, 1e30, 1e300]),
    top_k=st.none() | st.integers(1, 50),
    top_p=st.none() | st.sampled_from([1e-12, 0.3, 0.5, 0.95, 1 - 1e-9, 1.0]),
    min_p=st.none() | st.sampled_from([0.0, 1e-3, 0.5, 1.0]),
    typical_p=st.none() | st.sampled_from([1e-12, 0.3, 0.95, 1.0]),
)


def weights(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def kept(row: list[float], **options: object) -> list[int]:
    params = SamplingParams(**{**OFF, **options})
    return filters.survivors(np.array(row, np.float32), params)[0].tolist()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [1]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])],
)
def test_top_k_keeps_exactly_k_and_of_ties_the_first(count, expected) -> None:
    assert filters.best(weights(2, 5, 2, 2), count).tolist() == expected


def test_best_first_is_in_order_and_of_ties_the_first_comes_first() -> None:
    assert filters.best_first(weights(2, 5, 2, 7, 2), 4).tolist() == [3, 1, 0, 2]


# 8 4 2 2 of 16: one half, one quarter, two eighths, all exact in binary.
@pytest.mark.parametrize(
    ("mass", "expected"),
    [
        (1e-12, [1]),
        (0.5, [1]),
        (np.nextafter(0.5, 1), [1, 3]),
        (0.75, [1, 3]),
        (np.nextafter(0.75, 1), [0, 1, 3]),
        (0.875, [0, 1, 3]),
        (np.nextafter(0.875, 1), [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_it(mass, expected) -> None:
    assert filters.nucleus(weights(2, 8, 2, 4), mass).tolist() == expected


def test_top_p_of_equals_keeps_the_first() -> None:
    assert filters.nucleus(weights(1, 1, 1, 1), 0.5).tolist() == [0, 1]
    assert filters.nucleus(weights(1, 1, 1, 1), 0.51).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.25, [0, 1, 2, 3]), (0.26, [1, 3]), (0.5, [1, 3]), (0.51, [1]), (1, [1])],
)
def test_min_p_is_a_fraction_of_the_best(fraction, expected) -> None:
    assert filters.near_best(weights(2, 8, 2, 4), fraction).tolist() == expected


# Entropy 1.75 bits; the surprises 3, 1, 3, 2 bits lie 1.25, 0.75, 1.25 and 0.25 from it.
@pytest.mark.parametrize(
    ("mass", "expected"),
    [(0.2, [3]), (0.3, [1, 3]), (0.74, [1, 3]), (0.8, [0, 1, 3]), (0.9, [0, 1, 2, 3])],
)
def test_typical_p_takes_the_least_surprising_surprise_first(mass, expected) -> None:
    assert filters.typical(weights(2, 8, 2, 4), mass).tolist() == expected


def test_typical_p_never_keeps_the_impossible() -> None:
    assert filters.typical(weights(0, 1, 0, 1), 1 - 1e-12).tolist() == [1, 3]


def test_filters_follow_each_other_each_on_what_is_left() -> None:
    row = np.log([16, 8, 4, 2, 1, 1]).tolist()
    assert kept(row, top_p=0.75) == [0, 1]  # 16 of 32, 24 of 32
    assert kept(row, top_k=2, top_p=0.75) == [0, 1]  # 16 of 24, 24 of 24
    assert kept(row, top_k=2, top_p=0.6) == [0]
    assert kept(row, top_k=3, min_p=0.5) == [0, 1]


def test_temperature_comes_before_top_p() -> None:
    row = np.log([4, 2, 1, 1]).tolist()
    assert kept(row, top_p=0.8) == [0, 1, 2]
    assert kept(row, top_p=0.8, temperature=0.5) == [0, 1]  # 16 4 1 1: 16 of 22, 20 of 22
    assert kept(row, top_p=0.8, temperature=100) == [0, 1, 2, 3]


def test_temperature_sharpens_and_flattens_by_division() -> None:
    row = np.log(np.array([4, 2, 1], np.float32))
    for temperature, expected in [(0.5, [1, 1 / 4, 1 / 16]), (2.0, [1, 0.5**0.5, 0.5])]:
        _, found = filters.survivors(row, SamplingParams(temperature=temperature, top_p=None))
        assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("u", "expected"),
    [(0, 1), (0.24, 1), (0.25, 2), (0.749, 2), (0.75, 4), (1 - 2**-53, 4)],
)
def test_a_draw_is_the_inverse_of_the_running_sum(u, expected) -> None:
    assert filters.draw(weights(0, 1, 2, 0, 1, 0), u) == expected


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=30).filter(any))
def test_a_draw_next_to_one_never_passes_the_last_possible_token(values) -> None:
    assert values[filters.draw(weights(*values), 1 - 2**-53)] > 0


def test_a_draw_counts_tokens_that_float32_sums_would_lose() -> None:
    assert filters.draw(weights(1, *[1e-9] * 1000), 1 - 2**-53) == 1000


@given(ROWS, PARAMS)
def test_some_token_is_always_left_and_can_be_drawn(row, params) -> None:
    row = np.array(row, np.float32)
    ids, left = filters.survivors(row, params)
    assert len(ids) == len(left) > 0
    assert (np.diff(ids) > 0).all()
    assert np.isfinite(left).all()
    assert left.max() > 0
    assert 1 <= len(ids) <= (params.top_k or len(row))
    for u in (0.0, 0.5, 1 - 2**-53):
        chosen = ids[filters.draw(left, u)]
        assert row[chosen] > -inf


@given(ROWS, PARAMS.filter(lambda params: params.typical_p in {None, 1.0}))
def test_the_best_token_survives_every_filter_but_typical_p(row, params) -> None:
    row = np.array(row, np.float32)
    ids, left = filters.survivors(row, params)
    assert left.max() == 1
    rivals = (float(row.max()) - row[row < row.max()].astype(np.float64)) / max(
        params.temperature, 1e-5
    )
    if rivals.min(initial=1) > 1e-6:  # nearer than this, float32 weights are equal: the first
        assert row.argmax() in ids


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(1e-6, 1))
def test_the_floor_of_top_p_changes_nothing(values, mass) -> None:
    """The same set as sorting the whole vocabulary gives."""
    row = weights(1, *values)
    order = (-row).argsort(kind="stable")
    before = row[order].cumsum(dtype=np.float64) - row[order]
    whole = row.sum(dtype=np.float64)
    # At a border that rounding alone decides, both answers are right.
    if (np.abs(before / whole - mass) > 1e-12).all():
        expected = np.sort(order[before < mass * whole])
        assert filters.nucleus(row, mass).tolist() == expected.tolist()


def test_the_log_normalizer_does_not_overflow() -> None:
    assert filters.log_normalizer(weights(1e38, 1e38)) == pytest.approx(float(np.float32(1e38)))
    assert filters.log_normalizer(weights(-1e4, -1e4)) == pytest.approx(-1e4 + np.log(2))
    assert filters.log_normalizer(weights(0, -inf)) == 0


@given(ROWS, st.integers(1, 40))
def test_best_finds_what_a_stable_sort_finds(row, count) -> None:
    for copies in (1, 200):  # many ties, and enough values for a bound
        values = np.array(row * copies, np.float32)
        expected = (-values).argsort(kind="stable")[:count]
        assert filters.best_first(values, count).tolist() == expected.tolist()


def test_weights_are_exponentials_within_two_units_of_the_last_place() -> None:
    row = np.linspace(-87, 0, 100_001, dtype=np.float32)
    _, found = filters.survivors(row, SamplingParams(**OFF))
    exact = np.exp(row.astype(np.float64))
    assert (np.abs(found / exact - 1) < 2 * np.finfo(np.float32).eps).all()


def test_weights_are_the_same_bits_on_every_machine() -> None:
    row = np.linspace(-90, 0, 100_001, dtype=np.float32)
    _, found = filters.survivors(row, SamplingParams(**OFF))
    digest = hashlib.sha256(found.astype("<f4").tobytes()).hexdigest()
    assert digest == "ac7fd8e554ac8ff0298fd32cd25ce5aa2309886f9bb54749f79e7fab8cf473b9"
