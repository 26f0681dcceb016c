"""Attention of a step against its definition in float64, and each sequence against itself alone."""

import pytest
import torch
from torch import Tensor

from gptcli.engine.attention import Span, StepAttention

L, B, H, C, D = 2, 5, 3, 200, 16
LAYER = 1
SPANS = [Span(0, 0, 64), Span(0, 64, 1), Span(4, 130, 1), Span(1, 0, 20), Span(3, 40, 9)]
LENGTHS = [span.length for span in SPANS]


def held() -> Tensor:
    """A cache that holds something everywhere, behind the ends of its sequences too."""
    return torch.randn(L, 2, B, H, C, D, generator=torch.Generator().manual_seed(2))


def heads() -> Tensor:
    return torch.randn(sum(LENGTHS), 3, H, D, generator=torch.Generator().manual_seed(3))


def attended(spans: list[Span], new: Tensor, store: Tensor) -> Tensor:
    return StepAttention(spans, store)(LAYER, new)


def definition(span: Span, store: Tensor, queries: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(D) + causal mask) V → (T, H, D), over what the cache holds by then."""
    keys, values = store[LAYER, :, span.row, :, : span.end].double()  # (H, S, D) each
    scores = torch.einsum("thd,hsd->hts", queries.double(), keys) / D**0.5
    hidden = torch.arange(span.end) > torch.arange(span.past, span.end)[:, None]
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hts,hsd->thd", weights, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_span_gets_what_the_definition_says(dtype: torch.dtype) -> None:
    store, new = held(), heads().to(dtype)
    found = attended(SPANS, new, store)
    assert found.dtype == dtype
    near = 1e-6 if dtype == torch.float32 else 1e-2
    parts = zip(SPANS, found.split(LENGTHS), new[:, 0].split(LENGTHS), strict=True)
    for span, part, queries in parts:
        expected = definition(span, store, queries)
        torch.testing.assert_close(part.double(), expected, atol=near, rtol=near)


def test_the_cache_gets_keys_and_values_and_nothing_else() -> None:
    store, before, new = held(), held(), heads()
    attended(SPANS, new, store)
    for span, part in zip(SPANS, new.split(LENGTHS), strict=True):
        places = store[LAYER, :, span.row, :, span.past : span.end]
        assert torch.equal(places, part[:, 1:].permute(1, 2, 0, 3))
        before[LAYER, :, span.row, :, span.past : span.end] = places
    assert torch.equal(store, before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_sequence_has_the_same_bits_whatever_stands_beside_it(threads: int) -> None:
    together = attended(SPANS, heads(), held()).split(LENGTHS)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        store = held()
        for n, span in enumerate(SPANS):  # a row's second span sees what its first has left
            alone = attended([span], heads().split(LENGTHS)[n], store)
            assert torch.equal(alone, together[n])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neighbours_of_one_length_have_the_bits_each_has_alone(threads: int) -> None:
    ends = [70, 70, 71, 70, 70]  # two pairs that share calls, and one between them
    spans = [Span(row, end - 1, 1) for row, end in enumerate(ends)]
    new = heads()[: len(spans)]
    together = attended(spans, new, held())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for n, span in enumerate(spans):
            assert torch.equal(attended([span], new[n : n + 1], held())[0], together[n])
    finally:
        torch.set_num_threads(before)
