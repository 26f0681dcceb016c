"""The layers of a model in the form they run in, made from its weights.

`gptcli.engine.fast` asks for each by the book's name and keeps what it gets; what a layer was made
of is let go when it is made. Knows no files.

Shapes: N rows, K features in, M features out, E emb_dim.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from gptcli.engine.integer import Int8Weight
from gptcli.engine.linear import Linear, fastest_linear
from gptcli.engine.quantize import (
    Int8Embedding,
    Width,
    layer_of,
    quantized,
    quantized_linear,
)
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel

HEAD = "out_head"

Names = tuple[str, ...]  # of what is made as one layer


class Embedding(Protocol):
    """Rows by id: a tensor, or what stands for one."""

    def __getitem__(self, ids: Tensor, /) -> Tensor:
        """(N,) ids → (N, E)."""


class Weights(Protocol):
    """Where `gptcli.engine.fast` gets a model from; each tensor is asked for once."""

    config: GPTConfig

    def tensor(self, name: str) -> Tensor:
        """A tensor that no product is made of: positions, a norm's scale or shift."""

    def embedding(self) -> Embedding:
        """The token embedding, asked for before the output head that may share it."""

    def linear(self, *names: str) -> Linear:
        """The layers of these names as one, their outputs side by side."""


def of_block(number: int) -> tuple[Names, Names, Names, Names]:
    """Query, key and value as one, the attention's output, up and down, in the order of use."""
    block = f"trf_blocks.{number}"
    return (
        (f"{block}.att.W_query", f"{block}.att.W_key", f"{block}.att.W_value"),
        (f"{block}.att.out_proj",),
        (f"{block}.ff.layers.0",),
        (f"{block}.ff.layers.2",),
    )


def of_blocks(n_layers: int) -> Iterator[Names]:
    """Those of all blocks, in the order in which they are asked for."""
    return chain.from_iterable(map(of_block, range(n_layers)))


class FloatWeights:
    """Float matrices, as they are or rounded: blocks to a width, embedding and head to int8.

    What a subclass adds is where they come from. A tied head is rounded once.
    """

    def __init__(self, config: GPTConfig, width: Width | None, *, single: bool = False) -> None:
        """`single`: arranged for one text at a time."""
        self.config = config
        self._width, self._single = width, single
        self._shared: Int8Weight | None = None

    def tensor(self, name: str) -> Tensor:
        """As it is."""
        raise NotImplementedError

    def taken(self, *names: str) -> tuple[Tensor, Tensor | None]:
        """The matrices and biases of these layers, one below the other, for the last time."""
        raise NotImplementedError

    def rows(self) -> Embedding:
        """The token embedding as it is, beside a head that may share it."""
        raise NotImplementedError

    def embedding(self) -> Embedding:
        """The model's own, or its 8 bits.

        Raises:
            UsageError: this processor cannot have the width.
        """
        if self._width is None:
            return self.rows()
        weight = quantized(self.taken("tok_emb")[0], self._width, is_outer=True)
        assert isinstance(weight, Int8Weight)
        if self.config.tie_weights:
            self._shared = weight
        return Int8Embedding(weight)

    def linear(self, *names: str) -> Linear:
        """The fastest layer, or one of the width.

        Raises:
            UsageError: this processor or layer cannot have the width.
        """
        if names == (HEAD,) and self._shared is not None:
            return layer_of(self._shared, None)
        weight, bias = self.taken(*names)
        if self._width is None:
            return fastest_linear(weight, bias, single=self._single)
        is_outer = names == (HEAD,)
        return quantized_linear(weight, bias, self._width, is_outer=is_outer, single=self._single)


class Floats(FloatWeights):
    """The weights of a GPTModel, which is of no use afterwards."""

    def __init__(self, model: GPTModel, width: Width | None, *, single: bool = False) -> None:
        super().__init__(model.config, width, single=single)
        self._model = model

    def tensor(self, name: str) -> Tensor:
        """As it is in the model."""
        return self._model.get_parameter(name).detach()

    def taken(self, *names: str) -> tuple[Tensor, Tensor | None]:
        """Out of the model; a tied head goes with the embedding that is rounded."""
        layers = [self._model.get_submodule(name) for name in names]
        weight = joined([layer.weight.detach() for layer in layers])  # type: ignore[operator]
        found = [getattr(layer, "bias", None) for layer in layers]
        biases = [bias.detach() for bias in found if bias is not None]
        if self.config.tie_weights and names == ("tok_emb",):
            layers.append(self._model.out_head)
        for layer in layers:
            layer.register_parameter("weight", None)
        return weight, joined(biases) if biases else None

    def rows(self) -> Tensor:
        """The model's own."""
        return self._model.tok_emb.weight.detach()


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after another; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
