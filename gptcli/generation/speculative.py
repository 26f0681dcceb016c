"""Speculative decoding: draft tokens cheaply, verify several in one step.

Each token is sampled from the model's own logits with its own random number. A draft token equal to
it saves a step; another is thrown away. So not only the distribution but the text itself is that of
decoding without drafts, greedy or sampled.

Drafts come from the text so far (`PromptLookup`) or from a smaller model (`DraftModel`).
"""

from typing import Protocol

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.engine.interface import Engine, Logits
from gptcli.generation.decode import Prompt
from gptcli.generation.sequence import Sequence
from gptcli.tokenizer.tokenizer import Tokenizer

MAX_DRAFT = 8  # tokens
_LONGEST_NGRAM, _SHORTEST_NGRAM = 4, 2
# Drafting pauses for `_PAUSE` tokens if fewer than this share of the last `_WINDOW` was accepted.
_MIN_ACCEPTED, _WINDOW, _PAUSE = 0.2, 32, 64


class Drafter(Protocol):
    """Proposes draft tokens."""

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        """Up to `count` tokens that may come next."""


class PromptLookup:
    """Proposes what followed the last tokens where they occurred before."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram → where what followed it begins

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        """What followed the last occurrence of the longest n-gram that occurred before."""
        self._learn([*sequence.prompt, *sequence.ids])
        for size in range(_LONGEST_NGRAM, _SHORTEST_NGRAM - 1, -1):
            at = self._after.get(tuple(self._ids[-size:]))
            if at is not None and len(self._ids) > size:
                return self._ids[at : at + count]
        return []

    def _learn(self, ids: list[int]) -> None:
        """Index the n-grams that a token follows."""
        known = len(self._ids)
        if ids[:known] != self._ids:  # another sample of the prompt
            known, self._after = 0, {}
        self._ids = ids
        for end in range(max(known, 1), len(ids)):
            for size in range(_SHORTEST_NGRAM, min(_LONGEST_NGRAM, end) + 1):
                self._after[tuple(ids[end - size : end])] = end


class DraftModel:
    """Proposes with a smaller model of the same tokenizer and the sequence's own random numbers.

    Where the two models agree on the probabilities, they then also draw the same token.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prompt: Prompt | None = None

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        """The smaller model's own continuation."""
        if len(sequence) + count > self._engine.config.context_length:
            return []
        if self._prompt is None or self._prompt.ids != tuple(sequence.prompt):
            room = self._engine.config.context_length - len(sequence.prompt)
            self._prompt = Prompt(self._engine, sequence.prompt, room)
        draft = sequence.copy()
        for _ in range(count):
            if draft.choose(self._prompt.next_logits(draft)) is None:
                break
        return draft.ids[len(sequence.ids) :]


class Speculation:
    """Logits of the next token, from the step that verified the draft while it is accepted.

    Attributes:
        drafted: draft tokens verified so far.
        accepted: how many of them were right.
    """

    def __init__(self, prompt: Prompt, drafter: Drafter) -> None:
        self._prompt, self._drafter = prompt, drafter
        self._draft: list[int] = []
        self._logits: list[Logits] = []
        self._recent: list[bool] = []
        self._resume_at = 0
        self.drafted = self.accepted = 0

    def next_logits(self, sequence: Sequence) -> Logits:
        """(V,) logits of the next token."""
        if not sequence.ids:
            self._draft.clear()
            return self._prompt.next_logits(sequence)
        if self._draft and self._accepts(sequence.ids[-1]):
            return self._logits.pop(0)
        self._draft = self._propose(sequence)
        self.drafted += len(self._draft)
        first, *self._logits = self._prompt.draft_logits(sequence, self._draft)
        return first

    def _accepts(self, id: int) -> bool:
        hit = self._draft.pop(0) == id
        self.accepted += hit
        self._recent = [*self._recent, hit][-_WINDOW:]
        return hit

    def _propose(self, sequence: Sequence) -> list[int]:
        """A draft that stays within context and length; none while hardly any is accepted."""
        new = len(sequence.ids)
        if len(self._recent) == _WINDOW and sum(self._recent) < _MIN_ACCEPTED * _WINDOW:
            self._recent, self._resume_at = [], new + _PAUSE
        if new < self._resume_at:
            return []
        room = min(
            sequence.context - len(sequence), sequence.params.max_new_tokens - new - 1, MAX_DRAFT
        )
        draft = self._drafter.propose(sequence, room) if room > 0 else []
        if sequence.constraint is not None:
            del draft[sequence.constraint.possible(sequence.ids, draft) :]
        return draft


def require_same_tokens(ours: Tokenizer, theirs: Tokenizer, name: str) -> None:
    """Refuse a draft model whose token ids mean something else.

    Raises:
        UsageError: the tokenizers of the model and of the draft model called `name` differ.
    """
    same_ends = (ours.n_vocab, ours.eos_ids) == (theirs.n_vocab, theirs.eos_ids)
    if same_ends and all(
        ours.token_bytes(id) == theirs.token_bytes(id) for id in range(ours.n_vocab)
    ):
        return
    problem = f'"{shown(name, 60)}" has another tokenizer ({theirs.name}, expected {ours.name})'
    raise UsageError("draft", problem, "Choose a draft model with the same tokenizer")
