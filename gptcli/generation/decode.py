"""The generation loop: ids in, ids out.

Prefill computes the prompt, decode one token at a time; both are the same call of the engine.
"""

from collections.abc import Callable, Iterator, Sequence
from time import monotonic, perf_counter
from typing import Any, Protocol

from gptcli.engine.interface import Engine, Logits, Span
from gptcli.generation.sequence import FinishReason, Overflow, Token, check_prompt
from gptcli.generation.sequence import Sequence as Text
from gptcli.sampling.params import SamplingParams

__all__ = ["FinishReason", "Generation", "Overflow", "Prompt", "Token"]


class Prompt:
    """A prompt that was computed: several samples continue it, and it is computed once.

    Attributes:
        ids: the prompt's tokens.
        logits: (V,) of what follows it.
        seconds: what prefill took.
    """

    def __init__(
        self, engine: Engine, ids: Sequence[int], max_new_tokens: int, overflow: Overflow = "stop"
    ) -> None:
        """Prefill; raises `UsageError` if the prompt is empty or too long."""
        context = engine.config.context_length
        check_prompt(ids, context, overflow)
        self.ids, self.engine = tuple(ids), engine
        self._cache = engine.new_cache(min(context, len(ids) + max_new_tokens))
        start = perf_counter()
        self.logits = self._step(0, ids[-context:])[0]
        self.seconds = perf_counter() - start

    def following(self, text: Text) -> Logits:
        """(V,) logits of what follows a text that begins with this prompt."""
        if not text.ids:
            self._cache.truncate(len(self.ids))
            return self.logits
        row: Logits = self._step(*text.unread(self._held(text)))[0]
        return row

    def following_all(self, text: Text, guesses: Sequence[int]) -> Logits:
        """(1 + guesses, V) logits: of what follows the text, and each guess after it."""
        past, ids = text.unread(self._held(text))
        return self._step(past, [*ids, *guesses], n_logits=1 + len(guesses))

    def _held(self, text: Text) -> int:
        """Positions of the cache that are this text's: all but its last token, at the most."""
        return min(self._cache.length, len(text) - 1)

    def _step(self, past: int, ids: Sequence[int], n_logits: int = 1) -> Logits:
        self._cache.truncate(past)
        return self.engine.step([Span(self._cache, ids, n_logits)])


class Source(Protocol):
    """Where the logits come from: the `Prompt`, or a `Speculation` over it."""

    def following(self, text: Text) -> Logits:
        """(V,) logits of what follows the text."""


class Generation:
    """The new tokens of one sample, generated lazily.

    Attributes:
        text: the sequence in the making.
        seconds: what computing the tokens took, the prompt apart.
    """

    def __init__(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        seed: int,
        speculation: Source | None = None,
        deadline: float | None = None,
        stopped: Callable[[], bool] | None = None,
        **of_sequence: Any,
    ) -> None:
        """Prepare a sample; nothing is computed yet.

        Args:
            prompt: what to continue.
            params: how tokens are chosen.
            seed: with record and sample, what the draws depend on.
            speculation: logits of several tokens at once; the same text, sooner.
            deadline: on the clock of `time.monotonic`, in seconds; no token begins after it.
            stopped: asked before each token; true ends the text.
            **of_sequence: record, sample, eos_ids, n_vocab, overflow, logprobs,
                constraint, as
                `gptcli.generation.sequence.Sequence` has them.
        """
        self.prompt = prompt
        self.text = Text(
            prompt=prompt.ids,
            params=params,
            context=prompt.engine.config.context_length,
            seed=seed,
            **of_sequence,
        )
        self.seconds = 0.0
        self._source = speculation or prompt
        self._deadline, self._stopped = deadline, stopped

    @property
    def ids(self) -> list[int]:
        """The new tokens so far, the end-of-text token left out."""
        return self.text.ids

    @property
    def is_incomplete(self) -> bool:
        """Whether the text falls short of its constraint."""
        return self.text.is_incomplete

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended, once it has."""
        return self.text.finish_reason

    def __iter__(self) -> Iterator[Token]:
        """Tokens, the end-of-text token left out.

        Raises:
            RunError: non-finite logits, or a full context with overflow "error".
        """
        while not self._must_end():
            start = perf_counter()
            token = self.text.choose(self._source.following(self.text))
            self.seconds += perf_counter() - start
            if token is not None:
                yield token

    def _must_end(self) -> bool:
        if self.text.must_end():
            return True
        if self._stopped is not None and self._stopped():
            self.text.finish_reason = "interrupted"
        elif self._deadline is not None and monotonic() >= self._deadline:
            self.text.finish_reason = "time"
        return self.text.finish_reason is not None
