"""Integer products against sums of 64-bit integers, at the values that 16 bits cannot add."""

import pytest
import torch

from gptcli.engine.integer import (
    FbgemmProduct,
    Int8Weight,
    IntegerProduct,
    OneDnnProduct,
    integer_product,
    multiplies_bytes,
)

KERNELS = [OneDnnProduct, FbgemmProduct]
LARGEST = 127 if multiplies_bytes() else 63


def weight(outputs: int, inputs: int, low: int = -127) -> Int8Weight:
    draw = torch.Generator().manual_seed(outputs)
    values = torch.randint(low, 128, (outputs, inputs), generator=draw, dtype=torch.int8)
    return Int8Weight(values, torch.full((outputs,), float(LARGEST)))  # a step counts as 1


def steps(product: IntegerProduct, rows: int, features: int, low: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(rows)
    low = max(low, -product.most)
    return torch.randint(low, product.most + 1, (rows, features), generator=draw)


def test_the_product_of_this_processor_takes_what_its_sums_hold() -> None:
    assert integer_product(weight(64, 64)).most == LARGEST


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "features", "outputs"), [(1, 32, 48), (2, 768, 97), (33, 64, 64)])
@pytest.mark.parametrize("low", [-127, 60], ids=["signed", "large"])
def test_sums_are_those_of_whole_numbers(
    kernel: type[OneDnnProduct], rows: int, features: int, outputs: int, low: int
) -> None:
    values = weight(outputs, features, low)
    product = kernel(values, LARGEST)
    x = steps(product, rows, features, low)
    exact = x @ values.values.long().T
    assert torch.equal(product(x / LARGEST).round().long(), exact)


@pytest.mark.parametrize("kernel", KERNELS)
def test_inputs_are_rounded_and_outputs_scaled(kernel: type[OneDnnProduct]) -> None:
    values, scales = weight(48, 32).values, torch.rand(48) + 0.1
    x = torch.rand(4, 32) * 2 - 1
    found = kernel(Int8Weight(values, scales), LARGEST)(x)
    exact = (x * LARGEST).round().double() / LARGEST @ (values * scales[:, None].double()).T
    torch.testing.assert_close(found.double(), exact, atol=0, rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_has_the_same_bits_whatever_stands_beside_it(kernel: type[OneDnnProduct]) -> None:
    product = kernel(weight(256, 192), LARGEST)
    x = torch.rand(40, 192) * 2 - 1
    whole = product(x)
    for rows in (slice(0, 1), slice(3, 5), slice(7, 40)):
        assert torch.equal(product(x[rows]), whole[rows])
