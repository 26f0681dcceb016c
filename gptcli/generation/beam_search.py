"""Beam search: the likeliest completions among a few that are decoded side by side.

Equal to transformers' `generate(num_beams=N, do_sample=False)` with its defaults, length_penalty 1
and early_stopping False.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from gptcli.core.errors import UsageError
from gptcli.engine.interface import Cache, Engine, Logits, Span
from gptcli.generation.sequence import Token
from gptcli.sampling import filters
from gptcli.sampling.params import SamplingParams
from gptcli.sampling.processors import History, penalize
from gptcli.sampling.sampler import refuse_non_finite


class Beam(NamedTuple):
    """One completion that the search found.

    `ids` are the new tokens, the end-of-text token left out. `score` is the mean of their
    natural log-probabilities, that token's included.
    """

    ids: tuple[int, ...]
    score: float
    finish_reason: Literal["stop", "length", "context"]


class BeamTokens:
    """A beam's tokens in the shape of a `TokenStream`; `seconds` is the time of the search."""

    is_incomplete = False

    def __init__(self, beam: Beam, seconds: float) -> None:
        self.ids, self.finish_reason, self.seconds = list(beam.ids), beam.finish_reason, seconds

    def __iter__(self) -> Iterator[Token]:
        """All tokens, without log-probabilities of their own."""
        return map(Token, self.ids)


class _Hypothesis(NamedTuple):
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
) -> list[Beam]:
    """At most `beams` completions of a prompt, at least one, the best score first.

    Of `params`, lengths, bias, penalties and bans apply; nothing is drawn, so temperature and
    filters do not. Each step computes all running hypotheses as one batch and keeps the likeliest
    of their continuations.

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
        caches = _reordered(engine, caches, [one.row for one in search.running])
        batch = [[one.ids[-1]] for one in search.running]
    return search.found("length" if params.max_new_tokens <= room else "context")


def _reordered(engine: Engine, caches: list[Cache], rows: list[int]) -> list[Cache]:
    """A cache for each row that holds what `caches[row]` held.

    A cache moves to the first hypothesis that continues it; only further ones need a copy.
    """
    found: list[Cache] = []
    spare = [cache for row, cache in enumerate(caches) if row not in rows]
    for i, row in enumerate(rows):
        cache = caches[row]
        if row in rows[:i]:
            cache = spare.pop() if spare else engine.new_cache(cache.capacity)
            cache.copy_prefix(caches[row], caches[row].length)
        found.append(cache)
    return found


class _Search:
    """The hypotheses that still run and the best that have ended; the best first in both."""

    def __init__(
        self,
        prompt: tuple[int, ...],
        params: SamplingParams,
        beams: int,
        eos_ids: Collection[int],
    ) -> None:
        self.prompt, self.params, self.beams, self.eos_ids = prompt, params, beams, eos_ids
        self.running = [_Hypothesis((), 0.0, 0)]
        self.ended: list[_Hypothesis] = []

    @property
    def over(self) -> bool:
        """Whether no running hypothesis has a score that would put it among the ended ones."""
        if not self.running:
            return True
        return len(self.ended) == self.beams and self.running[0].score <= self.ended[-1].score

    def advance(self, logits: Logits, final: bool) -> None:
        """One more token for each running hypothesis; (B, V) logits in their order."""
        # Twice as many as are kept: if the better half all end, others can take their place.
        candidates = self._candidates(logits, 2 * self.beams)
        ends = [final or self._at_end(one) for one in candidates]
        alive = [one for one, end in zip(candidates, ends, strict=True) if not end]
        self.running = alive[: self.beams]
        # An end counts only where it is in the better half.
        better = zip(candidates[: self.beams], ends, strict=False)
        pool = self.ended + [one for one, end in better if end]
        self.ended = sorted(pool, key=lambda one: -one.score)[: self.beams]

    def found(self, cut: Literal["length", "context"]) -> list[Beam]:
        """The ended hypotheses; `cut` is the reason of those without the end-of-text token."""
        return [
            Beam(one.ids[:-1], one.score, "stop")
            if self._at_end(one)
            else Beam(one.ids, one.score, cut)
            for one in self.ended
        ] or [Beam((), 0.0, cut)]

    def _candidates(self, logits: Logits, count: int) -> list[_Hypothesis]:
        totals = np.empty(logits.shape)  # (B, V)
        for i, (row, one) in enumerate(zip(logits, self.running, strict=True)):
            logprobs = (row - filters.log_normalizer(row)).astype(np.float32)
            history = History(self.prompt + one.ids, len(self.prompt))
            totals[i] = penalize(logprobs, self.params, history, self.eos_ids)
            totals[i] += one.total
        best = filters.best_first(totals.ravel(), count)
        return [
            _Hypothesis((*self.running[row].ids, int(token)), float(totals[row, token]), int(row))
            for row, token in zip(*np.unravel_index(best, totals.shape), strict=True)
            if totals[row, token] > -np.inf
        ]

    def _at_end(self, one: _Hypothesis) -> bool:
        return not self.params.ignore_eos and one.ids[-1] in self.eos_ids
