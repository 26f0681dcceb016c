"""The fast arrangement against the book's network and transformers."""

import pytest
import torch
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2

from gptcli.engine.attention import Span
from gptcli.engine.fast import FastGPT
from gptcli.engine.linear import PlainLinear, fastest_linear
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, untrained


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(shape: dict[str, int]) -> None:
    oracle = lively_gpt2(**shape)
    model = FastGPT(copy_weights(oracle))
    ids = torch.randint(shape["vocab_size"], (3, shape["n_positions"]))
    torch.testing.assert_close(model(ids), oracle(ids).logits.detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 1, 3, 2], [11, 1], [1, 11]])
def test_a_cache_filled_in_ragged_pieces_changes_nothing(pieces: list[int]) -> None:
    oracle = lively_gpt2(**SHAPES[0])
    model, ids = FastGPT(copy_weights(oracle)), torch.randint(61, (2, sum(pieces)))
    cache = model.new_cache(batch=2)
    in_pieces = torch.cat([model(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(in_pieces, oracle(ids).logits.detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_every_combination_of_biases_and_heads(qkv_bias: bool) -> None:
    config = GPTConfig(
        vocab_size=50,
        context_length=12,
        emb_dim=32,
        n_heads=4,
        n_layers=2,
        qkv_bias=qkv_bias,
        tie_weights=qkv_bias,
    )
    model, ids = untrained(config, 1), torch.arange(12)[None]
    expected = model(ids).detach()
    torch.testing.assert_close(FastGPT(model)(ids), expected, atol=1e-4, rtol=0)


def test_float16_weights_are_multiplied_in_float32() -> None:
    config = GPTConfig(vocab_size=97, context_length=40, emb_dim=64, n_heads=4, n_layers=2)
    rounded = untrained(config, 1).half()
    ids = torch.arange(40)[None]
    found = FastGPT(untrained(config, 1).half())(ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rounded.float()(ids).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sequence_has_the_same_bits_whatever_stands_beside_it(dtype: torch.dtype) -> None:
    model = FastGPT(untrained(GPTConfig(
        vocab_size=97, context_length=40, emb_dim=64, n_heads=4, n_layers=2
    ), 0).to(dtype))  # fmt: skip
    lengths = [7, 1, 30, 2, 12, 40, 5]
    ids = torch.randint(97, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    spans = [Span(row, 0, length) for row, length in enumerate(lengths)]
    together = model.logits(model.hidden(ids, spans, model.new_cache(batch=len(lengths))))
    for own, among in zip(ids.split(lengths), together.split(lengths), strict=True):
        if len(own) == 1:
            continue  # alone it would be a product of one row, which promises nothing
        alone = model.hidden(own, [Span(0, 0, len(own))], model.new_cache(batch=1))
        assert torch.equal(model.logits(alone), among)


def test_positions_past_the_context_or_the_cache_are_refused() -> None:
    model = FastGPT(copy_weights(lively_gpt2(**SHAPES[0])))
    with pytest.raises(ValueError, match="13 tokens, but the context is 12"):
        model(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(ValueError, match="the cache holds 2 positions, 3 are needed"):
        model(torch.zeros(1, 3, dtype=torch.long), model.new_cache(capacity=2))


def test_the_book_layout_is_let_go_layer_by_layer() -> None:
    model = GPTModel(GPTConfig(vocab_size=9, context_length=4, emb_dim=8, n_heads=2, n_layers=2))
    FastGPT(model)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(layers) == 2 * 6 + 1
    assert all(layer.weight is None for layer in layers)


@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_packed_and_plain_products_agree(activation: str) -> None:
    weight, bias = torch.randn(48, 32), torch.randn(48)
    x, residual = torch.randn(5, 32), torch.randn(5, 48)
    packed, plain = fastest_linear(weight, bias), PlainLinear(weight, bias)
    torch.testing.assert_close(packed(x, activation), plain(x, activation), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed.add(x, residual), plain.add(x, residual))
