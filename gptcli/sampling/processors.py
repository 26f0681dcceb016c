"""Logits processors: bias, penalties and bans, applied before the filters.

They depend on the sequence's tokens so far.
"""

from collections.abc import Collection, Iterator, Sequence
from math import inf
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptcli.core.errors import RunError, UsageError
from gptcli.sampling.filters import MOST, Row
from gptcli.sampling.params import SamplingParams


class TextError(RunError):
    """A sequence cannot be continued; others can. `code` is the reason in a batch's output."""

    code: ClassVar[str]


class NothingLeftError(TextError):
    """Every token is banned."""

    code = "nothing_left"


class History(NamedTuple):
    """The tokens so far: the first `prompt_length` of `ids` are the prompt, the others new."""

    ids: Sequence[int]
    prompt_length: int

    @property
    def new(self) -> Sequence[int]:
        """The tokens of the completion."""
        return self.ids[self.prompt_length :]


def penalize(
    logits: Row,
    params: SamplingParams,
    history: History,
    eos_ids: Collection[int] = (),
) -> Row:
    """(V,) logits → (V,): apply bias, penalties and bans; `logits` is not changed.

    Raises:
        NothingLeftError: every token is banned.
        UsageError: `logit_bias` names a token past the vocabulary.
    """
    if not params.penalizes:
        return logits
    logits = logits.copy()
    with np.errstate(over="ignore"):
        _bias(logits, params)
        _penalize_repetition(logits, params, history)
    banned = [token for token in _banned(params, history, eos_ids) if token < len(logits)]
    logits[banned] = -inf
    # A penalty may take a huge logit past float32; infinity would later become NaN.
    np.minimum(logits, MOST, out=logits)
    refuse_none_left(logits)
    return logits


def refuse_none_left(logits: Row) -> None:
    """Refuse logits of which none is left.

    Raises:
        NothingLeftError: all logits are -inf.
    """
    if logits.max() == -inf:
        raise NothingLeftError(
            "sampling",
            "every token is banned (0 are left to choose from)",
            "Loosen `no_repeat_ngram`, `logit_bias`, `min_new_tokens` or the constraint",
        )


def repeated_ngrams(ids: Sequence[int], size: int) -> set[int]:
    """The tokens that would repeat an n-gram of `size` tokens already in `ids`."""
    starts = len(ids) - size + 1
    if starts < 1:
        return set()
    tokens = np.array(ids)
    found = np.ones(starts, bool)  # whether the n - 1 tokens there are the last n - 1
    for i, token in enumerate(tokens[starts:]):
        found &= tokens[i : i + starts] == token
    return set(tokens[size - 1 :][found].tolist())


def _bias(logits: Row, params: SamplingParams) -> None:
    for token, bias in params.logit_bias:
        if token >= len(logits):
            expected = f"must name tokens below {len(logits)}, got {token}"
            raise UsageError("logit_bias", expected)
        logits[token] += bias


def _penalize_repetition(logits: Row, params: SamplingParams, past: History) -> None:
    factor = params.repetition_penalty
    if factor != 1:
        # Keskar et al., "CTRL", 2019, divide; negative logits are multiplied, as is usual since.
        tokens, _ = _counts(past.ids, len(logits))
        values = logits[tokens]
        logits[tokens] = np.where(values < 0, values * factor, values / factor)
    if params.presence_penalty or params.frequency_penalty:
        tokens, counts = _counts(past.new, len(logits))
        logits[tokens] -= counts * params.frequency_penalty + params.presence_penalty


def _banned(params: SamplingParams, past: History, eos_ids: Collection[int]) -> Iterator[int]:
    if params.no_repeat_ngram:
        yield from repeated_ngrams(past.ids, params.no_repeat_ngram)
    if len(past.ids) - past.prompt_length < params.min_new_tokens:
        yield from eos_ids


def _counts(ids: Sequence[int], n_vocab: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The distinct tokens of a sequence, and the count of each.

    Ids past the vocabulary, which a prompt given as ids may hold, are left out.
    """
    tokens, counts = np.unique(np.array(ids, np.int64), return_counts=True)
    known = tokens < n_vocab
    return tokens[known], counts[known].astype(np.float32)
