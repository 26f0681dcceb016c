"""Gradients against transformers' own backward pass, and the book's printed numbers."""

import pytest
import torch
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2
from torch.testing import assert_close

from gptcli.interpret.gradients import forward, gradients
from gptcli.model.gpt import untrained
from gptcli.model.parameters import architecture, tensors
from gptcli.model.shortcut import BOOK_GRADIENTS, demonstration

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def remove_shortcuts(oracle):
    """Take back what transformers adds: its `+ residual` then leaves the branch alone."""
    for block in oracle.transformer.h:
        entered = {}

        def remember(_module, inputs, entered=entered):
            entered["x"] = inputs[0]

        def subtract(_module, _inputs, output, entered=entered):
            if isinstance(output, tuple):
                return (output[0] - entered["x"], *output[1:])
            return output - entered["x"]

        for norm, branch in ((block.ln_1, block.attn), (block.ln_2, block.mlp)):
            norm.register_forward_pre_hook(remember)
            branch.register_forward_hook(subtract)
    return oracle


def expected(oracle, ids):
    """Mean absolute gradients by the book's names, from transformers' loss and backward pass."""
    loss = oracle(torch.tensor([ids]), labels=torch.tensor([ids])).loss
    loss.backward()
    grads = {name: p.grad.abs() for name, p in oracle.transformer.named_parameters()}
    means = {"tok_emb.weight": grads["wte.weight"], "pos_emb.weight": grads["wpe.weight"]}
    means |= {"final_norm.scale": grads["ln_f.weight"], "final_norm.shift": grads["ln_f.bias"]}
    for n in range(oracle.config.n_layer):
        at, to = f"h.{n}.", f"trf_blocks.{n}."
        for kind in ("weight", "bias"):
            split = grads[f"{at}attn.c_attn.{kind}"].chunk(3, dim=-1)
            for name, part in zip(("W_query", "W_key", "W_value"), split, strict=True):
                means[f"{to}att.{name}.{kind}"] = part
            means[f"{to}att.out_proj.{kind}"] = grads[f"{at}attn.c_proj.{kind}"]
            means[f"{to}ff.layers.0.{kind}"] = grads[f"{at}mlp.c_fc.{kind}"]
            means[f"{to}ff.layers.2.{kind}"] = grads[f"{at}mlp.c_proj.{kind}"]
        for ours, theirs in (("norm1", "ln_1"), ("norm2", "ln_2")):
            means[f"{to}{ours}.scale"] = grads[f"{at}{theirs}.weight"]
            means[f"{to}{ours}.shift"] = grads[f"{at}{theirs}.bias"]
    return loss.item(), {name: value.mean().item() for name, value in means.items()}


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_transformers(shape, shortcuts):
    oracle = lively_gpt2(**shape)
    model = copy_weights(oracle)
    loss, means = expected(oracle if shortcuts else remove_shortcuts(oracle), IDS)
    found = gradients(model, IDS, shortcuts=shortcuts)
    assert found.loss == pytest.approx(loss, abs=1e-4)
    assert found.mean_absolute == pytest.approx(means, rel=1e-3, abs=1e-6)


def test_with_shortcuts_the_forward_pass_is_the_models():
    model = copy_weights(lively_gpt2(**SHAPES[0]))
    ids = torch.tensor([IDS, IDS[::-1]])
    with torch.no_grad():
        assert_close(forward(model, ids), model(ids))
        assert not torch.allclose(forward(model, ids, shortcuts=False), model(ids), atol=0.1)


def test_every_parameter_of_an_untied_model_has_a_gradient():
    model = copy_weights(lively_gpt2(**SHAPES[0]))
    config = model.config
    assert list(gradients(model, IDS).mean_absolute) == [
        name for name, _ in tensors(architecture(config)) if name != "out_head.weight"
    ]
    untied = untrained(config.__class__(**{**config.to_dict(), "tie_weights": False}), seed=1)
    means = gradients(untied, IDS).mean_absolute
    assert list(means) == [name for name, _ in tensors(architecture(untied.config))]
    assert all(value > 0 for value in means.values())


def test_the_model_is_left_as_it_was():
    model = copy_weights(lively_gpt2(**SHAPES[0])).train()
    model.requires_grad_(False)
    model.final_norm.scale.requires_grad_(True)
    with torch.no_grad():
        first, second = gradients(model, IDS), gradients(model, IDS)
    assert first == second, "dropout was not left out"
    assert model.training
    wanted = [name for name, p in model.named_parameters() if p.requires_grad]
    assert wanted == ["final_norm.scale"]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("use_shortcut", [False, True])
def test_the_demonstration_prints_the_books_numbers(use_shortcut):
    state = torch.random.get_rng_state()
    with torch.inference_mode(False), torch.no_grad():
        found = demonstration(use_shortcut)
    assert found == pytest.approx(BOOK_GRADIENTS[use_shortcut], rel=1e-4)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("ids", [[], [1]])
def test_too_short_a_text_is_refused(ids):
    model = copy_weights(lively_gpt2(**SHAPES[2]))
    with pytest.raises(ValueError, match="two tokens"):
        gradients(model, ids)
