"""Statistics of a tensor's values: extremes, mean, deviation, zeros, NaN, a histogram.

Streamed: each tensor is read twice, a piece at a time (the second time for the histogram, whose
range is known only then), so memory does not grow with the file.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gptcli.checkpoint.header import Header, TensorInfo
from gptcli.checkpoint.tensordata import Values, can_read, pieces, reading

BINS = 12

OnRead = Callable[[str, int], object]
"""Called with a tensor's name and bytes that were read, of which each is read twice."""


@dataclass(frozen=True, slots=True)
class Stats:
    """One tensor. Sums are of its finite values, in float64; None where that cannot hold them.

    Attributes:
        name: in the file.
        dtype: as safetensors calls it.
        shape: in the file.
        elements: all of them.
        nan: not a number.
        infinite: of either sign.
        zeros: of either sign.
        minimum: None where no value is finite, as for the four after it.
        maximum: see above.
        mean: sum / n.
        deviation: sqrt(sum (x - mean)^2 / n), the population's.
        norm: sqrt(sum x^2).
        histogram: how many values fall into each of 12 equal ranges from minimum to maximum.
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
    """The tensors of a model's files in the order of their data, each as soon as it is read.

    Raises:
        RunError: a file changed while it was being read, or cannot be read.
    """
    for header in headers:
        with reading(header) as fd:
            for info in header.tensors.values():
                if can_read(info.dtype):
                    yield _of_tensor(fd, info, on_read)
                else:
                    on_read(info.name, 2 * info.nbytes)
                    yield Stats(info.name, info.dtype, info.shape, info.numel)


def _of_tensor(fd: int, info: TensorInfo, on_read: OnRead) -> Stats:
    def read() -> Iterator[Values]:
        for piece in pieces(fd, info):
            yield piece
            on_read(info.name, len(piece) * info.nbytes // info.numel)

    return summary(read, info.name, info.dtype, info.shape)


def summary(
    read: Callable[[], Iterable[Values]], name: str, dtype: str, shape: tuple[int, ...]
) -> Stats:
    """Statistics of one tensor; each call of `read` yields its values from the start."""
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
        _known(sums.low),
        _known(sums.high),
        _known(sums.mean if sums.count else math.nan),
        _known(math.sqrt(sums.squares / n)),
        _known(math.sqrt(total) if sums.count else math.nan),
        counts,
    )


def merged(name: str, some: Sequence[Stats]) -> Stats:
    """The statistics of several tensors' values taken together; no histogram."""
    n = [one.elements - one.nan - one.infinite for one in some]
    finite = [(one, count) for one, count in zip(some, n, strict=True) if count]
    whole = Stats(
        name,
        "+".join(dict.fromkeys(one.dtype for one in some)),
        some[0].shape,
        sum(one.elements for one in some),
        sum(one.nan for one in some),
        sum(one.infinite for one in some),
        sum(one.zeros for one in some),
    )
    parts = [
        (count, one.minimum, one.maximum, one.mean, one.deviation, one.norm)
        for one, count in finite
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
        deviation=_known(math.sqrt(variance)),
        norm=_known(float(np.sqrt(norms @ norms))),
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(slots=True)
class _Sums:
    """Running sums of finite values; `squares` is of distances from the mean."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    zeros: int = 0
    nan: int = 0
    infinite: int = 0

    def add(self, piece: Values) -> None:
        """Chan, Golub & LeVeque 1979 (STAN-CS-79-773): means and squares of parts merge exactly."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self._finite(piece.astype(np.float64))
            if not len(values):
                return
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))
            self.zeros += len(values) - int(np.count_nonzero(values))
            mean = float(values.mean())
            values -= mean
            count, apart = self.count + len(values), mean - self.mean
            share = len(values) / count
            self.squares += float(values @ values) + apart * apart * self.count * share
            self.mean += apart * share
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
    """As `numpy.histogram` counts; comparing with each edge is many times faster than it is."""
    edges = np.histogram_bin_edges(np.empty(0), BINS, (sums.low, sums.high))
    below = np.zeros(BINS, np.int64)  # values below each edge but the last
    with np.errstate(invalid="ignore"):
        for piece in read:
            wide = piece.astype(np.float64, copy=False)
            below += [np.count_nonzero(wide < edge) for edge in edges[:-1]]
    below -= below[0]  # negative infinity
    return tuple(np.diff(below, append=sums.count).tolist())
