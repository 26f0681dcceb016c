"""Read a model's tensors by the book's names and in its shapes, from a file of any layout.

Fused tensors are split, transposed ones transposed back and quantised ones dequantised while they
are read, so that two files of the same weights give the same values in the same order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import numpy as np

from gptcli.checkpoint.header import Header, TensorInfo
from gptcli.checkpoint.layouts import (
    EMBEDDING,
    HEAD,
    Layout,
    TensorSource,
    all_tensors,
    expected_shapes,
)
from gptcli.checkpoint.quantized import LEVELS, SCALES, ZEROS
from gptcli.checkpoint.tensordata import PIECE, Values, open_unchanged, read_columns, read_pieces
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import GROUP

_PARTS = ("tok_emb", "pos_emb", "trf_blocks", "final_norm", "out_head")

Shape = tuple[int, ...]
Tying = Literal["shared", "copied", "own"]


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """One tensor under the book's name.

    Attributes:
        shape: in the book's model.
        dtype: in the file; None for a config's tensor and for an absent bias, which is zero.
        info: the tensor in the file; None where there is none.
        source: which part of that it is; None for a config's tensor.
        scales: of a quantised tensor, its scales, and its zeros if it has them.
    """

    shape: Shape
    dtype: str | None = None
    info: TensorInfo | None = None
    source: TensorSource | None = None
    scales: tuple[TensorInfo, ...] = ()

    @property
    def has_values(self) -> bool:
        """Whether there are values to read, the zeros of absent biases included."""
        return self.source is not None


class Weights:
    """The tensors of a model's files; or of a config, without values."""

    def __init__(self, tensors: dict[str, NamedTensor], headers: Sequence[Header] = ()) -> None:
        self.tensors = tensors
        self._headers = {header.path: header for header in headers}

    @classmethod
    def of_config(cls, config: GPTConfig) -> "Weights":
        """Names and shapes that a config implies."""
        shapes = expected_shapes(config)
        if config.tie_weights:
            del shapes[HEAD]
        return cls({name: NamedTensor(shape) for name, shape in shapes.items()})

    @classmethod
    def of_files(cls, headers: Sequence[Header], layout: Layout | None) -> "Weights":
        """Tensors of files, without mask buffers; by the files' own names if `layout` is None."""
        infos = all_tensors(headers)
        if layout is None:
            return cls({name: _plain(info) for name, info in infos.items()}, headers)
        tensors = {name: _named(infos[s.name], s) for name, s in layout.sources.items()}
        if layout.width:
            tensors = {name: _quantized(name, tensor, infos) for name, tensor in tensors.items()}
        for name in layout.zero_biases:  # biases that are absent
            tensors[name] = NamedTensor(_bias_shape(name, tensors), source=TensorSource(""))
        ordered = {name: tensors[name] for name in sorted(tensors, key=_place)}
        others = (*layout.unexpected, *layout.other_heads)
        return cls(ordered | {name: _plain(infos[name]) for name in others}, headers)

    @property
    def is_shared(self) -> bool:
        """Whether no output head is stored, so that it is the token embedding."""
        return EMBEDDING in self.tensors and HEAD not in self.tensors

    def get(self, name: str) -> NamedTensor | None:
        """The tensor of this name; for a head that is not stored, the embedding."""
        stored = EMBEDDING if name == HEAD and self.is_shared else name
        return self.tensors.get(stored)

    def read(self, name: str) -> Iterator[Values]:
        """A tensor's values in the book's order, PIECE elements at a time.

        A transposed or quantised tensor is held in memory whole, any other a piece at a time.

        Raises:
            RunError: the file changed, or cannot be read.
        """
        tensor = self.get(name)
        assert tensor is not None, name
        assert tensor.source is not None, name
        if tensor.info is None:
            yield from _in_pieces(np.zeros(prod(tensor.shape), np.float32))
            return
        with open_unchanged(self._headers[tensor.info.path]) as fd:
            if tensor.scales:
                yield from _in_pieces(_dequantized(fd, tensor).reshape(-1))
            elif tensor.source.transposed:
                outputs = tensor.shape[0]
                first = outputs * (tensor.source.part or 0)
                transposed = read_columns(fd, tensor.info, first, first + outputs).T
                yield from _in_pieces(transposed.reshape(-1))  # a copy, in the book's order
            else:
                yield from read_pieces(fd, _part(tensor.info, tensor.source, tensor.shape))


def _place(name: str) -> tuple[int, int, str]:
    """Sort key: the order of the book's constructor, block 10 after block 9."""
    outer, _, inner = name.partition(".")
    number, _, rest = inner.partition(".")
    return _PARTS.index(outer), int(number) if rest else 0, rest or inner


def _plain(info: TensorInfo) -> NamedTensor:
    return NamedTensor(info.shape, info.dtype, info, TensorSource(info.name))


def _named(info: TensorInfo, source: TensorSource) -> NamedTensor:
    """In the book's shape; as it is in the file if it cannot be transposed or split."""
    shape = info.shape[::-1] if source.transposed else info.shape
    can_split = source.part is None or (shape and shape[0] % 3 == 0 and shape[0] > 0)
    if not can_split or (source.transposed and len(shape) != 2):
        return _plain(info)
    if source.part is not None:
        shape = (shape[0] // 3, *shape[1:])
    return NamedTensor(shape, info.dtype, info, source)


def _quantized(name: str, tensor: NamedTensor, infos: dict[str, TensorInfo]) -> NamedTensor:
    """With its scales and unpacked shape, if levels, scales and zeros have matching shapes."""
    scales = tuple(info for part in (SCALES, ZEROS) if (info := infos.get(name + part)))
    if not scales or len(tensor.shape) != 2:
        return tensor
    rows, columns = tensor.shape
    if not tensor.info or not tensor.info.name.endswith(LEVELS):
        fits = [info.shape for info in scales] == [(rows,)]
    else:
        columns *= 2
        fits = [info.shape for info in scales] == 2 * [(rows, columns // GROUP)]
    return replace(tensor, shape=(rows, columns), scales=scales) if fits else tensor


def _dequantized(fd: int, tensor: NamedTensor) -> Values:
    """Dequantised (M, K) weights, from int8 values and scales or int4 levels, scales and zeros."""
    assert tensor.info is not None
    stored, *factors = (
        np.concatenate([piece.astype(np.float32) for piece in read_pieces(fd, info)]).reshape(
            info.shape
        )
        for info in (tensor.info, *tensor.scales)
    )
    if len(factors) == 1:
        return stored * factors[0][:, None]
    pairs = stored.astype(np.uint8)
    levels = np.stack([pairs & 15, pairs >> 4], -1).reshape(len(pairs), -1, GROUP)
    scales, zeros = (factor[..., None] for factor in factors)
    return ((levels - np.float32(8)) * scales + zeros).reshape(len(pairs), -1)


def _part(info: TensorInfo, source: TensorSource, shape: Shape) -> TensorInfo:
    """The query, key or value rows of a fused tensor, as a tensor of its own."""
    if source.part is None:
        return info
    nbytes = info.nbytes // 3
    start = info.start + source.part * nbytes
    return replace(info, shape=shape, start=start, end=start + nbytes)


def _bias_shape(name: str, tensors: dict[str, NamedTensor]) -> Shape:
    """The shape of an absent bias: the rows of its weight, or the norm's scale."""
    partner = name.removesuffix("bias") + "weight"
    if name.endswith(".shift"):
        partner = name.removesuffix("shift") + "scale"
    found = tensors.get(partner)
    return found.shape[:1] if found else ()


def _in_pieces(values: Values) -> Iterator[Values]:
    for begin in range(0, len(values), PIECE):
        yield values[begin : begin + PIECE]
