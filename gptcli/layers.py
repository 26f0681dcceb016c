"""The layers of a model in the form they run in, made one at a time from its weights.

`gptcli.fast` asks for each by the book's name and keeps what it gets; what a layer was made of is
let go before the next one is made. Knows no files.

Shapes: N rows, K features in, M features out, E emb_dim.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from gptcli.config import GPTConfig
from gptcli.linear import Linear, packed_linear
from gptcli.model import GPTModel
from gptcli.quantize import (
    Int8Embedding,
    Int8Weight,
    Width,
    layer_of,
    quantized,
    quantized_linear,
)

Embedding = Tensor | Int8Embedding
"""(N,) ids in square brackets → (N, E)."""


class Weights(Protocol):
    """Where `gptcli.fast` gets a model from; each tensor is asked for once."""

    config: GPTConfig

    def tensor(self, name: str) -> Tensor:
        """A tensor that no product is made of: positions, a norm's scale or shift."""

    def embedding(self) -> Embedding:
        """The token embedding, asked for before the output head that may share it."""

    def linear(self, *names: str) -> Linear:
        """The layers of these names as one, their outputs side by side."""


class Floats:
    """The weights of a GPTModel, which is of no use afterwards.

    At a width all matrices are rounded: blocks to that width, embedding and head to int8. A tied
    head is rounded once.
    """

    def __init__(self, model: GPTModel, width: Width | None) -> None:
        self.config = model.config
        self._model, self._width = model, width
        self._shared: Int8Weight | None = None

    def tensor(self, name: str) -> Tensor:
        """As it is in the model."""
        return self._model.get_parameter(name).detach()

    def embedding(self) -> Embedding:
        """The model's own, or its 8 bits.

        Raises:
            UsageError: this processor cannot have the width.
        """
        layer, head = self._model.tok_emb, self._model.out_head
        if self._width is None:
            return layer.weight.detach()
        weight = quantized(layer.weight.detach(), self._width, is_outer=True)
        assert isinstance(weight, Int8Weight)
        if head.weight is layer.weight:
            self._shared = weight
            _let_go([head])
        _let_go([layer])
        return Int8Embedding(weight)

    def linear(self, *names: str) -> Linear:
        """The fastest layer, or one of the width.

        Raises:
            UsageError: this processor or layer cannot have the width.
        """
        is_head = names == ("out_head",)
        if is_head and self._shared is not None:
            return layer_of(self._shared, None)
        layers = [self._model.get_submodule(name) for name in names]
        weight = joined([layer.weight.detach() for layer in layers])  # type: ignore[operator]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]  # type: ignore[operator]
        bias = joined(biases) if biases else None
        _let_go(layers)
        if self._width is None:
            return packed_linear(weight, bias)
        return quantized_linear(weight, bias, self._width, is_outer=is_head)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after another; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _let_go(layers: Sequence[nn.Module]) -> None:
    for layer in layers:
        layer.register_parameter("weight", None)
