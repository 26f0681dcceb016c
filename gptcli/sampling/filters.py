"""The filters and the draw, for one row of the vocabulary: arithmetic on NumPy vectors.

NumPy because its sort, partition and scan of one row are many times faster than a tensor's, and
because it runs on one thread: the result depends neither on the batch nor on --threads. Knows no
tensors, no history and no random numbers.

A weight is a probability times a constant: exp((logit - best) / temperature), so the best token
weighs exactly 1 and nothing overflows. Each filter takes the weights of the tokens that are left
and returns the indices it keeps, ascending. Ties go to the lowest id.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from gptcli.sampling.params import SamplingParams

Row = NDArray[np.floating]
Weights = NDArray[np.float32]
Indices = NDArray[np.intp]

MOST = float(np.finfo(np.float32).max)


def survivors(row: Row, params: SamplingParams) -> tuple[Indices, Weights]:
    """(V,) logits → (n,) ids that may be drawn, ascending, and their (n,) weights.

    Temperature, then top_k, top_p, min_p and typical_p, each on what the one before left. At least
    one token is left, and it can be drawn.
    """
    if params.greedy:
        return np.array([row.argmax()]), np.ones(1, np.float32)
    ids = np.arange(len(row)) if params.top_k is None else best(row, params.top_k)
    weights = _weights(row if params.top_k is None else row[ids], params.temperature)
    for keep in _filters(params):
        kept = keep(weights)
        ids, weights = ids[kept], weights[kept]
    return ids, weights


def best(row: Row, count: int) -> Indices:
    """The `count` greatest of a row, never more, all of them if there are fewer."""
    if not 0 < count < len(row):
        return np.arange(len(row) if count else 0)
    return _first_at_least(row, np.partition(row, -count)[-count], count)


def best_first(row: Row, count: int) -> Indices:
    """The same, from the greatest to the least, equals in their order."""
    found = best(row, count)
    return found[(-row[found]).argsort(kind="stable")]


def nucleus(weights: Weights, mass: float) -> Indices:
    """The fewest heaviest tokens that hold at least `mass` of the whole (top_p).

    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019.
    """
    total = weights.sum(dtype=np.float64)
    # What is below this floor sums to less than half of what is left out, so it cannot matter:
    # of a vocabulary only the few likely tokens need sorting.
    floor = (1 - mass) * total / (2 * len(weights))
    likely = np.sort(weights[np.flatnonzero(weights > floor)])[::-1]
    count = _fewest(likely, mass * total)
    return _first_at_least(weights, likely[count - 1], count)


def near_best(weights: Weights, fraction: float) -> Indices:
    """Tokens at least `fraction` as likely as the best (min_p). Nguyen et al., 2024."""
    return np.flatnonzero(weights >= fraction * weights.max())


def typical(weights: Weights, mass: float) -> Indices:
    """The fewest tokens that hold `mass`, those first whose surprise is nearest the entropy.

    Meister et al., "Locally Typical Sampling", 2022. The best token may be left out: where much
    is uncertain, a certain word is untypical.
    """
    possible = np.flatnonzero(weights)
    p = weights[possible].astype(np.float64)
    p /= p.sum()
    surprise = -np.log(p)
    nearness = -np.abs(surprise - (p * surprise).sum())
    order = (-nearness).argsort()  # equals in any order: those that are kept are chosen below
    count = _fewest(p[order], mass)
    return possible[_first_at_least(nearness, nearness[order[count - 1]], count)]


def draw(weights: NDArray[np.floating], u: float) -> int:
    """The first index at which the running sum passes `u` of the whole: inverse transform.

    Summed in float64 in the order given. What is drawn has a positive weight: the sum grows there,
    and a `u` of at most 1 - 2**-53 times the whole is always less than the whole.
    """
    cumulative = weights.cumsum(dtype=np.float64)
    index = int(cumulative.searchsorted(u * cumulative[-1], side="right"))
    assert weights[index] > 0
    return index


def log_normalizer(row: Row) -> float:
    """The log of the sum of exp(logit), in float64."""
    top = float(row.max())
    return top + float(np.log(np.exp(np.subtract(row, top, dtype=np.float64)).sum()))


def _filters(params: SamplingParams) -> Iterator[Callable[[Weights], Indices]]:
    top_p, min_p, typical_p = params.top_p, params.min_p, params.typical_p
    if top_p is not None and top_p < 1:
        yield lambda weights: nucleus(weights, top_p)
    if min_p:
        yield lambda weights: near_best(weights, min_p)
    if typical_p is not None and typical_p < 1:
        yield lambda weights: typical(weights, typical_p)


def _weights(row: Row, temperature: float) -> Weights:
    with np.errstate(over="ignore"):  # past float32 is as far below the best as -inf
        return np.exp((row - row.max()) / min(temperature, MOST))


def _fewest(masses: NDArray[np.floating], mass: float) -> int:
    """How many of `masses`, taken from the first, reach `mass`; at least one."""
    before = masses.cumsum(dtype=np.float64) - masses
    return int(np.count_nonzero(before < mass))


def _first_at_least(row: Row, threshold: np.floating, count: int) -> Indices:
    """Indices of `count` values: all above the threshold, and the first of those at it."""
    found = np.flatnonzero(row >= threshold)
    if len(found) == count:
        return found
    ties = np.flatnonzero(row[found] == threshold)
    return np.delete(found, ties[count - len(found) :])
