"""One sequence: prompt, sampling parameters, new tokens, finish reason.

`gptcli.generation.decode` completes one sequence, `gptcli.generation.scheduler` many at a time.
Both choose tokens here, so a sequence gets the same tokens either way.
"""

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gptcli.core.errors import RunError, UsageError
from gptcli.core.units import plural
from gptcli.sampling import sampler
from gptcli.sampling.constraint import Matcher
from gptcli.sampling.params import SamplingParams
from gptcli.sampling.processors import History

FinishReason = Literal["stop", "length", "context", "time", "interrupted"]
Overflow = Literal["stop", "slide", "error"]


@dataclass(frozen=True, slots=True)
class Token:
    """One new token: its id and, if asked for, log-probabilities under the model's own logits."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True, kw_only=True)
class Sequence:
    """A prompt and its new tokens.

    Attributes:
        prompt: ids, at least one.
        params: how tokens are chosen.
        context: the model's context_length.
        seed, record, sample: a draw depends on these and on the position.
        eos_ids: each of them ends the text and is left out of it.
        n_vocab: ids from here on only pad the embedding; they are never chosen.
        overflow: what happens when the context is full.
        logprobs: alternatives reported with each token; None: no log-probabilities.
        constraint: which tokens may come next; ends the text when it is complete.
        ids: the new tokens so far.
        finish_reason: why it ended, once it has.
    """

    prompt: Ids[int]
    params: SamplingParams
    context: int
    seed: int
    record: str = ""
    sample: int = 0
    eos_ids: frozenset[int] = frozenset()
    n_vocab: int | None = None
    overflow: Overflow = "stop"
    logprobs: int | None = None
    constraint: Matcher | None = None
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.ids)

    def uncached(self, past: int) -> tuple[int, list[int]]:
        """Of `past` cached positions: how many to keep, and the ids to compute after them.

        Past the context the book's window slides: every position gets a new embedding, so the
        cache is of no use and the whole window is computed again.
        """
        if len(self) > self.context:
            return 0, [*self.prompt, *self.ids][-self.context :]
        new = self.ids[past - len(self.prompt) :] if past >= len(self.prompt) else self.ids
        return past, [*self.prompt[past:], *new]

    def copy(self) -> "Sequence":
        """A copy that can be continued apart from this one."""
        return replace(self, ids=list(self.ids))

    def must_end(self) -> bool:
        """Whether there can be no further token; sets `finish_reason` if so.

        Raises:
            RunError: the context is full and `overflow` is "error".
        """
        if self.finish_reason is not None:
            return True
        if len(self.ids) >= self.params.max_new_tokens:
            self.finish_reason = "length"
        elif self.ids and len(self) > self.context and self.overflow != "slide":
            self._refuse_full_context()
            self.finish_reason = "context"
        return self.finish_reason is not None

    def choose(self, logits: NDArray[np.float32]) -> Token | None:
        """(V,) or (1, V) logits → the next token, appended; None if the text has ended.

        Raises:
            TextError: no token can be chosen.
            RunError: non-finite logits.
        """
        row = logits.reshape(-1)[: self.n_vocab]
        sampler.refuse_non_finite(row, position=len(self.ids) + 1)
        allowed = self._allowed()
        if allowed is not None and not allowed.any():
            self.finish_reason = "stop"
            return None
        u = sampler.uniform(self.seed, self.record, self.sample, len(self.ids))
        id = sampler.sample(self._processed(row, allowed), self.params, u)
        if id in self.eos_ids and not self.params.ignore_eos:
            self.finish_reason = "stop"
            return None
        self.ids.append(id)
        if self.constraint is not None and self.constraint.must_end(self.ids):
            self.finish_reason = "stop"
        if self.logprobs is None:
            return Token(id)
        return Token(id, *sampler.log_probabilities(row, id, self.logprobs))

    def processed(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n_vocab,) logits → (n_vocab,): with bias, penalties, bans and the constraint."""
        return self._processed(logits, self._allowed())

    @property
    def is_incomplete(self) -> bool:
        """Whether the text does not satisfy its constraint yet."""
        return self.constraint is not None and not self.constraint.is_complete(self.ids)

    def _allowed(self) -> NDArray[np.bool_] | None:
        if self.constraint is None:
            return None
        allowed = self.constraint.allowed(self.ids)
        if self.params.ignore_eos:
            allowed[list(self.eos_ids)] = False
        return allowed

    def _processed(
        self, row: NDArray[np.float32], allowed: NDArray[np.bool_] | None
    ) -> NDArray[np.float32]:
        if allowed is None and not self.params.penalizes:
            return row
        history = History([*self.prompt, *self.ids], len(self.prompt))
        return sampler.processed(row, self.params, history, self.eos_ids, allowed)

    def _refuse_full_context(self) -> None:
        if self.overflow == "error":
            raise RunError(
                "context",
                f"full after {plural(len(self.ids), 'new token')} ({self.context:,} positions)",
                "Ask for fewer tokens, or choose `overflow=stop` or `overflow=slide`",
            )


def check_prompt(ids: Ids[int], context: int, overflow: Overflow) -> None:
    """Refuse a prompt that is empty or too long.

    Raises:
        UsageError: it is empty, or longer than the context without a sliding window.
    """
    if not ids:
        raise UsageError("prompt", "is empty (0 tokens, expected at least 1)")
    if len(ids) > context and overflow != "slide":
        raise UsageError(
            "prompt",
            f"too long ({len(ids):,} tokens, expected at most {context:,}, the context)",
            "Shorten it, or keep its end with `overflow=slide`",
        )
