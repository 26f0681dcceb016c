"""Activations against hooks on transformers' GPT-2, which computes all of it in its own way."""

from dataclasses import asdict

import pytest
import torch
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2
from torch.testing import assert_close

from gptcli.interpret.activations import attention_weights, predictions, record_activations
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def oracle_and_ours(shape, seed=0):
    oracle = lively_gpt2(seed, **shape)
    oracle.set_attn_implementation("eager")
    ids = torch.randint(0, shape["vocab_size"], (shape["n_positions"],)).tolist()
    return oracle, copy_weights(oracle), ids


def observed(oracle, ids):
    """Inputs and outputs of transformers' modules by their names, without the batch."""
    seen = {}
    for name, module in oracle.named_modules():

        def hook(_module, inputs, output, name=name):
            first = output[0] if isinstance(output, tuple) else output
            seen[name] = inputs[0].detach(), first.detach()

        if name.endswith(("ln_1", "ln_2", "ln_f", ".act", ".attn", ".mlp")):
            module.register_forward_hook(hook)
    with torch.no_grad():
        out = oracle(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    return out, {name: (a[0], b[0]) for name, (a, b) in seen.items()}


def assert_moments(found, x):
    x = x.double()
    assert_close(found.mean, x.mean(-1), **CLOSE)
    assert_close(found.variance, x.var(-1, correction=0), **CLOSE)
    assert_close(found.norm, x.norm(dim=-1), **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_that_of_transformers(shape):
    oracle, model, ids = oracle_and_ours(shape)
    out, _ = observed(oracle, ids)
    found = record_activations(model, ids, attention_of=range(shape["n_layer"]))
    for block, theirs in zip(found.blocks, out.attentions, strict=True):
        assert_close(block.attention, theirs[0], **CLOSE)
        entropy = -(theirs[0] * theirs[0].clamp_min(1e-30).log()).sum(-1).mean(-1)
        assert_close(block.heads.entropy.float(), entropy, **CLOSE)
        assert_close(block.heads.first.float(), theirs[0, :, :, 0].mean(-1), **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_stream_is_that_of_transformers(shape):
    oracle, model, ids = oracle_and_ours(shape)
    out, _ = observed(oracle, ids)
    found = record_activations(model, ids)
    for ours, theirs in zip(found.hidden_states[:-1], out.hidden_states[:-1], strict=True):
        assert_close(ours, theirs[0], **CLOSE)
    # transformers' last hidden state is already normalised
    with torch.no_grad():
        normalised = model.final_norm(found.hidden_states[-1])
    assert_close(normalised, out.hidden_states[-1][0], **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
def test_norms_additions_and_gelu_inputs_are_those_that_hooks_see(shape):
    oracle, model, ids = oracle_and_ours(shape)
    _, seen = observed(oracle, ids)
    found = record_activations(model, ids)
    for n, block in enumerate(found.blocks):
        at = f"transformer.h.{n}."
        for norm, name in ((block.norm1, "ln_1"), (block.norm2, "ln_2")):
            assert_moments(norm.before, seen[at + name][0])
            assert_moments(norm.after, seen[at + name][1])
        assert_close(block.attention_adds, seen[at + "attn"][1].double().norm(dim=-1), **CLOSE)
        assert_close(block.feed_forward_adds, seen[at + "mlp"][1].double().norm(dim=-1), **CLOSE)
        # an input within rounding of 0 may fall on either side
        share = (seen[at + "mlp.act"][0] < 0).double().mean(-1)
        assert_close(block.suppressed, share, atol=1.01 / (4 * shape["n_embd"]), rtol=0)
    assert_moments(found.final_norm.before, seen["transformer.ln_f"][0])
    assert_moments(found.final_norm.after, seen["transformer.ln_f"][1])


def test_the_names_of_norms_are_the_models():
    _, model, ids = oracle_and_ours(SHAPES[0])
    modules = dict(model.named_modules())
    found = record_activations(model, ids)
    names = [n.name for b in found.blocks for n in (b.norm1, b.norm2)] + [found.final_norm.name]
    assert all(name in modules for name in names)
    assert len(set(names)) == 5


def test_the_logit_lens_is_the_oracles_head_on_its_own_hidden_states():
    oracle, model, ids = oracle_and_ours(SHAPES[1])
    out, _ = observed(oracle, ids)
    found = record_activations(model, ids)
    with torch.no_grad():
        theirs = [
            oracle.lm_head(oracle.transformer.ln_f(hidden[0])).log_softmax(-1)
            for hidden in out.hidden_states[:-1]
        ]
    theirs.append(out.logits[0].log_softmax(-1))
    for hidden, expected in zip(found.hidden_states, theirs, strict=True):
        for prediction, row in zip(
            predictions(model, hidden, ids[1:], top=7), expected, strict=False
        ):
            values, indices = row.topk(7)
            assert [id for id, _ in prediction.best] == indices.tolist()
            assert_close(torch.tensor([p for _, p in prediction.best]), values, **CLOSE)
            assert prediction.entropy == pytest.approx(-(row.exp() * row).sum().item(), abs=1e-4)
            assert prediction.margin == pytest.approx((values[0] - values[1]).item(), abs=1e-4)


def test_found_know_the_token_that_comes_and_its_rank():
    oracle, model, ids = oracle_and_ours(SHAPES[1])
    with torch.no_grad():
        logprobs = oracle(torch.tensor([ids])).logits[0].log_softmax(-1)
    found = predictions(model, record_activations(model, ids).hidden_states[-1], ids[1:])
    for prediction, row, coming in zip(found[:-1], logprobs, ids[1:], strict=False):
        assert prediction.logprob == pytest.approx(row[coming].item(), abs=1e-4)
        assert prediction.rank == row.argsort(descending=True).tolist().index(coming) + 1
    assert found[-1].logprob is found[-1].rank is None


def test_padding_of_the_vocabulary_is_never_read():
    _, model, ids = oracle_and_ours(SHAPES[0])
    everything = predictions(model, record_activations(model, ids).hidden_states[-1], top=61)
    for prediction, whole in zip(
        predictions(model, record_activations(model, ids).hidden_states[-1], top=61, n_vocab=20),
        everything,
        strict=True,
    ):
        assert {id for id, _ in prediction.best} == set(range(20))
        assert sum(2.718281828459045**p for _, p in prediction.best) == pytest.approx(1, abs=1e-5)
        assert [i for i, _ in whole.best if i < 20] == [i for i, _ in prediction.best]


def test_recomputed_weights_explain_what_the_block_added():
    _, model, _ = oracle_and_ours(SHAPES[1])
    x = torch.randn(11, 24)
    att = model.trf_blocks[0].att
    values = att.W_value(x).unflatten(1, (3, 8)).transpose(0, 1)
    context = (attention_weights(att, x, 0) @ values).transpose(0, 1).flatten(1)
    assert_close(att.out_proj(context), att(x[None])[0], **CLOSE)


def test_where_heads_look_adds_up():
    _, model, ids = oracle_and_ours(SHAPES[1])
    block = record_activations(model, ids, attention_of=[1]).blocks[1]
    weights = block.attention.double()
    T = len(ids)
    previous = sum(weights[:, i, i - 1] for i in range(1, T)) / (T - 1)
    assert_close(block.heads.previous, previous)
    assert_close(block.heads.itself, sum(weights[:, i, i] for i in range(T)) / T)


def test_a_single_token_has_one_place_to_look():
    _, model, _ = oracle_and_ours(SHAPES[2])
    (block,) = record_activations(model, [3], attention_of=[0]).blocks
    assert block.attention.tolist() == [[[1.0]]] * 5
    assert block.heads.entropy.tolist() == [0.0] * 5
    assert block.heads.first.tolist() == block.heads.itself.tolist() == [1.0] * 5
    assert block.heads.previous.tolist() == [0.0] * 5


def test_only_the_maps_asked_for_are_kept_and_the_model_is_left_as_it_was():
    _, model, ids = oracle_and_ours(SHAPES[1])
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = record_activations(model, ids, attention_of=[2])
    assert [block.attention is None for block in found.blocks] == [True, True, False]
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("ids", [[], [0] * 13])
def test_a_text_that_cannot_be_placed_is_refused_and_leaves_no_hooks(ids):
    _, model, _ = oracle_and_ours(SHAPES[0])
    with pytest.raises(ValueError, match="token"):
        record_activations(model, ids)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_untrained_models_norms_are_the_chapters():
    config = GPTConfig(vocab_size=50, context_length=8, emb_dim=96, n_heads=3, n_layers=2)
    found = record_activations(untrained(config, seed=123), [1, 2, 3, 4])
    for block in found.blocks:
        for norm in (block.norm1, block.norm2):
            zeros = torch.zeros(4, dtype=torch.float64)
            assert_close(norm.after.mean, zeros, atol=1e-6, rtol=0)
            assert_close(norm.after.variance, zeros + 1, atol=1e-3, rtol=0)
    assert set(asdict(found.blocks[0].heads)) == {"entropy", "first", "previous", "itself"}
