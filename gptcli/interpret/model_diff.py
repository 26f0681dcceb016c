"""Differences between two models: config, tensor names, shapes, dtypes, tying, and every value.

Tensors are read by the book's names and in its shapes (`gptcli.interpret.canonical_weights`), one
at a time, so that memory does not grow with the files.
"""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from gptcli.checkpoint.header import DTYPE_BITS
from gptcli.checkpoint.layouts import EMBEDDING, HEAD
from gptcli.checkpoint.tensordata import Values, can_read
from gptcli.interpret.canonical_weights import NamedTensor, Shape, Tying, Weights
from gptcli.interpret.model_files import ModelFiles
from gptcli.interpret.tensor_stats import finite_or_none
from gptcli.model.config import GPTConfig

OnRead = Callable[[str, int], object]
"""Called with a tensor's name and the bytes read of both files since the last call."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Distance between the values of A and B, computed in float64.

    `maximum`, `relative` and `cosine` are of the elements that are finite in both.

    Attributes:
        elements: how many were compared.
        differing: how many differ; two NaN are equal, and so are two infinities of one sign.
        not_finite: how many differ and are not finite in A or B.
        maximum: the largest |a - b|.
        relative: norm(a - b) / norm(a); None if only a is zero, or float64 overflows.
        cosine: similarity of a and b; None if one of them is zero, or float64 overflows.
    """

    elements: int
    differing: int
    not_finite: int
    maximum: float
    relative: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor that both models have.

    Attributes:
        name: in the book's model.
        shapes: in A and in B.
        dtypes: in A and in B; None where there is no tensor in the file.
        argmax: index of the largest difference; empty if there is none.
        distance: None if values cannot be compared: shapes differ, or there are no values.
    """

    name: str
    shapes: tuple[Shape, Shape]
    dtypes: tuple[str | None, str | None]
    argmax: tuple[int, ...]
    distance: Distance | None

    @property
    def is_equal(self) -> bool:
        """Equal shapes, dtypes (if both have one) and values (if they were compared)."""
        same_dtype = None in self.dtypes or self.dtypes[0] == self.dtypes[1]
        same_values = self.distance is None or self.distance.differing == 0
        return self.shapes[0] == self.shapes[1] and same_dtype and same_values


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences between models A and B.

    Attributes:
        config: keys whose values differ, with those of A and B.
        removed: tensors that only A has.
        added: tensors that only B has.
        tying: of the output head in A and in B, see `tying`.
        pairs: tensors that both have.
        whole: distance over all tensors that were compared; None if none was.
    """

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


def compare_models(
    a: ModelFiles, b: ModelFiles, progress: Callable[[int], AbstractContextManager[OnRead]]
) -> Comparison:
    """Compare two models by the book's tensor names; by the files' own if one is no GPT-2.

    Args:
        a: the first.
        b: the second.
        progress: called with the bytes that will be read.

    Raises:
        RunError: a file changed, or cannot be read.
    """
    by_file_names = any(one.weights and one.weights.layout is None for one in (a, b))
    weights_a, weights_b = (_weights(one, by_file_names=by_file_names) for one in (a, b))
    with progress(bytes_to_read(weights_a, weights_b)) as on_read:
        found = compare(weights_a, weights_b, on_read)
    if a.config is None or b.config is None:
        return found
    unknown = set() if a.knows_heads and b.knows_heads else {"n_heads", "drop_rate", "tokenizer"}
    if a.weights or b.weights:
        unknown.add("tie_weights")  # the weights say it, in `tying`
    return replace(found, config=_config_changes(a.config, b.config, unknown))


def _weights(one: ModelFiles, *, by_file_names: bool) -> Weights:
    if one.weights:
        return Weights.of_files(one.weights.headers, None if by_file_names else one.weights.layout)
    assert one.config is not None, "a target without weights has a config"
    return Weights.of_config(one.config)


def compare(a: Weights, b: Weights, on_read: OnRead = lambda _name, _read: None) -> Comparison:
    """Compare tensors of the same name; `config` stays empty.

    Raises:
        RunError: a file changed while it was being read, or cannot be read.
    """
    ours, theirs = _tensors(a, b)
    both = [name for name in ours if name in theirs]
    total = _DistanceSums()
    pairs = []
    for name in both:
        pair, sums = _compare_pair((a, b), name, (ours[name], theirs[name]), on_read)
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
    """The sum of the bytes that `compare` will report."""
    ours, theirs = _tensors(a, b)
    pairs = [(ours[name], theirs[name]) for name in ours if name in theirs]
    return sum(math.prod(x.shape) * _width((x, y)) for x, y in pairs if _is_comparable(x, y))


def _tensors(a: Weights, b: Weights) -> tuple[dict[str, NamedTensor], dict[str, NamedTensor]]:
    """The tensors of both; if only one stores a head, the other's embedding is its head too."""
    ours, theirs = dict(a.tensors), dict(b.tensors)
    head, other = a.get(HEAD), b.get(HEAD)
    if a.is_shared != b.is_shared and head and other:
        ours[HEAD], theirs[HEAD] = head, other
    return ours, theirs


def _config_changes(
    a: GPTConfig, b: GPTConfig, unknown: set[str]
) -> dict[str, tuple[object, object]]:
    """The keys whose values differ in A and B; `unknown` ones are left out."""
    keys = [f.name for f in fields(GPTConfig) if f.name not in unknown]
    pairs = {key: (getattr(a, key), getattr(b, key)) for key in keys}
    return {key: values for key, values in pairs.items() if values[0] != values[1]}


def tying(weights: Weights) -> Tying | None:
    """How the output head is tied to the token embedding; None if one of them is missing.

    "shared": no head is stored. "copied": a head is stored, equal to the embedding. "own": another.
    """
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
    """Bytes of an element in A and of one in B, added up."""
    return sum(DTYPE_BITS[tensor.dtype] // 8 for tensor in pair if tensor.dtype)


def _compare_pair(
    sides: tuple[Weights, Weights],
    name: str,
    tensors: tuple[NamedTensor, NamedTensor],
    on_read: OnRead,
) -> tuple[Pair, "_DistanceSums"]:
    sums, shape = _DistanceSums(), tensors[0].shape
    shapes = (shape, tensors[1].shape)
    dtypes = (tensors[0].dtype, tensors[1].dtype)
    if not _is_comparable(*tensors):
        return Pair(name, shapes, dtypes, (), None), sums
    for x, y in zip(sides[0].read(name), sides[1].read(name), strict=True):
        sums.add(x, y)
        on_read(name, _width(tensors) * len(x))
    found = () if sums.argmax is None else np.unravel_index(sums.argmax, shape)
    return Pair(name, shapes, dtypes, tuple(map(int, found)), sums.distance()), sums


@dataclass(slots=True)
class _DistanceSums:
    """Running sums over pairs of finite values: a.a, b.b, a.b and (a - b).(a - b)."""

    elements: int = 0
    differing: int = 0
    not_finite: int = 0
    maximum: float = 0.0
    argmax: int | None = None
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0

    def add(self, a: Values, b: Values) -> None:
        """Add two pieces of equal length."""
        x, y = a.astype(np.float64), b.astype(np.float64)
        begin = self.elements
        self.elements += len(x)
        with np.errstate(over="ignore", invalid="ignore"):
            difference = x - y
            if not math.isfinite(float(difference.sum())):
                difference = self._finite_difference(x, y)
            self.aa += float(x @ x)
            self.bb += float(y @ y)
            if not difference.any():
                self.ab += float(x @ x)
                return
            self.ab += float(x @ y)
            self.dd += float(difference @ difference)
            self.differing += int(np.count_nonzero(difference))
            distance = np.abs(difference)
            where = int(distance.argmax())
            if distance[where] > self.maximum:
                self.maximum, self.argmax = float(distance[where]), begin + where

    def _finite_difference(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Count what differs and is not finite, set x and y to 0 there, and subtract."""
        not_finite = ~(np.isfinite(x) & np.isfinite(y))
        equal = (x == y) | (np.isnan(x) & np.isnan(y))
        differing = int((not_finite & ~equal).sum())
        self.not_finite += differing
        self.differing += differing
        x[not_finite], y[not_finite] = 0, 0
        return x - y

    def merge(self, other: "_DistanceSums") -> None:
        """Add another tensor's sums; `argmax`, an index in one tensor, is left alone."""
        for name in ("elements", "differing", "not_finite", "aa", "bb", "ab", "dd"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.maximum = max(self.maximum, other.maximum)

    def distance(self) -> Distance:
        """The distance that the sums make."""
        relative, cosine = None, None
        if self.dd == 0:
            relative = 0.0
        elif self.aa:
            relative = finite_or_none(math.sqrt(self.dd / self.aa))
        if self.aa and self.bb:
            cosine = 1.0 if self.dd == 0 else finite_or_none(self.ab / math.sqrt(self.aa * self.bb))
        if cosine is not None:
            cosine = max(-1.0, min(1.0, cosine))
        most = min(self.maximum, sys.float_info.max)
        return Distance(self.elements, self.differing, self.not_finite, most, relative, cosine)
