"""Pack documents into rows of tokens, shuffle the rows and mix the sources.

Which row is read at which step is a pure function of (seed, step): nothing is drawn while
training, so a resumed run reads exactly what an undisturbed one does.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IGNORED = -100  # a target that counts nothing: what follows the last document of a row

Ids = NDArray[np.int32]


def generator(*key: object) -> np.random.Generator:
    """A generator that depends on the key and on nothing else."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class Packed:
    """One source's documents, packed anew into rows of context_length + 1 ids each epoch.

    A row holds whole documents, each with the end of text before it and after it, so that most
    texts are seen from their beginning, as they will be written. A document longer than a row is
    cut into rows. What no document fits into is padding.
    """

    def __init__(self, documents: Sequence[Ids], eos_id: int, length: int, key: str) -> None:
        """`length` is the context's; `key` tells this source's shuffles from others'."""
        self.tokens = sum(len(document) + 1 for document in documents)
        self._documents, self._eos, self._length, self._key = documents, eos_id, length, key
        self._starts = [0]  # the row at which each epoch known so far starts
        self._epoch, self._rows = -1, list[list[Ids]]()

    def row(self, index: int) -> tuple[Ids, Ids]:
        """Row `index`, counted over all epochs → (T,) ids and (T,) targets."""
        while index >= self._starts[-1]:
            self._load(len(self._starts) - 1)
        epoch = bisect_left(self._starts, index + 1) - 1
        self._load(epoch)
        return self._filled(self._rows[index - self._starts[epoch]])

    def epoch_rows(self, epoch: int) -> int:
        """How many rows an epoch has; it differs a little between epochs."""
        while epoch + 1 >= len(self._starts):
            self._load(len(self._starts) - 1)
        return self._starts[epoch + 1] - self._starts[epoch]

    def _filled(self, pieces: list[Ids]) -> tuple[Ids, Ids]:
        ids = np.full(self._length + 1, self._eos, np.int32)
        targets = np.full(self._length, IGNORED, np.int32)
        end = sum(map(len, pieces))
        ids[:end] = np.concatenate(pieces)
        targets[: end - 1] = ids[1:end]
        if end <= self._length:  # the last document's own end of text, before the padding
            targets[end - 1] = self._eos
        return ids[:-1], targets

    def _load(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._pack(epoch)
        if epoch == len(self._starts) - 1:
            self._starts.append(self._starts[-1] + len(self._rows))

    def _pack(self, epoch: int) -> list[list[Ids]]:
        """Each piece goes to the row with the least room that it still fits into."""
        draw = generator(self._key, epoch)
        rows: list[list[Ids]] = []
        room: list[tuple[int, int]] = []  # (room left, row), sorted
        for number in draw.permutation(len(self._documents)):
            for piece in self._pieces(self._documents[number]):
                at = bisect_left(room, (len(piece), -1))
                fits = at < len(room) and piece[0] == self._eos
                left, row = room.pop(at) if fits else (self._length + 1, len(rows))
                if row == len(rows):
                    rows.append([])
                rows[row].append(piece)
                if left > len(piece) + 1:
                    insort(room, (left - len(piece), row))
        return [self._ordered(rows[row], draw) for row in draw.permutation(len(rows))]

    def _ordered(self, pieces: list[Ids], draw: np.random.Generator) -> list[Ids]:
        """In any order, but the rest of a long document, of which a row has one at most, first."""
        shuffled = [pieces[i] for i in draw.permutation(len(pieces))]
        return sorted(shuffled, key=lambda piece: bool(piece[0] == self._eos))

    def _pieces(self, document: Ids) -> list[Ids]:
        """The end of text and the document, in overlapping cuts that fit a row."""
        whole = np.concatenate([np.array([self._eos], np.int32), document])
        if len(whole) <= self._length + 1:
            return [whole]
        starts = range(0, len(whole) - 1, self._length)
        return [whole[start : start + self._length + 1] for start in starts]


class Mixture:
    """Rows of several sources, in shares that change from the first row to the last."""

    def __init__(
        self,
        sources: Sequence[Packed],
        weights: Sequence[tuple[float, float]],
        rows: int,
        seed: int,
    ) -> None:
        """`weights` are each source's at the start and at the end, relative to its size."""
        self._sources = sources
        progress = np.linspace(0, 1, rows)[:, None]
        start, end = np.array(weights, np.float64).T
        sizes = np.array([source.tokens for source in sources], np.float64)
        shares = sizes * (start + (end - start) * progress)
        bounds = np.cumsum(shares, axis=1)
        draws = generator(seed, "mixture").random(rows) * bounds[:, -1]
        self._choice = (draws[:, None] >= bounds[:, :-1]).sum(axis=1).astype(np.int16)
        self._index = np.zeros(rows, np.int64)  # which of its source's rows each is
        for number in range(len(sources)):
            mine = self._choice == number
            self._index[mine] = np.arange(mine.sum())
        self.counts = [int((self._choice == number).sum()) for number in range(len(sources))]

    def batch(self, start: int, count: int) -> tuple[Ids, Ids]:
        """Rows `start` to `start` + `count` → (B, T) ids and (B, T) targets."""
        rows = range(start, start + count)
        pairs = [self._sources[self._choice[n]].row(int(self._index[n])) for n in rows]
        return np.stack([ids for ids, _ in pairs]), np.stack([targets for _, targets in pairs])
