"""What differs between two models: config, names, shapes, dtypes, tying, and every value.

Streamed: memory is that of the largest tensor at most, whatever the files' size. Tensors
are brought to the book's names and shapes first (`gptcli.interpret.canonical_weights`).
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from gptcli.checkpoint.header import DTYPE_BITS
from gptcli.checkpoint.layouts import EMBEDDING, HEAD
from gptcli.checkpoint.tensordata import Values, can_read
from gptcli.interpret.canonical_weights import NamedTensor, Shape, Tying, Weights
from gptcli.model.config import GPTConfig

OnRead = Callable[[str, int], object]
"""Called with a tensor's name and how many bytes of both files were read."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far apart values are, computed in float64.

    Attributes:
        elements: compared.
        differing: of them; two NaN are equal, and so are two infinities of one sign.
        not_finite: differing ones of which one or both are not finite; what follows leaves them
            out, and all others too that are not finite.
        maximum: the largest |a - b|; 0 where nothing is left.
        relative: norm(a - b) / norm(a); None where a is zero and b is not.
        cosine: of the angle between a and b; None where one of them is zero.
    """

    elements: int
    differing: int
    not_finite: int
    maximum: float
    relative: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor of both models; the shapes and dtypes are those of A and B.

    Attributes:
        at: the index of the largest difference; empty where there is none.
        distance: None where values cannot be compared: shapes differ, or there are none.
    """

    name: str
    shapes: tuple[Shape, Shape]
    dtypes: tuple[str | None, str | None]
    at: tuple[int, ...]
    distance: Distance | None

    @property
    def is_equal(self) -> bool:
        """Same shape, dtype (where both have one) and values (where both have them)."""
        same_dtype = None in self.dtypes or self.dtypes[0] == self.dtypes[1]
        same_values = self.distance is None or self.distance.differing == 0
        return self.shapes[0] == self.shapes[1] and same_dtype and same_values


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences; `removed` are tensors that only A has, `added` those that only B has."""

    config: dict[str, tuple[object, object]]
    removed: dict[str, NamedTensor]
    added: dict[str, NamedTensor]
    tying: tuple[Tying | None, Tying | None]
    pairs: list[Pair]
    whole: Distance | None

    @property
    def is_equal(self) -> bool:
        """Whether the two are the same model; a head stored twice is still tied."""
        tied = [None if tying is None else tying != "own" for tying in self.tying]
        same_tying = None in tied or tied[0] == tied[1]
        same_names = not (self.config or self.removed or self.added)
        return same_names and same_tying and all(pair.is_equal for pair in self.pairs)


def compare(a: Weights, b: Weights, on_read: OnRead = lambda _name, _read: None) -> Comparison:
    """Compare tensors by their names; `config` is left empty (see `config_changes`).

    Raises:
        RunError: a file changed while it was being read, or cannot be read.
    """
    ours, theirs = _paired(a, b)
    both = [name for name in ours if name in theirs]
    total = _Sums()
    pairs = []
    for name in both:
        pair, sums = _compared((a, b), name, (ours[name], theirs[name]), on_read)
        pairs.append(pair)
        total.merge(sums)
    return Comparison(
        config={},
        removed={name: tensor for name, tensor in ours.items() if name not in theirs},
        added={name: tensor for name, tensor in theirs.items() if name not in ours},
        tying=(tying(a), tying(b)),
        pairs=pairs,
        whole=total.distance() if any(pair.distance for pair in pairs) else None,
    )


def bytes_to_read(a: Weights, b: Weights) -> int:
    """How many bytes `compare` will have reported at its end."""
    ours, theirs = _paired(a, b)
    pairs = [(ours[name], theirs[name]) for name in ours if name in theirs]
    return sum(math.prod(x.shape) * _width((x, y)) for x, y in pairs if _is_comparable(x, y))


def _paired(a: Weights, b: Weights) -> tuple[dict[str, NamedTensor], dict[str, NamedTensor]]:
    """The tensors of both, with the embedding as the head where only the other has a head."""
    ours, theirs = dict(a.tensors), dict(b.tensors)
    head, other = a.get(HEAD), b.get(HEAD)
    if a.is_shared != b.is_shared and head and other:
        ours[HEAD], theirs[HEAD] = head, other
    return ours, theirs


def config_changes(
    a: GPTConfig, b: GPTConfig, unknown: set[str]
) -> dict[str, tuple[object, object]]:
    """The keys whose values differ, except `unknown` ones, which one side does not tell."""
    keys = [f.name for f in fields(GPTConfig) if f.name not in unknown]
    pairs = {key: (getattr(a, key), getattr(b, key)) for key in keys}
    return {key: values for key, values in pairs.items() if values[0] != values[1]}


def tying(weights: Weights) -> Tying | None:
    """Whether the output head is the embedding; None where one of them is missing."""
    if weights.is_shared:
        return "shared"
    head, embedding = weights.get(HEAD), weights.get(EMBEDDING)
    if head is None or embedding is None:
        return None
    if not _is_comparable(head, embedding) or head.dtype != embedding.dtype:
        return "own"
    both = zip(weights.read(HEAD), weights.read(EMBEDDING), strict=True)
    return "copied" if all(np.array_equal(x, y) for x, y in both) else "own"


def _can_read(tensor: NamedTensor) -> bool:
    return tensor.has_values and (tensor.dtype is None or can_read(tensor.dtype))


def _is_comparable(a: NamedTensor, b: NamedTensor) -> bool:
    return a.shape == b.shape and _can_read(a) and _can_read(b)


def _width(pair: tuple[NamedTensor, NamedTensor]) -> int:
    """Bytes of one element in A and one in B together."""
    return sum(DTYPE_BITS[tensor.dtype] // 8 for tensor in pair if tensor.dtype)


def _compared(
    sides: tuple[Weights, Weights],
    name: str,
    tensors: tuple[NamedTensor, NamedTensor],
    on_read: OnRead,
) -> tuple[Pair, "_Sums"]:
    sums, shape = _Sums(), tensors[0].shape
    shapes = (shape, tensors[1].shape)
    dtypes = (tensors[0].dtype, tensors[1].dtype)
    if not _is_comparable(*tensors):
        return Pair(name, shapes, dtypes, (), None), sums
    for x, y in zip(sides[0].read(name), sides[1].read(name), strict=True):
        sums.add(x, y)
        on_read(name, _width(tensors) * len(x))
    at = () if sums.at is None else tuple(int(i) for i in np.unravel_index(sums.at, shape))
    return Pair(name, shapes, dtypes, at, sums.distance()), sums


@dataclass(slots=True)
class _Sums:
    """Running sums over pairs of finite values: a.a, b.b, a.b and (a - b).(a - b)."""

    elements: int = 0
    differing: int = 0
    not_finite: int = 0
    maximum: float = 0.0
    at: int | None = None
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0

    def add(self, a: Values, b: Values) -> None:
        """Two pieces of equal length."""
        x, y = a.astype(np.float64), b.astype(np.float64)
        begin = self.elements
        self.elements += len(x)
        with np.errstate(over="ignore", invalid="ignore"):
            apart = x - y
            if not math.isfinite(float(apart.sum())):
                apart = self._without_damage(x, y)
            self.aa += float(x @ x)
            self.bb += float(y @ y)
            if not apart.any():
                self.ab += float(x @ x)
                return
            self.ab += float(x @ y)
            self.dd += float(apart @ apart)
            self.differing += int(np.count_nonzero(apart))
            distance = np.abs(apart)
            where = int(distance.argmax())
            if distance[where] > self.maximum:
                self.maximum, self.at = float(distance[where]), begin + where

    def _without_damage(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """X - y, with zeros (in x and y too) where one of them is not finite."""
        bad = ~(np.isfinite(x) & np.isfinite(y))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        wrong = int((bad & ~same).sum())
        self.not_finite += wrong
        self.differing += wrong
        x[bad], y[bad] = 0, 0
        return x - y

    def merge(self, other: "_Sums") -> None:
        """Add another tensor's sums; the index of its maximum is dropped."""
        for name in ("elements", "differing", "not_finite", "aa", "bb", "ab", "dd"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.maximum = max(self.maximum, other.maximum)

    def distance(self) -> Distance:
        """The distance from the sums; None where float64 overflows."""
        relative, cosine = None, None
        if self.dd == 0:
            relative = 0.0
        elif self.aa:
            relative = _known(math.sqrt(self.dd / self.aa))
        if self.aa and self.bb:
            cosine = 1.0 if self.dd == 0 else _known(self.ab / math.sqrt(self.aa * self.bb))
        if cosine is not None:
            cosine = max(-1.0, min(1.0, cosine))
        most = min(self.maximum, sys.float_info.max)
        return Distance(self.elements, self.differing, self.not_finite, most, relative, cosine)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
