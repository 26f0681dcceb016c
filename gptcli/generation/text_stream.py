"""One completion as text: tokens in, text out, stop strings found and held back.

Only whole characters that cannot belong to a stop string are released.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from gptcli.generation.sequence import FinishReason, Token
from gptcli.tokenizer.tokenizer import Tokenizer


class StopFinder:
    """Finds the stop string that ends first, in a text that comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """The next piece of text → the text that can no longer belong to a stop string."""
        self._held += text
        if match := self._match():
            at, self.found = match
            return self._release(at)
        return self._release(len(self._held) - self._partial_match())

    def finish(self) -> str:
        """The text that was held back, at the end of the whole text."""
        return self._release(len(self._held))

    def _match(self) -> tuple[int, str] | None:
        """The beginning of the match that ends first; of two that end together, the longer one."""
        found = [(self._held.find(stop), stop) for stop in self._stops]
        ends = [(at + len(stop), at, stop) for at, stop in found if at >= 0]
        return min(ends)[1:] if ends else None

    def _partial_match(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


class Piece(str):
    """Text to show, perhaps empty, with the token that released it (None at the end)."""

    token: Token | None

    def __new__(cls, text: str, token: Token | None = None) -> "Piece":
        """`text` with its token."""
        piece = super().__new__(cls, text)
        piece.token = token
        return piece


class TokenStream(Protocol):
    """The tokens of one completion: a `Generation`, or what a beam search found."""

    @property
    def ids(self) -> list[int]:
        """The new tokens so far, the end-of-text token left out."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended, once it has."""

    @property
    def is_incomplete(self) -> bool:
        """Whether the text does not satisfy its constraint yet."""

    @property
    def seconds(self) -> float:
        """Decode time so far."""

    def __iter__(self) -> Iterator[Token]:
        """The tokens as they come."""


class Completion:
    """The text of one generation, in pieces.

    Attributes:
        text: all of it so far.
        finish_reason: as the generation's; "stop" if a stop string ended it.
        stop: the stop string that ended it.
        score: of a beam search, the mean log-probability of a token; None where tokens were drawn.
    """

    def __init__(
        self,
        generation: TokenStream,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
        score: float | None = None,
        *,
        after: Sequence[int] = (),
    ) -> None:
        """`after` are the prompt's ids: with some tokenizers the first new text depends on them."""
        self.generation, self.score = generation, score
        self.text = ""
        self.stop: str | None = None
        self.finish_reason: FinishReason | None = None
        self._tokenizer, self._keep_stop, self._after = tokenizer, keep_stop, after
        self._finder = StopFinder(stop)

    def __iter__(self) -> Iterator[Piece]:
        """The pieces as they are released; errors of the generation pass through."""
        decoder = self._tokenizer.decoder(self._after)
        for token in self.generation:
            yield self._piece(decoder.feed(token.id), token)
            if self._finder.found is not None:
                break
        else:
            yield self._piece(decoder.finish(), None)
        yield self._last_piece()

    def _piece(self, text: str, token: Token | None) -> Piece:
        return self._record(self._finder.feed(text), token)

    def _last_piece(self) -> Piece:
        self.stop = self._finder.found
        if self.stop is None:
            self.finish_reason = self.generation.finish_reason
            return self._record(self._finder.finish(), None)
        self.finish_reason = "stop"
        return self._record(self.stop if self._keep_stop else "", None)

    def _record(self, text: str, token: Token | None) -> Piece:
        self.text += text
        return Piece(text, token)
