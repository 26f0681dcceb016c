"""Keys and values of how prompts begin, kept so that what several have in common is read once.

A prompt is read in blocks of positions, counted from its first, whether anything is kept or not:
the bits of attention depend on how many positions are read together, so a block has the same bits
wherever it was read, and a copy of it is as good. Knows no text and no order.

Shapes: L layers, H heads, C positions of a row, D head_dim.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from torch import Tensor

# Positions that attention reads at once. Measured from 32 to 512: it costs no time, as a block
# looks at no position after it. A beginning is shared by whole blocks, so a small one shares more.
BLOCK = 64


class Prefixes:
    """Blocks that were read, the last used last: those used longest ago make room.

    Attributes:
        shared: positions that were copied and not computed, so far.
    """

    def __init__(self, positions: int) -> None:
        """Keep at most so many `positions`."""
        self.shared = 0
        self._most = positions // BLOCK
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._in_hand: set[bytes] = set()

    @property
    def positions(self) -> int:
        """How many are kept now."""
        return len(self._kept) * BLOCK

    def is_in_hand(self, prompt: Sequence[int]) -> bool:
        """Whether more of this prompt will be known once the step that is being filled is done."""
        missing = next((key for key in self._keys(prompt) if key not in self._kept), None)
        return missing in self._in_hand

    def take(self, prompt: Sequence[int], row: Tensor) -> int:
        """Fill a row's (L, 2, H, C, D) with what is known of a prompt → how many positions."""
        keys = self._keys(prompt)
        known = next((n for n, key in enumerate(keys) if key not in self._kept), len(keys))
        for number, key in enumerate(keys[:known]):
            row[..., number * BLOCK : (number + 1) * BLOCK, :] = self._kept[key]
        self._touch(keys[:known])
        self._in_hand.update(keys[known:])
        self.shared += known * BLOCK
        return known * BLOCK

    def keep(self, prompt: Sequence[int], row: Tensor) -> None:
        """Keep what a row holds of a prompt that it has read."""
        keys = self._keys(prompt)
        for number, key in enumerate(keys):
            if key not in self._kept:
                self._kept[key] = row[..., number * BLOCK : (number + 1) * BLOCK, :].clone()
        self._touch(keys)
        self._in_hand.difference_update(keys)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self._in_hand.clear()

    def _touch(self, keys: Sequence[bytes]) -> None:
        """A block is of no use without those before it, so the first must be the last to go."""
        for key in reversed(keys):
            self._kept.move_to_end(key)

    def _keys(self, prompt: Sequence[int]) -> list[bytes]:
        """One for each whole block, of all that the prompt has up to its end.

        The last token is in none: what follows it is always to be computed.
        """
        whole = min((len(prompt) - 1) // BLOCK, self._most)
        digest, keys = blake2b(digest_size=16), []
        for number in range(whole):
            digest.update(array("q", prompt[number * BLOCK : (number + 1) * BLOCK]).tobytes())
            keys.append(digest.digest())
        return keys


def blocks(past: int, length: int) -> Iterable[tuple[int, int]]:
    """`length` positions after `past` → (past, length) of the blocks that they are read in."""
    end = past + length
    while past < end:
        size = min(end - past, BLOCK - past % BLOCK)
        yield past, size
        past += size
