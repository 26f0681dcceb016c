"""Prefix cache: prompts with a common prefix share its keys and values.

A prefix is copied from any cache that begins with it: of an active sequence, or of one of the last
that ended. Keys and values of a position depend on the tokens up to it and on nothing else (to the
last bit on the native engine), so a prefix of any length may be copied.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gptcli.engine.interface import Cache

MIN_SHARED = 16  # positions worth copying, and worth waiting a step for


@dataclass(slots=True, eq=False)
class _Source:
    ids: NDArray[np.int64]
    cache: Cache

    def common(self, ids: NDArray[np.int64]) -> int:
        """Length of the common prefix of both prompts."""
        length = min(len(ids), len(self.ids))
        differs = self.ids[:length] != ids[:length]
        return int(differs.argmax()) if differs.any() else length


class PrefixCache:
    """The caches that prefixes are copied from.

    Attributes:
        shared: positions copied instead of computed, so far.
    """

    def __init__(self, positions: int) -> None:
        """Keep the caches of ended sequences while they have at most `positions` in all."""
        self.shared = 0
        self._most = positions
        self._active: dict[int, _Source] = {}
        self._ended: OrderedDict[int, _Source] = OrderedDict()  # the last used last

    @property
    def positions(self) -> int:
        """Capacity of the caches kept of ended sequences."""
        return sum(source.cache.capacity for source in self._ended.values())

    def must_wait(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt being prefilled now will soon share much more than there is."""
        ids = _array(prompt)[:-1]
        known = max((self._available(source, ids) for source in self._sources()), default=0)
        coming = max((source.common(ids) for source in self._active.values()), default=0)
        return coming >= known + MIN_SHARED

    def begin(self, prompt: Sequence[int], cache: Cache) -> None:
        """Copy a prompt's known prefix into an empty cache, which then is a source itself.

        The last token is never copied: computing it gives the logits of what follows.
        """
        ids = _array(prompt)
        source = max(self._sources(), key=lambda one: self._available(one, ids[:-1]), default=None)
        if source is not None and (count := self._available(source, ids[:-1])) >= MIN_SHARED:
            cache.copy_prefix(source.cache, count)
            self.shared += count
            if id(source.cache) in self._ended:
                self._ended.move_to_end(id(source.cache))
        self._active[id(cache)] = _Source(ids, cache)

    def end(self, cache: Cache, *, keep: bool = True) -> None:
        """Note that a cache's sequence ended; `keep` is false if the prompt is not in it."""
        source = self._active.pop(id(cache), None)
        if source is None or not keep:
            return
        source.cache.truncate(len(source.ids))
        self._ended[id(cache)] = source
        while self._ended and self.positions > self._most:
            self._ended.popitem(last=False)

    def clear(self) -> None:
        """Drop all kept caches."""
        self._active.clear()
        self._ended.clear()

    def _sources(self) -> chain[_Source]:
        return chain(self._active.values(), self._ended.values())

    @staticmethod
    def _available(source: _Source, ids: NDArray[np.int64]) -> int:
        return min(source.common(ids), source.cache.length)


def _array(ids: Sequence[int]) -> NDArray[np.int64]:
    return np.array(ids, np.int64)
