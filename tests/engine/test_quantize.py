"""Quantised weights against their own definition and the float32 network."""

import pytest
import torch
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2

from gptcli.core.errors import UsageError
from gptcli.engine.fast import FastGPT
from gptcli.engine.integer import integer_product
from gptcli.engine.quantize import Int8Linear, to_int4, to_int8
from gptcli.generation.scheduler import Batch, Job
from gptcli.generation.sequence import Sequence
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained
from gptcli.sampling.params import SamplingParams

CONFIG = GPTConfig(vocab_size=97, context_length=48, emb_dim=64, n_heads=4, n_layers=2)
WIDTHS = ["int8", "int4"]


def test_int8_is_the_nearest_of_255_levels() -> None:
    weight = torch.randn(40, 32) * torch.logspace(-3, 3, 40)[:, None]
    quantized = to_int8(weight)
    assert quantized.values.abs().max() == 127
    error = (quantized.dequantized() - weight).abs()
    assert (error <= quantized.scales[:, None] / 2 * 1.001).all()


def test_int8_products_are_those_of_the_rounded_values() -> None:
    weight, bias, x = torch.randn(48, 32), torch.randn(48), torch.randn(5, 32)
    scale = x.abs().amax(1, keepdim=True) / integer_product(to_int8(weight)).most
    exact = ((x / scale).round() * scale) @ to_int8(weight).dequantized().T + bias
    layer = Int8Linear(to_int8(weight), bias)
    torch.testing.assert_close(layer(x), exact, atol=1e-4, rtol=1e-4)
    residual = torch.randn(5, 48)
    torch.testing.assert_close(layer.add(x, residual), exact + residual, atol=1e-4, rtol=1e-4)


def test_int4_leaves_a_smaller_error_than_the_full_range_does() -> None:
    weight = torch.randn(64, 256)
    grouped = weight.unflatten(1, (-1, 32))
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    step = (high - low) / 15
    plain = (((grouped - low) / step).round() * step + low - grouped).square().sum()
    assert (to_int4(weight).dequantized() - weight).square().sum() < 0.93 * plain


def test_a_constant_or_empty_group_loses_nothing() -> None:
    for value in (0.0, 0.5):
        weight = torch.full((64, 32), value)
        assert torch.equal(to_int4(weight).dequantized(), weight)
        torch.testing.assert_close(to_int8(weight).dequantized(), weight)


@pytest.mark.parametrize(("width", "most"), [("int8", 0.03), ("int4", 0.2)])
def test_a_quantised_model_stays_near_the_float_one(width: str, most: float) -> None:
    ids = torch.arange(48)[None]
    expected = untrained(CONFIG, 1)(ids).detach()
    logits = FastGPT(untrained(CONFIG, 1), width)(ids)  # type: ignore[arg-type]
    assert 0 < float((logits - expected).norm() / expected.norm()) < most


@pytest.mark.parametrize("width", WIDTHS)
def test_batches_keep_their_bits_at_every_width(width: str) -> None:
    model = FastGPT(untrained(CONFIG, 2), width)  # type: ignore[arg-type]

    def written(rows: int) -> dict[int, list[int]]:
        params = SamplingParams(max_new_tokens=12, temperature=1.2)
        texts = [
            Sequence(
                prompt=tuple(range(1, 2 + n)), params=params, context=48, seed=1, record=str(n)
            )
            for n in range(9)
        ]
        jobs = [Job(text, n) for n, text in enumerate(texts)]
        return {job.key: job.text.ids for job in Batch(model, rows).run(jobs)}

    assert written(1) == written(4) == written(9)


def test_a_width_that_does_not_fit_is_an_error_and_never_another_width() -> None:
    oracle = copy_weights(lively_gpt2(**SHAPES[0]))
    with pytest.raises(UsageError, match="quantize: int4 needs layers whose width"):
        FastGPT(oracle, "int4")
