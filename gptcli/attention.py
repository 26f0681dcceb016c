"""Attention of a step: tokens of some sequences over the keys and values that are kept of each.

Sequence by sequence, so that what one gets depends on no other. What is the same for every layer is
prepared once, for with 32 sequences a step does this 400 times, and each call of PyTorch costs as
much as its arithmetic. Knows no weights.

Shapes: N tokens of a step, T of a span, S positions up to its end, L layers, B rows of the cache,
H heads, C capacity, D head_dim.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.model import late_mask


class Span(NamedTuple):
    """Consecutive tokens of one sequence within the tokens of a step."""

    row: int  # of the cache
    past: int  # positions of this sequence that the cache holds already
    length: int

    @property
    def end(self) -> int:
        """Positions that the cache holds afterwards."""
        return self.past + self.length


class _Place(NamedTuple):
    """A span's part of the cache, layer by layer."""

    length: int
    new: tuple[Tensor, ...]  # (2, H, T, D) each: where its keys and values go
    keys: tuple[Tensor, ...]  # (H, D, S)
    values: tuple[Tensor, ...]  # (H, S, D)
    mask: Tensor | None  # (T, S), where T positions do not follow each other from the first


class StepAttention:
    """The attention of one step, called for each layer in turn."""

    def __init__(self, spans: Sequence[Span], store: Tensor) -> None:
        """Prepare a step.

        Args:
            spans: in the order of the step's tokens, all of them.
            store: (L, 2, B, H, C, D) keys and values, written to.
        """
        self._places = [_place(span, store) for span in spans]
        self._lengths = [span.length for span in spans]
        self._dtype, self._scale = store.dtype, store.shape[-1] ** -0.5

    def __call__(self, layer: int, heads: Tensor) -> Tensor:
        """(N, 3, H, D) queries, keys and values → (N, H, D)."""
        queries = heads[:, 0].to(self._dtype) * self._scale
        if self._lengths == [1]:
            return self._one(layer, heads, queries)
        found = torch.empty_like(queries)
        parts = (part.split(self._lengths) for part in (queries, heads[:, 1:], found))
        for place, query, new, result in zip(self._places, *parts, strict=True):
            place.new[layer].copy_(new.permute(1, 2, 0, 3))
            _attend(layer, place, query.transpose(0, 1), result.transpose(0, 1))
        return found.to(heads.dtype)

    def _one(self, layer: int, heads: Tensor, queries: Tensor) -> Tensor:
        """The same for one token alone, without the calls that only set several apart."""
        place = self._places[0]
        place.new[layer].copy_(heads[0, 1:, :, None])
        return _looked_up(layer, place, queries.transpose(0, 1)).transpose(0, 1).to(heads.dtype)


def _place(span: Span, store: Tensor) -> _Place:
    held = store[:, :, span.row, :, : span.end]  # (L, 2, H, S, D)
    is_late = span.length > 1 and span.past > 0
    return _Place(
        length=span.length,
        new=held[:, :, :, span.past :].unbind(),
        keys=held[:, 0].mT.unbind(),
        values=held[:, 1].unbind(),
        mask=late_mask(span.length, span.end, store.device) if is_late else None,
    )


def _attend(layer: int, place: _Place, queries: Tensor, found: Tensor) -> None:
    """(H, T, D) scaled queries of a sequence → `found`, of the same shape."""
    if place.length == 1:
        _looked_up(layer, place, queries, found)
        return
    keys, values = place.keys[layer], place.values[layer]
    context = F.scaled_dot_product_attention(
        queries.unsqueeze(0),
        keys.mT.unsqueeze(0),
        values.unsqueeze(0),
        attn_mask=place.mask,
        is_causal=place.mask is None,
        scale=1.0,
    )
    found.copy_(context[0])


def _looked_up(layer: int, place: _Place, query: Tensor, found: Tensor | None = None) -> Tensor:
    """(H, 1, D) scaled query of one token → (H, 1, D), in `found` if it is given.

    Two plain products, where the fused kernel would split the positions among threads and so give
    other bits with another number of threads.
    """
    weights = torch.bmm(query, place.keys[layer]).softmax(-1)
    return torch.bmm(weights, place.values[layer], out=found)
