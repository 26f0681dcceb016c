"""The generation loop: ids in, ids out.

Prefill feeds the prompt, decode one token at a time; both are the same call of the model. Knows no
text, no files and no terminal.
"""

from collections.abc import Callable, Iterator, Sequence
from time import monotonic, perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from gptcli.generation.sequence import FinishReason, Overflow, Token, check_prompt
from gptcli.generation.sequence import Sequence as Text
from gptcli.model.config import GPTConfig
from gptcli.sampling.params import SamplingParams

__all__ = ["Cache", "FinishReason", "Generation", "Model", "Overflow", "Prompt", "Token"]


class Cache(Protocol):
    """What the loop asks of a key/value cache."""

    length: int

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` positions."""


class Model(Protocol):
    """What the loop asks of a model: `FastGPT` or the book's `GPTModel`."""

    config: GPTConfig

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    # A model takes the caches that it makes, and no others: Any stands for its own kind.
    def __call__(self, ids: Tensor, cache: Any = None, last: bool = False) -> Tensor:
        """(B, T) ids → (B, T, V) logits, (B, 1, V) if `last`."""

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> Any:
        """An empty cache."""


class Prompt:
    """A prompt the model has read: several samples continue it, and it is read once.

    Attributes:
        ids: the prompt's tokens.
        logits: (1, V) of what follows it.
        seconds: what reading it took.
    """

    def __init__(
        self, model: Model, ids: Sequence[int], max_new_tokens: int, overflow: Overflow = "stop"
    ) -> None:
        """Read the prompt; raises `UsageError` if it is empty or too long."""
        context = model.config.context_length
        check_prompt(ids, context, overflow)
        self.ids, self.model = tuple(ids), model
        self._cache = model.new_cache(capacity=min(context, len(ids) + max_new_tokens))
        start = perf_counter()
        self.logits = self._read(0, ids[-context:])
        self.seconds = perf_counter() - start

    def following(self, text: Text) -> Tensor:
        """(1, V) logits of what follows a text that begins with this prompt."""
        if not text.ids:
            self._cache.truncate(len(self.ids))
            return self.logits
        return self._read(*text.unread(self._held(text)))

    def following_all(self, text: Text, guesses: Sequence[int]) -> Tensor:
        """(1 + guesses, V) logits: of what follows the text, and each guess after it."""
        past, ids = text.unread(self._held(text))
        return self._read(past, [*ids, *guesses], last=1 + len(guesses))

    def _held(self, text: Text) -> int:
        """Positions of the cache that are this text's: all but its last token, at the most."""
        return min(self._cache.length, len(text) - 1)

    @torch.inference_mode()
    def _read(self, past: int, ids: Sequence[int], last: int = 1) -> Tensor:
        """Logits of the last so many positions, (last, V)."""
        self._cache.truncate(past)
        tensor = torch.tensor([ids], device=self.model.device)
        return self.model(tensor, self._cache, last=last == 1)[0, -last:]


class Source(Protocol):
    """Where the logits come from: the `Prompt`, or a `Speculation` over it."""

    def following(self, text: Text) -> Tensor:
        """(1, V) logits of what follows the text."""


class Generation:
    """The new tokens of one sample, computed as they are asked for.

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
            context=prompt.model.config.context_length,
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
            logits = self._source.following(self.text)
            token = self.text.choose(logits.float().cpu().numpy())
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
