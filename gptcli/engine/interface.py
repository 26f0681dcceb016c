"""The engine interface: one call a step, for any mix of prefill and decode.

Two engines meet it: the compiled kernels (`gptcli.engine.native`) and PyTorch
(`gptcli.engine.pytorch`). Everything crosses as NumPy arrays, so that callers import neither.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gptcli.model.config import GPTConfig

Logits = NDArray[np.float32]


class Cache(Protocol):
    """Keys and values of one sequence: `length` positions of at most `capacity`."""

    @property
    def length(self) -> int:
        """Positions held."""

    @property
    def capacity(self) -> int:
        """The most positions it can hold."""

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` positions."""

    # A cache takes what its own engine made, and nothing else: Any stands for its own kind.
    def copy_prefix(self, other: Any, length: int) -> None:
        """Hold what another cache holds of its first `length` positions, and nothing else.

        Raises:
            ValueError: the other does not hold them, or they do not fit.
        """


class Span(NamedTuple):
    """New tokens of one sequence in one step.

    Attributes:
        cache: what the tokens follow; afterwards it holds them too.
        ids: at least one.
        n_logits: logits are computed after this many of the last ids; 0 for none.
    """

    cache: Any  # of the engine's own kind
    ids: Sequence[int]
    n_logits: int = 1


class Engine(Protocol):
    """A model that computes."""

    @property
    def config(self) -> GPTConfig:
        """Its shape."""

    def new_cache(self, capacity: int | None = None) -> Cache:
        """An empty cache; for the whole context without a capacity.

        Raises:
            MemoryError: there is no memory for it.
        """

    def step(self, spans: Sequence[Span]) -> Logits:
        """Compute one step: (M, V) logits, those of each span in order. No cache comes twice.

        Raises:
            ValueError: a span goes past the context or its cache's capacity.
            MemoryError: there is no memory for the step; no cache has changed its length.
        """
