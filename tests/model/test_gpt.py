"""The network against two oracles nobody here wrote: transformers' GPT-2 and the book's numbers."""

import pytest
import torch
from gpt2_oracle import FAMILY, SHAPES, copy_weights, lively_gpt2

from gptcli.model.config import GPTConfig
from gptcli.model.dummy import DummyGPTModel
from gptcli.model.gpt import GELU, LayerNorm, untrained

GPT_CONFIG_124M = GPTConfig(
    vocab_size=50257, context_length=1024, emb_dim=768, n_heads=12, n_layers=12
)
HELLO_I_AM = [15496, 11, 314, 716]
BOOKS_TOKENS = [27018, 24086, 47843, 30961, 42348, 7267, 49706, 43231, 47062, 34657]


def tiny(**changes: object) -> GPTConfig:
    sizes = {"vocab_size": 50, "context_length": 12, "emb_dim": 8, "n_heads": 2, "n_layers": 2}
    return GPTConfig(**{**sizes, **changes})  # type: ignore[arg-type]


def test_an_untrained_124m_writes_the_books_tokens() -> None:
    model, ids = untrained(GPT_CONFIG_124M, seed=123), torch.tensor([HELLO_I_AM])
    cache = model.new_cache(capacity=16)
    written: list[int] = []
    with torch.inference_mode():
        for _ in BOOKS_TOKENS:
            ids = model(ids, cache, last=True)[:, -1].argmax(-1, keepdim=True)
            written.append(int(ids))
    assert written == BOOKS_TOKENS
    assert sum(p.numel() for p in model.parameters()) == 163_009_536


@pytest.mark.parametrize("shape", [*SHAPES, *({**SHAPES[1], **more} for more in FAMILY)])
def test_logits_equal_transformers(shape: dict[str, int]) -> None:
    oracle = lively_gpt2(**shape)
    model = copy_weights(oracle)
    ids = torch.randint(shape["vocab_size"], (3, shape["n_positions"]))
    with torch.inference_mode():
        torch.testing.assert_close(model(ids), oracle(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 1, 3, 2], [11, 1], [1, 11], [12]])
def test_a_cache_filled_in_ragged_pieces_changes_nothing(pieces: list[int]) -> None:
    oracle = lively_gpt2(**SHAPES[0])
    model, ids = copy_weights(oracle), torch.randint(SHAPES[0]["vocab_size"], (2, sum(pieces)))
    cache = model.new_cache(batch=2)
    with torch.inference_mode():
        in_pieces = torch.cat([model(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(in_pieces, oracle(ids).logits, atol=1e-4, rtol=0)
    assert cache.length == sum(pieces)


def test_greedy_tokens_equal_transformers_generate() -> None:
    oracle = lively_gpt2(**SHAPES[1])
    model, ids = copy_weights(oracle), torch.randint(SHAPES[1]["vocab_size"], (1, 5))
    expected = oracle.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    cache, written = model.new_cache(), ids
    with torch.inference_mode():
        for _ in range(20):
            logits = model(written[:, cache.length :], cache, last=True)
            written = torch.cat([written, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert written.tolist() == expected.tolist()


def test_truncating_a_cache_takes_back_what_came_after() -> None:
    model, cache = untrained(tiny(), 0), None
    ids, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[7, 8]])
    cache = model.new_cache()
    with torch.inference_mode():
        model(ids, cache)
        cache.truncate(2)
        again = model(other, cache)
        torch.testing.assert_close(again, model(torch.tensor([[1, 2, 7, 8]]))[:, 2:])


def test_last_gives_the_last_position_only() -> None:
    model, ids = untrained(tiny(), 0), torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(model(ids, last=True), model(ids)[:, -1:])


def test_positions_past_the_context_or_the_cache_are_refused() -> None:
    model = untrained(tiny(), 0)
    with pytest.raises(ValueError, match="13 tokens, but the context is 12"):
        model(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(ValueError, match="the cache holds 2 positions, 3 are needed"):
        model(torch.zeros(1, 3, dtype=torch.long), model.new_cache(capacity=2))


def test_a_tied_head_is_the_embedding_itself() -> None:
    model = untrained(tiny(tie_weights=True), 0)
    assert model.out_head.weight is model.tok_emb.weight


def test_untrained_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    untrained(tiny(), seed=1)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_layer_norm_uses_the_biased_variance_and_the_gelu_its_tanh_form() -> None:
    x = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    by_hand = (x - x.mean()) / torch.sqrt(x.var(correction=0) + 1e-5)
    torch.testing.assert_close(LayerNorm(4)(x), by_hand)
    inner = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    torch.testing.assert_close(GELU()(x), 0.5 * x * (1 + torch.tanh(inner)))
    assert not torch.allclose(GELU()(x), torch.nn.functional.gelu(x), atol=1e-5, rtol=0)


def test_a_model_without_biases_is_one_whose_biases_are_zero() -> None:
    bare = untrained(tiny(bias=False), 3)
    full = untrained(tiny(), 3)
    with torch.no_grad():
        for name, weight in full.named_parameters():
            found = bare.state_dict().get(name)
            weight.copy_(torch.zeros_like(weight) if found is None else found)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(bare(ids), full(ids))
    assert not [n for n, _ in bare.named_parameters() if n.endswith((".bias", ".shift"))]


def test_each_dropout_is_where_its_key_says() -> None:
    model = untrained(tiny(drop_rate_emb=0.1, drop_rate_attn=0.2, drop_rate_shortcut=0.3), 0)
    block = model.trf_blocks[0]
    assert (model.drop_emb.p, block.att.drop_rate, block.drop_shortcut.p) == (0.1, 0.2, 0.3)


def test_optional_keys_draw_the_weights_in_the_same_order() -> None:
    usual = untrained(tiny(), 5).state_dict()
    other = untrained(tiny(activation="relu", scale_attn_weights=False), 5).state_dict()
    assert all(torch.equal(usual[name], other[name]) for name in usual)


def test_dropout_works_in_training_only() -> None:
    model, ids = untrained(tiny(drop_rate=0.5), 0), torch.tensor([[1, 2, 3]])
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_the_placeholder_has_the_shape_of_the_model_and_idle_blocks() -> None:
    torch.manual_seed(123)
    dummy = DummyGPTModel(tiny(drop_rate=0.0))
    ids = torch.tensor([[1, 2, 3]])
    embedded = dummy.tok_emb(ids) + dummy.pos_emb(torch.arange(3))
    torch.testing.assert_close(dummy(ids), embedded @ dummy.out_head.weight.T)
