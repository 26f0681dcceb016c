"""Prefix cache: prompts with a common prefix share its keys and values.

Every cache may lend its beginning: those of texts being written, and of the last that ended. Keys
and values of a position depend on the tokens up to it and on nothing else, to the last bit on the
native engine, so a beginning may be cut anywhere.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 16  # positions worth copying, and worth waiting a step for


@dataclass(slots=True, eq=False)
class _Lender:
    ids: NDArray[np.int64]
    cache: Any

    def common(self, ids: NDArray[np.int64]) -> int:
        """Length of the common prefix of both prompts."""
        length = min(len(ids), len(self.ids))
        differs = self.ids[:length] != ids[:length]
        return int(differs.argmax()) if differs.any() else length


class Prefixes:
    """Where to copy the beginning of a prompt from.

    Attributes:
        shared: positions that were copied and not computed, so far.
    """

    def __init__(self, positions: int) -> None:
        """Keep caches of texts that ended as long as they have at most so many `positions`."""
        self.shared = 0
        self._most = positions
        self._writing: dict[int, _Lender] = {}
        self._ended: OrderedDict[int, _Lender] = OrderedDict()  # the last used last

    @property
    def positions(self) -> int:
        """How many the kept caches have room for."""
        return sum(lender.cache.capacity for lender in self._ended.values())

    def must_wait(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt being computed now will soon lend much more than there is."""
        ids = _array(prompt)[:-1]
        known = max((self._lends(lender, ids) for lender in self._lenders()), default=0)
        coming = max((lender.common(ids) for lender in self._writing.values()), default=0)
        return coming >= known + LEAST

    def begin(self, prompt: Sequence[int], cache: Any) -> None:
        """Copy into an empty cache what is known of a prompt, and let it lend in its turn.

        The last token is never copied: what follows it is always to be computed.
        """
        ids = _array(prompt)
        lender = max(self._lenders(), key=lambda one: self._lends(one, ids[:-1]), default=None)
        if lender is not None and (count := self._lends(lender, ids[:-1])) >= LEAST:
            cache.copy_prefix(lender.cache, count)
            self.shared += count
            if id(lender.cache) in self._ended:
                self._ended.move_to_end(id(lender.cache))
        self._writing[id(cache)] = _Lender(ids, cache)

    def end(self, cache: Any, *, keep: bool = True) -> None:
        """The text of a cache has ended; not to `keep` it if it no longer holds the prompt."""
        lender = self._writing.pop(id(cache), None)
        if lender is None or not keep:
            return
        lender.cache.truncate(len(lender.ids))
        self._ended[id(cache)] = lender
        while self._ended and self.positions > self._most:
            self._ended.popitem(last=False)

    def clear(self) -> None:
        """Drop all kept caches."""
        self._writing.clear()
        self._ended.clear()

    def _lenders(self) -> chain[_Lender]:
        return chain(self._writing.values(), self._ended.values())

    @staticmethod
    def _lends(lender: _Lender, ids: NDArray[np.int64]) -> int:
        return min(lender.common(ids), int(lender.cache.length))


def _array(ids: Sequence[int]) -> NDArray[np.int64]:
    return np.array(ids, np.int64)
