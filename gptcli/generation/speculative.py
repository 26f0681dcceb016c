"""Speculative decoding: draft tokens cheaply, verify several in one step.

A token is drawn from the model's own logits with its own number of the stream, guessed or not. A
guess that equals it saves a step; one that does not is thrown away. So the text is the text that
would have come without guessing, greedy or sampled, and not only its distribution.

Guesses come from the text itself (`PromptLookup`) or from a smaller model (`DraftModel`).
"""

from typing import Protocol

from gptcli.engine.interface import Engine, Logits
from gptcli.generation.decode import Prompt
from gptcli.generation.sequence import Sequence

MOST_GUESSES = 8
_LONGEST_NGRAM, _SHORTEST_NGRAM = 4, 2
# Guessing stops where fewer than this share came true, and is tried again after a while.
_LEAST_ACCEPTED, _WINDOW, _PAUSE = 0.2, 32, 64


class Drafter(Protocol):
    """What guesses."""

    def propose(self, text: Sequence, count: int) -> list[int]:
        """Up to `count` tokens that may follow the text."""


class PromptLookup:
    """Guesses what followed the last tokens where they stood before, in the prompt or the text."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram → where what followed it begins

    def propose(self, text: Sequence, count: int) -> list[int]:
        """The continuation of the longest n-gram that is not new."""
        self._learn([*text.prompt, *text.ids])
        for size in range(_LONGEST_NGRAM, _SHORTEST_NGRAM - 1, -1):
            at = self._after.get(tuple(self._ids[-size:]))
            if at is not None and len(self._ids) > size:
                return self._ids[at : at + count]
        return []

    def _learn(self, ids: list[int]) -> None:
        """Remember every n-gram that something follows."""
        known = len(self._ids)
        if ids[:known] != self._ids:  # another sample of the prompt
            known, self._after = 0, {}
        self._ids = ids
        for end in range(max(known, 1), len(ids)):
            for size in range(_SHORTEST_NGRAM, min(_LONGEST_NGRAM, end) + 1):
                self._after[tuple(ids[end - size : end])] = end


class DraftModel:
    """Guesses with a smaller model of the same tokenizer, drawing with the text's own numbers.

    Two models that agree on a token's probability then also agree on the draw.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prompt: Prompt | None = None

    def propose(self, text: Sequence, count: int) -> list[int]:
        """What the smaller model would write."""
        if len(text) + count > self._engine.config.context_length:
            return []
        if self._prompt is None or self._prompt.ids != tuple(text.prompt):
            room = self._engine.config.context_length - len(text.prompt)
            self._prompt = Prompt(self._engine, text.prompt, room)
        guess = text.copy()
        for _ in range(count):
            if guess.choose(self._prompt.following(guess)) is None:
                break
        return guess.ids[len(text.ids) :]


class Speculation:
    """Logits for the next token and, as long as guesses come true, for those after it.

    Attributes:
        guessed: tokens guessed so far.
        accepted: how many of them came true.
    """

    def __init__(self, prompt: Prompt, drafter: Drafter) -> None:
        self._prompt, self._drafter = prompt, drafter
        self._guesses: list[int] = []
        self._logits: list[Logits] = []
        self._recent: list[bool] = []
        self._resume_at = 0
        self.guessed = self.accepted = 0

    def following(self, text: Sequence) -> Logits:
        """(V,) logits of what follows the text."""
        if not text.ids:
            self._guesses.clear()
            return self._prompt.following(text)
        if self._guesses and self._came_true(text.ids[-1]):
            return self._logits.pop(0)
        self._guesses = self._guess(text)
        self.guessed += len(self._guesses)
        first, *self._logits = self._prompt.following_all(text, self._guesses)
        return first

    def _came_true(self, id: int) -> bool:
        hit = self._guesses.pop(0) == id
        self.accepted += hit
        self._recent = [*self._recent, hit][-_WINDOW:]
        return hit

    def _guess(self, text: Sequence) -> list[int]:
        """As many as may pay: none while hardly any come true, none past the context or length."""
        if len(self._recent) == _WINDOW and sum(self._recent) < _LEAST_ACCEPTED * _WINDOW:
            self._recent, self._resume_at = [], len(text.ids) + _PAUSE
        if len(text.ids) < self._resume_at:
            return []
        room = min(
            text.context - len(text), text.params.max_new_tokens - len(text.ids) - 1, MOST_GUESSES
        )
        guesses = self._drafter.propose(text, room) if room > 0 else []
        if text.constraint is not None:
            del guesses[text.constraint.possible(text.ids, guesses) :]
        return guesses
