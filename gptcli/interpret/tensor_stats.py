"""Statistics of a tensor's values: extremes, mean, deviation, zeros, NaN, a histogram.

Each tensor is read twice, a piece at a time, so that memory does not grow with the file; the second
time is for the histogram, whose range is known only then.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gptcli.checkpoint.header import Header, TensorInfo
from gptcli.checkpoint.tensordata import Values, can_read, open_unchanged, read_pieces

BINS = 12

OnRead = Callable[[str, int], object]
"""Called with a tensor's name and the bytes read since the last call; all are read twice."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of one tensor, in float64; the fields are keys of `inspect --stats --json`.

    From `minimum` on they are of finite values, and None if there are none or float64 overflows.

    Attributes:
        name: in the file.
        dtype: in safetensors' terms.
        shape: in the file.
        elements: how many there are.
        nan: how many are NaN.
        infinite: how many are infinite.
        zeros: how many are 0 or -0.
        minimum: the least.
        maximum: the greatest.
        mean: sum / n.
        deviation: the population's standard deviation, sqrt(sum (x - mean)^2 / n).
        norm: sqrt(sum x^2).
        histogram: counts in 12 equal ranges from minimum to maximum.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    nan: int = 0
    infinite: int = 0
    zeros: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    norm: float | None = None
    histogram: tuple[int, ...] = ()

    @property
    def was_read(self) -> bool:
        """Whether its dtype is one that can be read."""
        return can_read(self.dtype)


def statistics(
    headers: Sequence[Header], on_read: OnRead = lambda _name, _read: None
) -> Iterator[Stats]:
    """Statistics of each tensor of a model's files, in the order of their data.

    Raises:
        RunError: a file changed while it was being read, or cannot be read.
    """
    for header in headers:
        with open_unchanged(header) as fd:
            for info in header.tensors.values():
                if can_read(info.dtype):
                    yield _of_tensor(fd, info, on_read)
                else:
                    on_read(info.name, 2 * info.nbytes)
                    yield Stats(info.name, info.dtype, info.shape, info.numel)


def _of_tensor(fd: int, info: TensorInfo, on_read: OnRead) -> Stats:
    def read() -> Iterator[Values]:
        for piece in read_pieces(fd, info):
            yield piece
            on_read(info.name, len(piece) * info.nbytes // info.numel)

    return summary(read, info.name, info.dtype, info.shape)


def summary(
    read: Callable[[], Iterable[Values]], name: str, dtype: str, shape: tuple[int, ...]
) -> Stats:
    """Statistics of one tensor; each call of `read` yields all its values, in pieces."""
    sums = _Sums()
    for piece in read():
        sums.add(piece)
    has_range = sums.count > 0 and math.isfinite(sums.high - sums.low)
    counts = _histogram(read(), sums) if has_range else ()
    total = sums.squares + sums.count * sums.mean**2 if abs(sums.mean) < 1e150 else math.inf
    n = sums.count or math.nan
    return Stats(
        name,
        dtype,
        shape,
        math.prod(shape),
        sums.nan,
        sums.infinite,
        sums.zeros,
        finite_or_none(sums.low),
        finite_or_none(sums.high),
        finite_or_none(sums.mean if sums.count else math.nan),
        finite_or_none(math.sqrt(sums.squares / n)),
        finite_or_none(math.sqrt(total) if sums.count else math.nan),
        counts,
    )


def merged(name: str, tensors: Sequence[Stats]) -> Stats:
    """Statistics of the values of several tensors together, without a histogram."""
    whole = Stats(
        name,
        "+".join(dict.fromkeys(one.dtype for one in tensors)),
        tensors[0].shape,
        sum(one.elements for one in tensors),
        sum(one.nan for one in tensors),
        sum(one.infinite for one in tensors),
        sum(one.zeros for one in tensors),
    )
    parts = [
        (finite, one.minimum, one.maximum, one.mean, one.deviation, one.norm)
        for one in tensors
        if (finite := one.elements - one.nan - one.infinite)
    ]
    if not parts or any(value is None for part in parts for value in part):
        return whole
    columns = np.array(parts, dtype=np.float64).T
    counts, lows, highs, means, deviations, norms = columns
    mean = float(counts @ means / counts.sum())
    variance = float(counts @ (deviations**2 + (means - mean) ** 2) / counts.sum())
    return replace(
        whole,
        minimum=float(lows.min()),
        maximum=float(highs.max()),
        mean=mean,
        deviation=finite_or_none(math.sqrt(variance)),
        norm=finite_or_none(float(np.sqrt(norms @ norms))),
    )


def finite_or_none(value: float) -> float | None:
    """None for NaN and infinity."""
    return value if math.isfinite(value) else None


@dataclass(slots=True)
class _Sums:
    """Running statistics of finite values; `squares` are of differences from the mean."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    zeros: int = 0
    nan: int = 0
    infinite: int = 0

    def add(self, piece: Values) -> None:
        """Merge a piece's mean and squares as Chan, Golub & LeVeque 1979 (STAN-CS-79-773) do."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self._finite(piece.astype(np.float64))
            if not len(values):
                return
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))
            self.zeros += len(values) - int(np.count_nonzero(values))
            mean = float(values.mean())
            values -= mean
            count, shift = self.count + len(values), mean - self.mean
            share = len(values) / count
            self.squares += float(values @ values) + shift * shift * self.count * share
            self.mean += shift * share
            self.count = count

    def _finite(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if math.isfinite(values.sum()):  # then every value is
            return values
        finite, nan = np.isfinite(values), int(np.isnan(values).sum())
        kept = values[finite]
        self.nan += nan
        self.infinite += len(values) - len(kept) - nan
        return kept


def _histogram(read: Iterable[Values], sums: _Sums) -> tuple[int, ...]:
    """Counts as `numpy.histogram`'s, by comparing with each edge, which is many times faster."""
    edges = np.histogram_bin_edges(np.empty(0), BINS, (sums.low, sums.high))
    below = np.zeros(BINS, np.int64)  # values below each edge but the last
    with np.errstate(invalid="ignore"):
        for piece in read:
            values = piece.astype(np.float64, copy=False)
            below += [np.count_nonzero(values < edge) for edge in edges[:-1]]
    below -= below[0]  # leaves out negative infinity
    return tuple(np.diff(below, append=sums.count).tolist())
