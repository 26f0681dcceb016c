"""4-bit layers against their own levels, as few rows take them and as many do."""

import pytest
import torch

from gptcli.engine.fourbit import Int4Linear, packing
from gptcli.engine.precision import has_bfloat16
from gptcli.engine.quantize import to_int4

FEATURES = [48, 64, 97]
MANY = 100


@pytest.mark.parametrize("features", FEATURES)
def test_products_are_those_of_the_levels(features: int) -> None:
    weight, bias, x = torch.randn(features, 64), torch.randn(features), torch.randn(5, 64)
    exact = x.bfloat16().float() @ to_int4(weight).dequantized().T + bias
    torch.testing.assert_close(Int4Linear(to_int4(weight), bias)(x), exact, atol=0.15, rtol=0.02)


def test_this_processor_packs_in_a_way_that_is_known() -> None:
    assert packing() is not None


@pytest.mark.parametrize("features", FEATURES)
def test_what_is_packed_can_be_unpacked(features: int) -> None:
    weight = to_int4(torch.randn(features, 96))
    layer = Int4Linear(weight, None)
    torch.testing.assert_close(layer.dequantized(), weight.dequantized(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("features", FEATURES)
def test_many_rows_of_one_text_are_multiplied_by_floats(features: int) -> None:
    weight, bias, x = torch.randn(features, 64), torch.randn(features), torch.randn(MANY, 64)
    layer = Int4Linear(to_int4(weight), bias, single=True)
    exact = x @ to_int4(weight).dequantized().T + bias
    near = 0.2 if has_bfloat16("cpu") else 1e-4
    torch.testing.assert_close(layer(x), exact, atol=near, rtol=near / 10)
    curved = torch.nn.functional.gelu(exact, approximate="tanh")
    torch.testing.assert_close(layer(x, "gelu"), curved, atol=near, rtol=near / 10)
    residual = torch.randn(MANY, features)
    torch.testing.assert_close(layer.add(x, residual), exact + residual, atol=near, rtol=near / 10)


def test_a_row_of_several_texts_has_the_same_bits_beside_many_and_few() -> None:
    layer, x = Int4Linear(to_int4(torch.randn(64, 96)), None), torch.randn(MANY, 96)
    assert torch.equal(layer(x)[:2], layer(x[:2]))
