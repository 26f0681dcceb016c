"""Attention of a step: tokens of some sequences over the keys and values that are kept of each.

What a sequence gets depends on no other. What is the same for every layer is prepared once, and
sequences that lie side by side and are equally long share a call, for with 32 of them a step does
this 400 times, and each call of PyTorch costs as much as its arithmetic. Knows no weights.

Shapes: N tokens of a step, T of a span, S positions up to its end, L layers, B rows of the cache,
H heads, C capacity, D head_dim.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.model.gpt import late_mask


class Span(NamedTuple):
    """Consecutive tokens of one sequence within the tokens of a step."""

    row: int  # of the cache
    past: int  # positions of this sequence that the cache holds already
    length: int

    @property
    def end(self) -> int:
        """Positions that the cache holds afterwards."""
        return self.past + self.length


class StepAttention:
    """The attention of one step, called for each layer in turn."""

    def __init__(self, spans: Sequence[Span], store: Tensor) -> None:
        """Prepare a step.

        Args:
            spans: in the order of the step's tokens, all of them.
            store: (L, 2, B, H, C, D) keys and values, written to.
        """
        self._dtype = store.dtype
        ones, starts = list[Span](), list[int]()
        self._stretches: list[tuple[slice, _Stretch]] = []
        start = 0
        for span in spans:
            if span.length == 1:
                ones.append(span)
                starts.append(start)
            else:
                tokens = slice(start, start + span.length)
                self._stretches.append((tokens, _Stretch(span, store)))
            start += span.length
        self._ones = _ones(ones, store)
        self._starts = torch.tensor(starts, device=store.device) if self._stretches else None

    def __call__(self, layer: int, heads: Tensor) -> Tensor:
        """(N, 3, H, D) queries, keys and values → (N, H, D)."""
        kept = heads.to(self._dtype)
        if self._starts is None and self._ones is not None:
            return self._ones(layer, kept).to(heads.dtype)
        found = torch.empty_like(kept[:, 0])
        for tokens, stretch in self._stretches:
            stretch(layer, kept[tokens], found[tokens])
        if self._ones is not None:
            found[self._starts] = self._ones(layer, kept[self._starts])
        return found.to(heads.dtype)


def _ones(spans: Sequence[Span], store: Tensor) -> "_One | _Ones | None":
    """The attention of spans of one token each."""
    if len(spans) == 1:
        return _One(spans[0], store)
    return _Ones(spans, store) if spans else None


def _looked_up(query: Tensor, keys: Tensor, values: Tensor, found: Tensor | None = None) -> Tensor:
    """(H, 1, D) scaled query, (H, D, S), (H, S, D) → (H, 1, D), in `found` if it is given.

    Two plain products, where the fused kernel would split the positions among threads and so give
    other bits with another number of threads.
    """
    return torch.bmm(torch.bmm(query, keys).softmax(-1), values, out=found)


class _One:
    """One token of one sequence: all that a lone text's step does, so in as few calls as can be."""

    def __init__(self, span: Span, store: Tensor) -> None:
        held = store[:, :, span.row, :, : span.end]  # (L, 2, H, S, D)
        self._kept = held[:, :, :, span.past].unbind()
        self._keys, self._values = held[:, 0].mT.unbind(), held[:, 1].unbind()
        self._scale = store.shape[-1] ** -0.5

    def __call__(self, layer: int, heads: Tensor) -> Tensor:
        """(1, 3, H, D) → (1, H, D)."""
        self._kept[layer].copy_(heads[0, 1:])
        query = heads[0, 0, :, None] * self._scale
        return _looked_up(query, self._keys[layer], self._values[layer]).transpose(0, 1)


class _Ones:
    """One token each of several sequences."""

    def __init__(self, spans: Sequence[Span], store: Tensor) -> None:
        L, _, B, H, C, D = store.shape
        matrices = store.view(L, 2, B * H, C, D)
        self._sizes = list[int]()
        held = list[Tensor]()  # (L, 2, size, S, D) each
        for run in _runs(spans):
            first, size = run[0].row * H, len(run) * H
            self._sizes.append(size)
            held.append(matrices[:, :, first : first + size, : run[0].end])
        self._keys = list(zip(*(both[:, 0].mT.unbind() for both in held), strict=True))
        self._values = list(zip(*(both[:, 1].unbind() for both in held), strict=True))
        self._kept = store.transpose(1, 2).unbind()  # (B, 2, H, C, D) each
        self._rows = torch.tensor([span.row for span in spans], device=store.device)
        self._pasts = torch.tensor([span.past for span in spans], device=store.device)
        self._scale = D**-0.5

    def __call__(self, layer: int, heads: Tensor) -> Tensor:
        """(N, 3, H, D) → (N, H, D)."""
        self._kept[layer][self._rows, :, :, self._pasts] = heads[:, 1:]
        queries = (heads[:, 0] * self._scale).view(-1, 1, heads.shape[-1])  # (N x H, 1, D)
        found = torch.empty_like(queries)
        parts, places = queries.split(self._sizes), found.split(self._sizes)
        for each in zip(parts, self._keys[layer], self._values[layer], places, strict=True):
            _looked_up(*each)
        return found.view(heads.shape[0], -1, heads.shape[-1])


def _runs(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Neighbours in the cache that are equally long: their matrices follow one another there."""
    run = [spans[0]]
    for span in spans[1:]:
        if (span.row, span.end) != (run[-1].row + 1, run[-1].end):
            yield run
            run = []
        run.append(span)
    yield run


class _Stretch:
    """Several tokens of one sequence, one after the other."""

    def __init__(self, span: Span, store: Tensor) -> None:
        held = store[:, :, span.row, :, : span.end]  # (L, 2, H, S, D)
        self._kept = held[:, :, :, span.past :].unbind()
        self._keys, self._values = held[:, 0].unbind(), held[:, 1].unbind()
        is_late = span.past > 0  # else position i looks at the first i
        self._mask = late_mask(span.length, span.end, store.device) if is_late else None

    def __call__(self, layer: int, heads: Tensor, found: Tensor) -> None:
        """(T, 3, H, D) → `found`, (T, H, D)."""
        self._kept[layer].copy_(heads[:, 1:].permute(1, 2, 0, 3))
        context = F.scaled_dot_product_attention(
            heads[:, 0].transpose(0, 1).unsqueeze(0),
            self._keys[layer].unsqueeze(0),
            self._values[layer].unsqueeze(0),
            attn_mask=self._mask,
            is_causal=self._mask is None,
        )
        found.copy_(context[0].transpose(0, 1))
