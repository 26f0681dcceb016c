"""What changes logits before the filters: bias, penalties for repetition, and bans.

Looks at what the text holds already; knows no probabilities. (B, V) float32 logits in, a changed
copy out; each row has its own history.
"""

from collections.abc import Collection, Iterator, Sequence
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptcli.core.errors import RunError, UsageError
from gptcli.sampling.params import SamplingParams


class NothingLeftError(RunError):
    """Every token is banned: the options leave no way to go on with this text."""


class History(NamedTuple):
    """One row's tokens so far: `ids` is the prompt and, after `prompt_length`, what is new."""

    ids: Sequence[int]
    prompt_length: int

    @property
    def new(self) -> Sequence[int]:
        """The tokens of the completion."""
        return self.ids[self.prompt_length :]


def penalize(
    logits: Tensor,
    params: SamplingParams,
    history: Sequence[History],
    eos_ids: Collection[int] = (),
) -> Tensor:
    """(B, V) logits → (B, V): bias, repetition, presence and frequency, n-grams, minimum length.

    Raises:
        NothingLeftError: every token is banned.
        UsageError: `logit_bias` names a token past the vocabulary.
    """
    if not params.penalizes:
        return logits
    logits = logits.clone()
    _bias(logits, params)
    for row, past in zip(logits, history, strict=True):
        _penalize_row(row, params, past)
        _ban_row(row, params, past, eos_ids)
    # A penalty may push a huge logit past float32; infinity would turn into NaN further on.
    logits.clamp_(max=torch.finfo(logits.dtype).max)
    if (logits.amax(dim=-1) == -inf).any():
        raise NothingLeftError(
            "sampling",
            "every token is banned (0 are left to choose from)",
            "Loosen --no-repeat-ngram, --logit-bias or --min-new-tokens",
        )
    return logits


def repeated_ngrams(ids: Sequence[int], size: int) -> set[int]:
    """The tokens that would complete a run of `size` tokens that is in `ids` already."""
    start = len(ids) - size + 1
    ids = list(ids)
    last = ids[start:]
    return {ids[i + size - 1] for i in range(start) if ids[i : i + size - 1] == last}


def _bias(logits: Tensor, params: SamplingParams) -> None:
    for token, bias in params.logit_bias:
        if token >= logits.shape[-1]:
            expected = f"must name tokens below {logits.shape[-1]}, got {token}"
            raise UsageError("--logit-bias", expected)
        logits[:, token] += bias


def _penalize_row(row: Tensor, params: SamplingParams, past: History) -> None:
    factor = params.repetition_penalty
    if factor != 1:
        # Keskar et al., "CTRL", 2019, as the field has it: away from zero or towards it by sign.
        penalized = torch.where(row < 0, row * factor, row / factor)
        row.copy_(torch.where(_counts(past.ids, row) > 0, penalized, row))
    if params.presence_penalty or params.frequency_penalty:
        counts = _counts(past.new, row)
        row -= counts * params.frequency_penalty + (counts > 0) * params.presence_penalty


def _ban_row(row: Tensor, params: SamplingParams, past: History, eos_ids: Collection[int]) -> None:
    banned = [token for token in _banned(params, past, eos_ids) if token < len(row)]
    row[torch.tensor(banned, dtype=torch.long, device=row.device)] = -inf


def _banned(params: SamplingParams, past: History, eos_ids: Collection[int]) -> Iterator[int]:
    if params.no_repeat_ngram:
        yield from repeated_ngrams(past.ids, params.no_repeat_ngram)
    if len(past.ids) - past.prompt_length < params.min_new_tokens:
        yield from eos_ids


def _counts(ids: Sequence[int], row: Tensor) -> Tensor:
    """(V,) how often each token occurs; a prompt given as ids may hold some that are cut off."""
    tokens = torch.from_numpy(np.array(ids, dtype=np.int64))  # five times as fast as a tensor's
    return torch.bincount(tokens[tokens < len(row)], minlength=len(row)).to(row.device)
