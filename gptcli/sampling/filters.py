"""Temperature, top_k, top_p, min_p, typical_p, and the draw, for one row of logits.

A weight is an unnormalised probability, exp((logit - best) / temperature), so that the best token's
is exactly 1 and nothing overflows. A filter takes the weights of the tokens that are left and
returns the indices that it keeps, ascending. Ties go to the lowest id.
"""

from collections.abc import Callable, Iterator
from math import factorial, log

import numpy as np
from numpy.typing import NDArray

from gptcli.sampling.params import SamplingParams

Row = NDArray[np.float32]
Values = NDArray[np.floating]
Weights = NDArray[np.float32]
Indices = NDArray[np.intp]

MOST = float(np.finfo(np.float32).max)

_BLOCK = 64
_LEAST_EXP = np.float32(-87)
_LOG2_E = np.float32(1.4426950408889634)
_LN2_UPPER = np.float32(0.693359375)
_LN2_LOWER = np.float32(-2.12194440054690583e-4)
_TAYLOR = [np.float32(1 / factorial(n)) for n in range(7, -1, -1)]


def survivors(row: Row, params: SamplingParams) -> tuple[Indices, Weights]:
    """(V,) logits → (n,) ids that may be drawn, ascending, and their (n,) weights; n >= 1.

    Applies temperature, then top_k, top_p, min_p and typical_p, each to what the one before kept.
    """
    if params.greedy:
        return np.array([row.argmax()]), np.ones(1, np.float32)
    ids = np.arange(len(row)) if params.top_k is None else best(row, params.top_k)
    weights = _weights(row if params.top_k is None else row[ids], params.temperature)
    for keep in _filters(params):
        kept = keep(weights)
        ids, weights = ids[kept], weights[kept]
    return ids, weights


def best(row: Values, count: int) -> Indices:
    """Indices of the `count` greatest values, ascending; of all if there are fewer."""
    if not 0 < count < len(row):
        return np.arange(len(row) if count else 0)
    # The count-th greatest of the blocks' maxima is a lower bound, which few values reach.
    blocks = len(row) // _BLOCK
    if count > blocks // 2:
        return _first_at_least(row, _nth_greatest(row, count), count)
    bound = _nth_greatest(row[: _BLOCK * blocks].reshape(_BLOCK, blocks).max(axis=0), count)
    candidates = np.flatnonzero(row >= bound)
    values = row[candidates]
    return candidates[_first_at_least(values, _nth_greatest(values, count), count)]


def best_first(row: Values, count: int) -> Indices:
    """As `best`, by descending value; ties keep their order."""
    found = best(row, count)
    return found[(-row[found]).argsort(kind="stable")]


def nucleus(weights: Weights, mass: float) -> Indices:
    """The fewest of the likeliest tokens whose probabilities sum to at least `mass` (top_p).

    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019.
    """
    total = weights.sum(dtype=np.float64)
    # The weights below this floor sum to at most half of what top_p drops, so none of them is kept:
    # of a whole vocabulary only few tokens have to be sorted.
    floor = (1 - mass) * total / (2 * len(weights))
    likely = np.sort(weights[np.flatnonzero(weights > floor)])[::-1]
    count = _fewest(likely, mass * total)
    return _first_at_least(weights, likely[count - 1], count)


def near_best(weights: Weights, fraction: float) -> Indices:
    """Tokens at least `fraction` as likely as the best (min_p). Nguyen et al., 2024."""
    return np.flatnonzero(weights >= fraction * weights.max())


def typical(weights: Weights, mass: float) -> Indices:
    """The fewest tokens whose probabilities sum to `mass`, those nearest the entropy first.

    The distance is that of -log p from the distribution's entropy (Meister et al., "Locally Typical
    Sampling", 2022). The likeliest token may be dropped.
    """
    possible = np.flatnonzero(weights)
    p = weights[possible].astype(np.float64)
    p /= p.sum()
    surprise = -np.log(p)
    nearness = -np.abs(surprise - (p * surprise).sum())
    order = (-nearness).argsort()  # ties in any order: `_first_at_least` chooses among them
    count = _fewest(p[order], mass)
    return possible[_first_at_least(nearness, nearness[order[count - 1]], count)]


def draw(weights: Values, u: float) -> int:
    """Draw by inverse transform: the first index whose cumulative weight exceeds u times the total.

    Sums are float64, in the order given. The weight of the drawn index is positive: the sum grows
    there, and u <= 1 - 2**-53 times the total is always less than the total.
    """
    cumulative = weights.cumsum(dtype=np.float64)
    index = int(cumulative.searchsorted(u * cumulative[-1], side="right"))
    assert weights[index] > 0
    return index


def log_normalizer(row: Row) -> float:
    """log(sum(exp(logit)))."""
    return float(row.max()) + log(_weights(row, 1.0).sum(dtype=np.float64))


def _filters(params: SamplingParams) -> Iterator[Callable[[Weights], Indices]]:
    top_p, min_p, typical_p = params.top_p, params.min_p, params.typical_p
    if top_p is not None and top_p < 1:
        yield lambda weights: nucleus(weights, top_p)
    if min_p:
        yield lambda weights: near_best(weights, min_p)
    if typical_p is not None and typical_p < 1:
        yield lambda weights: typical(weights, typical_p)


def _weights(row: Row, temperature: float) -> Weights:
    with np.errstate(over="ignore"):  # a difference past float32 becomes -inf, of weight 0
        scaled = row - row.max()
        scaled /= np.float32(min(temperature, MOST))
    return _exp(scaled)


def _exp(x: Row) -> Weights:
    """exp(x) of values <= 0, overwriting x; 0 where it is below the normal float32 numbers.

    Equal to the bit on every machine, as IEEE sums and products are. NumPy's own differs in the
    last bit by processor and C library, and would now and then draw another token.
    """
    is_normal = x >= _LEAST_EXP
    np.maximum(x, _LEAST_EXP, out=x)
    power = x * _LOG2_E
    np.rint(power, out=power)
    result = power * _LN2_UPPER  # exact: the constant's lower bits are 0
    x -= result
    x -= np.multiply(power, _LN2_LOWER, out=result)
    result.fill(_TAYLOR[0])
    for coefficient in _TAYLOR[1:]:
        result *= x
        result += coefficient
    exponent = power.astype(np.int32)
    exponent += 127
    exponent <<= 23
    result *= exponent.view(np.float32)  # 2**power
    result *= is_normal
    return result


def _nth_greatest(row: Values, n: int) -> np.floating:
    return np.partition(row, -n)[-n]


def _fewest(masses: Values, mass: float) -> int:
    """How many of `masses`, from the first, sum to `mass`; at least one."""
    before = masses.cumsum(dtype=np.float64) - masses
    return int(np.count_nonzero(before < mass))


def _first_at_least(row: Values, threshold: np.floating, count: int) -> Indices:
    """Ascending indices of `count` values: all above the threshold, then the first equal to it."""
    found = np.flatnonzero(row >= threshold)
    if len(found) == count:
        return found
    ties = np.flatnonzero(row[found] == threshold)
    return np.delete(found, ties[count - len(found) :])
