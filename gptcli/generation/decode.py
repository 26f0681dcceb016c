"""The decode loop of one sequence: token ids in, token ids out.

Prefill computes the prompt, decode one token at a time; both are the same call of the engine.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from time import monotonic, perf_counter
from typing import Any, Protocol

from gptcli.engine.interface import Engine, Logits, Span
from gptcli.generation.sequence import FinishReason, Overflow, Sequence, Token, check_prompt
from gptcli.sampling.params import SamplingParams

__all__ = ["FinishReason", "Generation", "Overflow", "Prompt", "Token"]


class Prompt:
    """A prefilled prompt, which several samples can continue.

    Attributes:
        ids: the prompt's tokens.
        logits: (V,) for the first new token.
        seconds: what prefill took.
    """

    def __init__(
        self, engine: Engine, ids: Ids[int], max_new_tokens: int, overflow: Overflow = "stop"
    ) -> None:
        """Prefill; raises `UsageError` if the prompt is empty or too long."""
        context = engine.config.context_length
        check_prompt(ids, context, overflow)
        self.ids, self.engine = tuple(ids), engine
        self._cache = engine.new_cache(min(context, len(ids) + max_new_tokens))
        start = perf_counter()
        self.logits = self._step(0, ids[-context:])[0]
        self.seconds = perf_counter() - start

    def next_logits(self, sequence: Sequence) -> Logits:
        """(V,) logits of the next token of a sequence that begins with this prompt."""
        if not sequence.ids:
            self._cache.truncate(len(self.ids))
            return self.logits
        row: Logits = self._step(*sequence.uncached(self._cached(sequence)))[0]
        return row

    def draft_logits(self, sequence: Sequence, draft: Ids[int]) -> Logits:
        """(1 + draft, V) logits of the token after the sequence and after each draft token."""
        past, ids = sequence.uncached(self._cached(sequence))
        return self._step(past, [*ids, *draft], n_logits=1 + len(draft))

    def _cached(self, sequence: Sequence) -> int:
        """Positions of this sequence in the cache; the last token's is always computed."""
        return min(self._cache.length, len(sequence) - 1)

    def _step(self, past: int, ids: Ids[int], n_logits: int = 1) -> Logits:
        self._cache.truncate(past)
        return self.engine.step([Span(self._cache, ids, n_logits)])


class LogitsSource(Protocol):
    """Where the logits come from: the `Prompt`, or a `Speculation` over it."""

    def next_logits(self, sequence: Sequence) -> Logits:
        """(V,) logits of the next token."""


class Generation:
    """The new tokens of one sample, generated lazily.

    Attributes:
        sequence: prompt and new tokens.
        seconds: decode time so far, without prefill.
    """

    def __init__(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        seed: int,
        speculation: LogitsSource | None = None,
        deadline: float | None = None,
        stopped: Callable[[], bool] | None = None,
        **of_sequence: Any,
    ) -> None:
        """Prepare a sample; nothing is computed yet.

        Args:
            prompt: what to continue.
            params: how tokens are chosen.
            seed: with record and sample, what the draws depend on.
            speculation: verifies several draft tokens in one step; the same text, sooner.
            deadline: in seconds of `time.monotonic`; no token is started after it.
            stopped: called before each token; true ends the generation.
            **of_sequence: record, sample, eos_ids, n_vocab, overflow, logprobs, constraint of
                the `Sequence`.
        """
        self.prompt = prompt
        self.sequence = Sequence(
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
        return self.sequence.ids

    @property
    def is_incomplete(self) -> bool:
        """Whether the text does not satisfy its constraint yet."""
        return self.sequence.is_incomplete

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended, once it has."""
        return self.sequence.finish_reason

    def __iter__(self) -> Iterator[Token]:
        """Tokens, the end-of-text token left out.

        Raises:
            RunError: non-finite logits, or a full context with overflow "error".
        """
        while not self._must_end():
            start = perf_counter()
            token = self.sequence.choose(self._source.next_logits(self.sequence))
            self.seconds += perf_counter() - start
            if token is not None:
                yield token

    def _must_end(self) -> bool:
        if self.sequence.must_end():
            return True
        if self._stopped is not None and self._stopped():
            self.sequence.finish_reason = "interrupted"
        elif self._deadline is not None and monotonic() >= self._deadline:
            self.sequence.finish_reason = "time"
        return self.sequence.finish_reason is not None
