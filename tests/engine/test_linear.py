"""Float products against their definition, and a row's bits against those among other rows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gptcli.engine.linear import (
    HalfLinear,
    Linear,
    OneDnnLinear,
    PackedLinear,
    computed_in,
    fastest_linear,
    stable_count,
)

SHAPES = [(97, 64), (768, 768), (2304, 768), (768, 3072)]
KINDS = [
    (torch.float32, False, PackedLinear),
    (torch.float32, True, OneDnnLinear),
    (torch.float16, False, HalfLinear),
    (torch.float16, True, HalfLinear),
]
COUNTS = [2, 3, 5, 7, 8, 13, 14, 31, 61, 120, 121, 122, 127, 240]


def layer(
    dtype: torch.dtype, outputs: int, inputs: int, *, single: bool = False
) -> tuple[Linear, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(outputs)
    weight = (torch.randn(outputs, inputs, generator=draw) * inputs**-0.5).to(dtype)
    bias = torch.randn(outputs, generator=draw).to(dtype)
    return fastest_linear(weight, bias, single=single), weight.double(), bias.double()


@pytest.mark.parametrize(("dtype", "single", "kind"), KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 7, 130])
def test_a_product_is_that_of_the_weights(
    dtype: torch.dtype, single: bool, kind: type, shape: tuple[int, int], rows: int
) -> None:
    made, weight, bias = layer(dtype, *shape, single=single)
    outputs, inputs = shape
    assert type(made) is kind
    x, residual = torch.randn(rows, inputs), torch.randn(rows, outputs)
    exact = x.double() @ weight.T + bias
    gelu = torch.nn.functional.gelu(exact, approximate="tanh")
    close: Callable[..., None] = torch.testing.assert_close
    for found, expected in [
        (made(x), exact),
        (made(x, "gelu"), gelu),
        (made.add(x, residual), exact + residual),
    ]:
        assert found.dtype == computed_in(weight.to(dtype)) == torch.float32
        close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_row_has_the_same_bits_among_any_others(
    dtype: torch.dtype, threads: int, outputs: int, inputs: int
) -> None:
    made, *_ = layer(dtype, outputs, inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.randn(max(COUNTS), inputs)
        whole = made(x)
        assert [n for n in COUNTS if not torch.equal(made(x[:n]), whole[:n])] == []
        assert [n for n in COUNTS if not torch.equal(made(x[-n:]), whole[-n:])] == []
    finally:
        torch.set_num_threads(before)


def test_a_lonely_row_of_halves_has_them_too() -> None:
    made, *_ = layer(torch.float16, 768, 768)
    x = torch.randn(200, 768)
    assert torch.equal(made(x[7:8]), made(x)[7:8])


def test_rows_are_added_only_where_they_must_be() -> None:
    counts = [stable_count(rows) for rows in range(1, 241)]
    assert all(rows <= count <= rows + 8 for rows, count in enumerate(counts, start=1))
    assert stable_count(120) == 120
    assert stable_count(121) == 120 + stable_count(1)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_threads_change_no_bits(
    dtype: torch.dtype, single: bool, outputs: int, inputs: int
) -> None:
    made, *_ = layer(dtype, outputs, inputs, single=single)
    before, x = torch.get_num_threads(), torch.randn(1, inputs)
    found = []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.append(made(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)
