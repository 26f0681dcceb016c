"""Beam search: the likeliest completions among a few parallel hypotheses.

Equal to transformers' `generate(num_beams=N, do_sample=False)` with its defaults, length_penalty 1
and early_stopping False.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from gptcli.core.errors import UsageError
from gptcli.engine.interface import Engine, Logits, Span
from gptcli.sampling import filters
from gptcli.sampling.params import SamplingParams
from gptcli.sampling.processors import History, penalize
from gptcli.sampling.sampler import refuse_non_finite


class Completion(NamedTuple):
    """What the search found.

    `ids` are the new tokens, the end-of-text token left out. `score` is the mean of their
    natural log-probabilities, that token's included.
    """

    ids: tuple[int, ...]
    score: float
    finish_reason: Literal["stop", "length", "context"]


class _Guess(NamedTuple):
    """New tokens, the sum of their log-probabilities, and the row of the batch they continue."""

    ids: tuple[int, ...]
    total: float
    row: int

    @property
    def score(self) -> float:
        return self.total / len(self.ids)


def beam_search(
    engine: Engine,
    ids: Sequence[int],
    params: SamplingParams,
    beams: int,
    *,
    eos_ids: Collection[int] = (),
    n_vocab: int | None = None,
) -> list[Completion]:
    """A prompt's completions, at most `beams`, the best score first; at least one.

    Of `params`, the lengths, bias, penalties and bans count; nothing is drawn, so temperature and
    filters do not. Each step reads the running guesses as one batch and keeps the likeliest
    continuations of all of them.

    Raises:
        RunError: the model's logits are not finite, or every token is banned.
        UsageError: `params` has a constraint.
        ValueError: the prompt is empty or longer than the context.
    """
    if params.constraint is not None:
        raise UsageError("beams", f"cannot be used together with `{params.constraint.kind}`")
    room = engine.config.context_length - len(ids) + 1
    if not ids or room < 1:
        raise ValueError(f"{len(ids)} prompt tokens, but the context is {room + len(ids) - 1}")
    most = min(params.max_new_tokens, room)
    search = _Search(tuple(ids), params, beams, eos_ids)
    caches, batch = [engine.new_cache(len(ids) + most)], [list(ids)]
    for position in range(1, most + 1):
        spans = [Span(cache, new) for cache, new in zip(caches, batch, strict=True)]
        logits = engine.step(spans)
        refuse_non_finite(logits, position)
        search.advance(logits[:, :n_vocab], final=position == most)
        if search.over:
            break
        caches = _reordered(engine, caches, [guess.row for guess in search.running])
        batch = [[guess.ids[-1]] for guess in search.running]
    return search.completions("length" if params.max_new_tokens <= room else "context")


def _reordered(engine: Engine, caches: list[Any], rows: list[int]) -> list[Any]:
    """A cache for each row that holds what `caches[row]` held.

    A cache moves to the first guess that continues it; only further ones need a copy.
    """
    found: list[Any] = [caches[row] if row not in rows[:i] else None for i, row in enumerate(rows)]
    spare = [cache for row, cache in enumerate(caches) if row not in rows]
    for i, row in enumerate(rows):
        if found[i] is None:
            found[i] = spare.pop() if spare else engine.new_cache(caches[row].capacity)
            found[i].copy_prefix(caches[row], caches[row].length)
    return found


class _Search:
    """The guesses that still run and the best that have ended; the best first in both."""

    def __init__(
        self,
        prompt: tuple[int, ...],
        params: SamplingParams,
        beams: int,
        eos_ids: Collection[int],
    ) -> None:
        self.prompt, self.params, self.beams, self.eos_ids = prompt, params, beams, eos_ids
        self.running = [_Guess((), 0.0, 0)]
        self.ended: list[_Guess] = []

    @property
    def over(self) -> bool:
        """No running guess, by its score now, would be among the ended ones."""
        if not self.running:
            return True
        return len(self.ended) == self.beams and self.running[0].score <= self.ended[-1].score

    def advance(self, logits: Logits, final: bool) -> None:
        """One token more for each running guess, (B, V) logits in their order."""
        # Twice as many as are kept: if the better half all end, others can take their place.
        candidates = self._candidates(logits, 2 * self.beams)
        ends = [final or self._at_end(guess) for guess in candidates]
        self.running = [g for g, end in zip(candidates, ends, strict=True) if not end][: self.beams]
        # An end counts only where it is in the better half.
        better = zip(candidates[: self.beams], ends, strict=False)
        pool = self.ended + [guess for guess, end in better if end]
        self.ended = sorted(pool, key=lambda guess: -guess.score)[: self.beams]

    def completions(self, cut: Literal["length", "context"]) -> list[Completion]:
        """The ended guesses, `cut` where the last token is not the end of the text."""
        return [
            Completion(guess.ids[:-1], guess.score, "stop")
            if self._at_end(guess)
            else Completion(guess.ids, guess.score, cut)
            for guess in self.ended
        ] or [Completion((), 0.0, cut)]

    def _candidates(self, logits: Logits, count: int) -> list[_Guess]:
        totals = np.empty(logits.shape)  # (B, V)
        for i, (row, guess) in enumerate(zip(logits, self.running, strict=True)):
            logprobs = (row - filters.log_normalizer(row)).astype(np.float32)
            history = History(self.prompt + guess.ids, len(self.prompt))
            totals[i] = penalize(logprobs, self.params, history, self.eos_ids)
            totals[i] += guess.total
        found = filters.best_first(totals.ravel(), count)
        return [
            _Guess((*self.running[row].ids, int(token)), float(totals[row, token]), int(row))
            for row, token in zip(*np.unravel_index(found, totals.shape), strict=True)
            if totals[row, token] > -np.inf
        ]

    def _at_end(self, guess: _Guess) -> bool:
        return not self.params.ignore_eos and guess.ids[-1] in self.eos_ids
