"""The weights of a quantised model: into a file's tensors, and from a file into layers.

What the tensors are is said in `gptcli.checkpoint.quantized`. Reading makes no float weights: what
is in the file goes to the layers that multiply by it.

Shapes: M features out, K features in, G groups of a row.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from gptcli.checkpoint.fill import DTYPES, fill
from gptcli.checkpoint.header import Header
from gptcli.checkpoint.layouts import EMBEDDING, Layout, Source, all_tensors, expected_shapes
from gptcli.checkpoint.quantized import LEVELS, SCALES, VALUES, ZEROS, is_matrix, is_packed
from gptcli.engine.fourbit import Int4Weight
from gptcli.engine.integer import Int8Weight
from gptcli.engine.layers import joined
from gptcli.engine.linear import Linear
from gptcli.engine.quantize import Int8Embedding, Width, layer_of, quantized
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel

Rounded = TypeVar("Rounded", Int8Weight, Int4Weight)


def stored_tensors(model: GPTModel, width: Width) -> dict[str, Tensor]:
    """A model's tensors as the file has them; a tied head is left out.

    Raises:
        UsageError: the model cannot have the width.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if not is_matrix(name):
            tensors[name] = _narrowed(weight.detach())
            continue
        is_outer = not is_packed(name, "int4")
        rounded = quantized(weight.detach(), width, is_outer=is_outer)
        if isinstance(rounded, Int8Weight):
            tensors |= {name + VALUES: rounded.values, name + SCALES: rounded.scales}
        else:
            tensors |= {name + LEVELS: packed(rounded.levels)}
            tensors |= {name + SCALES: rounded.scales, name + ZEROS: rounded.zeros}
    return tensors


def packed(levels: Tensor) -> Tensor:
    """(M, K) levels of 0 to 15 → (M, K / 2) bytes, the first of two in the low bits."""
    return levels[:, ::2] | levels[:, 1::2] << 4


def unpacked(pairs: Tensor) -> Tensor:
    """(M, K / 2) bytes → (M, K) levels."""
    return torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten(1)


class StoredWeights:
    """The rounded weights of a file: a `gptcli.engine.layers.Weights`, and floats for those who
    need them.

    Each tensor is let go when it is taken.
    """

    def __init__(
        self, tensors: dict[str, Tensor], config: GPTConfig, width: Width, *, single: bool = False
    ) -> None:
        """`tensors` by the file's names; what is no matrix is float32 already.

        `single`: arranged for one text at a time.
        """
        self.config = config
        self._tensors, self._width, self._single = tensors, width, single
        self._shared: Int8Weight | None = None

    def tensor(self, name: str) -> Tensor:
        """Positions, biases, norms: float32."""
        return self._tensors.pop(name)

    def embedding(self) -> Int8Embedding:
        """The token embedding, which is kept if it is the head too."""
        weight = self._int8(EMBEDDING)
        if self.config.tie_weights:
            self._shared = weight
        return Int8Embedding(weight)

    def linear(self, *names: str) -> Linear:
        """The layers of these names as one."""
        if self._shared is not None and names == ("out_head",):
            return layer_of(self._shared, None)
        biases = [bias for n in names if (bias := self._tensors.pop(f"{n}.bias", None)) is not None]
        bias = joined(biases) if biases else None
        if is_packed(f"{names[0]}.weight", self._width):
            levels = _side_by_side([self._int4(f"{name}.weight") for name in names])
            return layer_of(levels, bias, single=self._single)
        return layer_of(_side_by_side([self._int8(f"{name}.weight") for name in names]), bias)

    def floats(self) -> dict[str, Tensor]:
        """Every tensor of the book's model, float32; a tied head is left out."""
        shapes = expected_shapes(self.config)
        if self.config.tie_weights:
            del shapes["out_head.weight"]
        return {name: self._float(name) for name in shapes}

    def _float(self, name: str) -> Tensor:
        if not is_matrix(name):
            return self.tensor(name)
        weight = self._int4(name) if is_packed(name, self._width) else self._int8(name)
        return weight.dequantized()

    def _int8(self, name: str) -> Int8Weight:
        return Int8Weight(*(self._tensors.pop(name + part) for part in (VALUES, SCALES)))

    def _int4(self, name: str) -> Int4Weight:
        levels = unpacked(self._tensors.pop(name + LEVELS))
        return Int4Weight(levels, *(self._tensors.pop(name + part) for part in (SCALES, ZEROS)))


def read_stored(
    headers: Sequence[Header],
    layout: Layout,
    config: GPTConfig,
    *,
    check_finite: bool,
    single: bool = False,
) -> StoredWeights:
    """The weights of files that `gptcli.checkpoint.fit.check` has no fault to find with.

    Raises:
        InputError: scales or others that are not finite.
        RunError: a file changed while it was being read, or could not be read.
    """
    assert layout.width is not None
    infos = all_tensors(headers)
    plain = {name for name in layout.sources if not is_matrix(name)}
    destinations = {
        name: torch.empty(info.shape, dtype=torch.float32 if name in plain else DTYPES[info.dtype])
        for name, info in infos.items()
    }
    as_named = replace(layout, sources={name: Source(name) for name in infos})
    fill(headers, as_named, destinations, check_finite=check_finite)
    return StoredWeights(destinations, config, layout.width, single=single)


def _side_by_side(parts: Sequence[Rounded]) -> Rounded:
    """Weights with outputs M, M, ... → one with all of them."""
    return type(parts[0])(*(joined(same) for same in zip(*parts, strict=True)))


def _narrowed(weight: Tensor) -> Tensor:
    """bfloat16 where that loses nothing."""
    narrow = weight.bfloat16()
    return narrow if torch.equal(narrow.to(weight.dtype), weight) else weight.float()
