"""Quantised weights against their own definition and the float32 network."""

import numpy as np
import pytest
import torch
from engines import engine_of, needs_kernels
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2

from gptcli.core.errors import UsageError
from gptcli.engine.interface import Span
from gptcli.engine.quantize import to_int4, to_int8
from gptcli.generation.scheduler import Job, Scheduler
from gptcli.generation.sequence import Sequence
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained
from gptcli.sampling.params import SamplingParams

CONFIG = GPTConfig(vocab_size=97, context_length=48, emb_dim=64, n_heads=4, n_layers=2)
WIDTHS = ["int8", "int4"]


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def test_int8_is_the_nearest_of_255_levels() -> None:
    weight = drawn(40, 32) * np.logspace(-3, 3, 40, dtype=np.float32)[:, None]
    quantized = to_int8(weight)
    assert np.abs(quantized.values).max() == 127
    error = np.abs(quantized.floats() - weight)
    assert (error <= quantized.scales[:, None] / 2 * 1.001).all()


def test_int4_leaves_a_smaller_error_than_the_full_range_does() -> None:
    weight = drawn(64, 256)
    grouped = weight.reshape(64, -1, 32)
    low, high = grouped.min(-1, keepdims=True), grouped.max(-1, keepdims=True)
    step = (high - low) / 15
    plain = np.square(((grouped - low) / step).round() * step + low - grouped).sum()
    assert np.square(to_int4(weight).floats() - weight).sum() < 0.93 * plain


def test_a_constant_or_empty_group_loses_nothing() -> None:
    for value in (0.0, 0.5):
        weight = np.full((64, 32), value, np.float32)
        np.testing.assert_array_equal(to_int4(weight).floats(), weight)
        np.testing.assert_allclose(to_int8(weight).floats(), weight, rtol=1e-6)


@needs_kernels
@pytest.mark.parametrize(("width", "most"), [("int8", 0.03), ("int4", 0.2)])
def test_a_quantised_model_stays_near_the_float_one(width: str, most: float) -> None:
    ids = torch.arange(48)[None]
    expected = untrained(CONFIG, 1)(ids).detach()
    engine = engine_of(untrained(CONFIG, 1), width)
    logits = torch.from_numpy(engine.step([Span(engine.new_cache(), ids[0].tolist(), 48)]))
    assert 0 < float((logits - expected[0]).norm() / expected.norm()) < most


@needs_kernels
@pytest.mark.parametrize("width", WIDTHS)
def test_batches_keep_their_bits_at_every_width(width: str) -> None:
    model = engine_of(untrained(CONFIG, 2), width)  # type: ignore[arg-type]

    def written(rows: int) -> dict[int, list[int]]:
        params = SamplingParams(max_new_tokens=12, temperature=1.2)
        texts = [
            Sequence(
                prompt=tuple(range(1, 2 + n)), params=params, context=48, seed=1, record=str(n)
            )
            for n in range(9)
        ]
        jobs = [Job(text, n) for n, text in enumerate(texts)]
        return {job.key: job.sequence.ids for job in Scheduler(model, rows).run(jobs)}

    assert written(1) == written(4) == written(9)


@needs_kernels
def test_a_width_that_does_not_fit_is_an_error_and_never_another_width() -> None:
    oracle = copy_weights(lively_gpt2(**SHAPES[0]))
    with pytest.raises(UsageError, match="quantize: int4 needs layers whose width"):
        engine_of(oracle, "int4")
    with pytest.raises(UsageError, match="quantize: int4 needs layers whose width"):
        to_int4(drawn(8, 40))
