"""Sampling: (V,) float32 logits in, a token id out.

The order is fixed: logit bias, repetition, presence and frequency penalties, repeated n-grams,
minimum length, the constraint's mask; then temperature, top_k, top_p, min_p, typical_p; then one
draw by inverse transform. Arithmetic is float32 and sums are float64, on one thread, so that a
token depends on its logits alone, not on the batch, the number of threads or the processor.
"""

from collections.abc import Collection
from hashlib import blake2b
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptcli.core.errors import RunError
from gptcli.sampling import filters
from gptcli.sampling.filters import Row
from gptcli.sampling.params import SamplingParams
from gptcli.sampling.processors import History, penalize, refuse_none_left


class NonFinite(NamedTuple):
    """Counts of NaN and of infinite values; false if both are 0."""

    nan: int
    inf: int

    def __bool__(self) -> bool:
        return self.nan + self.inf > 0


def uniform(seed: int, record: str, sample: int, position: int) -> float:
    """A random number in [0, 1), a multiple of 2**-53, for one token of one sample of one record.

    Counter-based: it depends on these four values and on nothing else. It is the 8-byte BLAKE2b
    digest of the UTF-8 text `seed:sample:position:record` (decimal integers; the record comes
    last, so no record can imitate another's numbers), read as a big-endian integer; its upper 53
    bits divided by 2**53. In a shell, the first 16 hex digits of
    `printf %s 123:0:7:story-5 | b2sum -l 64`.

    Args:
        seed: the job's seed, any integer.
        record: name of the prompt in a batch; "" if there is only one.
        sample: which completion of the prompt, from 0.
        position: which new token of the completion, from 0.
    """
    name = f"{seed}:{sample}:{position}:{record}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 11) * 2.0**-53


def processed(
    logits: Row,
    params: SamplingParams,
    history: History,
    eos_ids: Collection[int] = (),
    allowed: NDArray[np.bool_] | None = None,
) -> Row:
    """(V,) logits → (V,): apply bias, penalties, bans and constraint, all but the filters.

    Args:
        logits: float32, without ids that only pad the embedding; not changed.
        params: penalties and bans.
        history: the tokens so far.
        eos_ids: the tokens that `min_new_tokens` bans.
        allowed: (V,) a constraint's mask; None allows all.

    Raises:
        NothingLeftError: every token is banned.
        UsageError: `logit_bias` names a token past the vocabulary.
    """
    logits = penalize(logits, params, history, eos_ids)
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
        refuse_none_left(logits)
    return logits


def sample(logits: Row, params: SamplingParams, u: float = 0.0) -> int:
    """(V,) processed logits → the next token's id.

    `u` is a random number in [0, 1), see `uniform`; not used if greedy.
    """
    if params.greedy:
        return int(logits.argmax())
    ids, weights = filters.survivors(logits, params)
    return int(ids[filters.draw(weights, u)])


def probabilities(logits: Row, params: SamplingParams) -> NDArray[np.float64]:
    """(V,) processed logits → (V,) probabilities of the draw, after the filters."""
    ids, weights = filters.survivors(logits, params)
    result = np.zeros(len(logits))
    result[ids] = weights
    return result / result.sum()


def log_probabilities(
    logits: Row, id: int, top: int = 0
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """(V,) logits → the log-probability of `id`, and the `top` likeliest ids with theirs.

    Natural logarithms of the model's own probabilities, before temperature and filters.
    """
    normalizer = filters.log_normalizer(logits)
    best = filters.best_first(logits, top).tolist()
    return float(logits[id]) - normalizer, tuple((i, float(logits[i]) - normalizer) for i in best)


def check_finite(logits: Row) -> NonFinite:
    """Counts of NaN and of infinite values."""
    if isfinite(logits.max(initial=0)) and isfinite(logits.min(initial=0)):  # NaN spreads
        return NonFinite(0, 0)
    return NonFinite(int(np.isnan(logits).sum()), int(np.isinf(logits).sum()))


def refuse_non_finite(logits: Row, position: int) -> None:
    """Refuse logits that are NaN or infinite; argmax would choose a NaN.

    Raises:
        RunError: they are; says at which new token, `position`, counted from 1.
    """
    if counts := check_finite(logits):
        raise RunError(
            "model",
            f"non-finite logits at token {position} ({counts.nan} NaN, {counts.inf} inf)",
            "The weights are broken or overflow this dtype; try `dtype=float32`",
        )
