"""From logits to a token: pure functions over (B, V) logits, each row by itself.

The order is fixed: tokens outside the vocabulary go; logit bias, repetition, presence and frequency
penalties, repeated n-grams, minimum length; then temperature, top_k, top_p, min_p, typical_p; then
one draw by inverse transform. Arithmetic is float32, sums are float64, whatever the model's dtype.
A row's result is the same to the last bit for any batch it is in. Knows no model and no loop.
"""

from collections.abc import Collection, Sequence
from math import inf, isfinite
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptcli.core.errors import RunError
from gptcli.sampling import filters
from gptcli.sampling.draws import uniform
from gptcli.sampling.params import GREEDY_BELOW, SamplingParams
from gptcli.sampling.processors import History, penalize

__all__ = [
    "GREEDY_BELOW",
    "History",
    "NonFinite",
    "SamplingParams",
    "alternatives",
    "check_finite",
    "choose",
    "filter_logits",
    "greedy",
    "log_probabilities",
    "penalize",
    "probabilities",
    "refuse_non_finite",
    "sample",
    "uniform",
    "within_vocabulary",
]


class NonFinite(NamedTuple):
    """How many values are not numbers, and how many are infinite. False if none are."""

    nan: int
    inf: int

    def __bool__(self) -> bool:
        return self.nan + self.inf > 0


def sample(
    logits: Tensor,
    params: SamplingParams,
    uniforms: Sequence[float],
    history: Sequence[History] = (),
    *,
    eos_ids: Collection[int] = (),
) -> Tensor:
    """(B, V) finite logits → (B,) ids on the CPU.

    Args:
        logits: of any floating dtype, on any device, `within_vocabulary`; never changed.
        params: how to choose.
        uniforms: one number in [0, 1) a row, `uniform(…)`; not used, and may be empty, if greedy.
        history: one a row; not used, and may be empty, unless `params.penalizes`.
        eos_ids: the tokens that `min_new_tokens` bans.

    Raises:
        RunError: every token is banned.
        UsageError: `logit_bias` names a token past the vocabulary.
    """
    logits = penalize(logits.float(), params, history, eos_ids)
    if params.greedy:
        return greedy(logits).cpu()
    ids = []
    for row, u in zip(_rows(logits), uniforms, strict=True):
        left, weights = filters.survivors(row, params)
        ids.append(left[filters.draw(weights, u)])
    return torch.tensor(np.array(ids))


def greedy(logits: Tensor) -> Tensor:
    """(B, V) logits → (B,) ids of the greatest, the lowest id of equals."""
    if logits.device.type == "cpu":  # NumPy's is ten times as fast
        return torch.from_numpy(_rows(logits).argmax(axis=-1))
    return logits.argmax(dim=-1)


def within_vocabulary(logits: Tensor, n_vocab: int | None) -> Tensor:
    """(B, V) → (B, n_vocab): without the rows that only pad an embedding; a view."""
    return logits if n_vocab is None else logits[:, :n_vocab]


def check_finite(logits: Tensor) -> NonFinite:
    """Counts of NaN and of infinite values; one pass, a second only if there are any."""
    # A sum is not finite if any term is not. It may overflow without one, which costs a look.
    if isfinite(logits.sum(dtype=torch.float32)):
        return NonFinite(0, 0)
    return NonFinite(int(logits.isnan().sum()), int(logits.isinf().sum()))


def refuse_non_finite(logits: Tensor, position: int) -> None:
    """Stop before a NaN is chosen: an argmax would take it for the best token.

    Raises:
        RunError: `position` says at which new token, from 1.
    """
    if counts := check_finite(logits):
        raise RunError(
            "model",
            f"non-finite logits at token {position} ({counts.nan} NaN, {counts.inf} inf)",
            "The weights are broken or overflow this dtype; try --dtype float32",
        )


def filter_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """(B, V) logits → (B, V) float32: divided by the temperature, -inf where a filter removes."""
    kept = torch.full(logits.shape, -inf)
    for row, out in zip(_rows(logits), kept, strict=True):
        ids = torch.from_numpy(filters.survivors(row, params)[0])
        scale = 1.0 if params.greedy else params.temperature
        out[ids] = torch.from_numpy(row)[ids] / scale
    return kept


def probabilities(logits: Tensor, params: SamplingParams) -> Tensor:
    """(B, V) logits → (B, V) float64 probabilities that a draw has after the filters."""
    result = torch.zeros(logits.shape, dtype=torch.float64)
    for row, out in zip(_rows(logits), result, strict=True):
        ids, weights = filters.survivors(row, params)
        exact = weights.astype(np.float64)
        out[torch.from_numpy(ids)] = torch.from_numpy(exact / exact.sum())
    return result


def choose(probabilities: Tensor, uniforms: Sequence[float]) -> Tensor:
    """(B, V) probabilities and B numbers in [0, 1) → (B,) ids, by inverse transform in id order."""
    rows = probabilities.cpu().numpy()
    return torch.tensor([filters.draw(row, u) for row, u in zip(rows, uniforms, strict=True)])


def log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """(B, V) logits and (B,) ids → (B,) float64 natural log-probabilities, filters apart."""
    pairs = zip(_rows(logits), ids.tolist(), strict=True)
    return torch.tensor(
        [float(row[i]) - filters.log_normalizer(row) for row, i in pairs], dtype=torch.float64
    )


def alternatives(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, V) logits → (B, n) ids and log-probabilities of the best, best first; n ≤ count, V."""
    best = [_best_first(row, count) for row in _rows(logits)]
    ids, logprobs = zip(*best, strict=True)
    return torch.tensor(np.array(ids)), torch.tensor(np.array(logprobs))


def _best_first(row: filters.Row, count: int) -> tuple[filters.Indices, NDArray[np.float64]]:
    ids = filters.best_first(row, count)
    return ids, row[ids].astype(np.float64) - filters.log_normalizer(row)


def _rows(logits: Tensor) -> NDArray[np.float32]:
    return logits.detach().float().cpu().numpy()
