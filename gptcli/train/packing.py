"""Pack documents into rows (training sequences), shuffle the rows and mix the texts.

Which row is read at which step is a pure function of (seed, step), so a resumed training reads
exactly what an uninterrupted one does.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = -100  # target of padding: no loss

Ids = NDArray[np.int32]


def seeded_generator(*key: object) -> np.random.Generator:
    """A random generator seeded with a hash of the key."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class PackedTexts:
    """One text's documents, packed anew each epoch into rows of context_length + 1 ids.

    A row holds whole documents, each between two end-of-text tokens, so that most documents are
    learnt from their beginning, as they will be generated. A document longer than a row is split
    over several rows. The room that no document fits into is padding.
    """

    def __init__(self, documents: Sequence[Ids], eos_id: int, length: int, key: str) -> None:
        """`length` is the context length; `key` seeds the shuffles of this text."""
        self.tokens = sum(len(document) + 1 for document in documents)
        self._documents, self._eos, self._length, self._key = documents, eos_id, length, key
        self._starts = [0]  # the first row of each epoch that was packed, and of the next one
        self._epoch, self._rows = -1, list[list[Ids]]()

    def row(self, index: int) -> tuple[Ids, Ids]:
        """Row `index`, counted over all epochs → (T,) ids and (T,) targets."""
        while index >= self._starts[-1]:
            self._load(len(self._starts) - 1)
        epoch = bisect_left(self._starts, index + 1) - 1
        self._load(epoch)
        return self._filled(self._rows[index - self._starts[epoch]])

    def epoch_rows(self, epoch: int) -> int:
        """Number of rows of an epoch; it differs a little between epochs."""
        while epoch + 1 >= len(self._starts):
            self._load(len(self._starts) - 1)
        return self._starts[epoch + 1] - self._starts[epoch]

    def _filled(self, pieces: list[Ids]) -> tuple[Ids, Ids]:
        ids = np.full(self._length + 1, self._eos, np.int32)
        targets = np.full(self._length, IGNORE_INDEX, np.int32)
        end = sum(map(len, pieces))
        ids[:end] = np.concatenate(pieces)
        targets[: end - 1] = ids[1:end]
        if end <= self._length:  # the end of the last document, before the padding
            targets[end - 1] = self._eos
        return ids[:-1], targets

    def _load(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._pack(epoch)
        if epoch == len(self._starts) - 1:
            self._starts.append(self._starts[-1] + len(self._rows))

    def _pack(self, epoch: int) -> list[list[Ids]]:
        """Best-fit packing: each piece goes to the row with the least room that it fits into."""
        draw = seeded_generator(self._key, epoch)
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
        """Shuffled, but with the rest of a long document first; a row has at most one."""
        shuffled = [pieces[i] for i in draw.permutation(len(pieces))]
        return sorted(shuffled, key=lambda piece: bool(piece[0] == self._eos))

    def _pieces(self, document: Ids) -> list[Ids]:
        """An end of text and the document, split into pieces that fit a row.

        Pieces overlap by one id: the last target of one is the first input of the next.
        """
        whole = np.concatenate([np.array([self._eos], np.int32), document])
        if len(whole) <= self._length + 1:
            return [whole]
        starts = range(0, len(whole) - 1, self._length)
        return [whole[start : start + self._length + 1] for start in starts]


class Mixture:
    """Rows drawn from several texts, in shares that change linearly over the training."""

    def __init__(
        self,
        sources: Sequence[PackedTexts],
        weights: Sequence[tuple[float, float]],
        rows: int,
        seed: int,
    ) -> None:
        """`weights` are those of each text at the start and at the end, relative to its size.

        `rows` is the number of rows of the whole training.
        """
        self._sources = sources
        progress = np.linspace(0, 1, rows)[:, None]
        start, end = np.array(weights, np.float64).T
        sizes = np.array([source.tokens for source in sources], np.float64)
        shares = sizes * (start + (end - start) * progress)
        bounds = np.cumsum(shares, axis=1)
        draws = seeded_generator(seed, "mixture").random(rows) * bounds[:, -1]
        self._choice = (draws[:, None] >= bounds[:, :-1]).sum(axis=1).astype(np.int16)
        self._index = np.zeros(rows, np.int64)  # of each row among those of its text
        for number in range(len(sources)):
            mine = self._choice == number
            self._index[mine] = np.arange(mine.sum())
        self.counts = [int((self._choice == number).sum()) for number in range(len(sources))]

    def batch(self, start: int, count: int) -> tuple[Ids, Ids]:
        """Rows `start` to `start` + `count` → (B, T) ids and (B, T) targets."""
        rows = range(start, start + count)
        pairs = [self._sources[self._choice[n]].row(int(self._index[n])) for n in rows]
        return np.stack([ids for ids, _ in pairs]), np.stack([targets for _, targets in pairs])
