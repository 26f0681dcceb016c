import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gptcli.core.errors import InputError
from gptcli.model.config import ACTIVATIONS, GPTConfig
from gptcli.model.gpt import GPTModel, KVCache
from gptcli.model.parameters import (
    BYTES,
    architecture,
    cache_bytes,
    count,
    forward_flops,
    mean_forward_flops,
    tensors,
    training_flops,
)

GPT2 = GPTConfig(
    vocab_size=50257, context_length=1024, emb_dim=768, n_heads=12, n_layers=12, qkv_bias=False
)
SIZES = {
    "124M": GPT2,
    "355M": replace(GPT2, emb_dim=1024, n_heads=16, n_layers=24),
    "774M": replace(GPT2, emb_dim=1280, n_heads=20, n_layers=36),
    "1558M": replace(GPT2, emb_dim=1600, n_heads=25, n_layers=48),
}
OPENAI = replace(GPT2, qkv_bias=True, tie_weights=True)


@st.composite
def configs(draw):
    n_heads = draw(st.integers(1, 4))
    return GPTConfig(
        vocab_size=draw(st.integers(1, 300)),
        context_length=draw(st.integers(1, 40)),
        emb_dim=n_heads * draw(st.integers(1, 8)),
        n_heads=n_heads,
        n_layers=draw(st.integers(1, 4)),
        qkv_bias=draw(st.booleans()),
        tie_weights=draw(st.booleans()),
        bias=draw(st.booleans()),
        n_inner=draw(st.none() | st.integers(1, 50)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


def built(config):
    with torch.device("meta"):
        return GPTModel(config)


def size(module):
    return sum(p.numel() for p in module.parameters())  # counts a shared tensor once


@pytest.mark.parametrize(
    ("name", "untied", "tied", "mib"),
    [
        ("124M", 163_009_536, 124_412_160, "621.83"),
        ("355M", 406_212_608, 354_749_440, "1549.58"),
        ("774M", 838_220_800, 773_891_840, "3197.56"),
        ("1558M", 1_637_792_000, 1_557_380_800, "6247.68"),
    ],
)
def test_the_books_counts_and_sizes(name, untied, tied, mib):
    counts = count(SIZES[name])
    assert (counts.untied, counts.tied, counts.total) == (untied, tied, untied)
    assert f"{counts.total * BYTES['float32'] / 2**20:.2f}" == mib
    assert count(replace(SIZES[name], tie_weights=True)).total == tied


def test_gpt3_is_counted_without_building_it():
    gpt3 = GPTConfig(
        vocab_size=50257, context_length=2048, emb_dim=12288, n_heads=96, n_layers=96, qkv_bias=True
    )
    assert (count(gpt3).untied, count(gpt3).tied) == (175_221_817_344, 174_604_259_328)


def test_the_numbers_other_tools_give_for_openais_smallest():
    counts = count(OPENAI)
    assert counts.total == 124_439_808
    assert counts.untied == 163_037_184  # torchinfo 1.8.0, the shared tensor at each use
    assert counts.with_masks == 137_022_720  # accelerate, from the book's class
    assert counts.matrices == 84_934_656  # TransformerLens
    assert counts.without_positions == 123_653_376  # nanoGPT


def test_without_embeddings_is_what_transformers_says():
    transformers = pytest.importorskip("transformers")
    shape = transformers.GPT2Config(vocab_size=99, n_positions=17, n_embd=24, n_layer=3, n_head=2)
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(shape)
    ours = count(
        replace(OPENAI, vocab_size=99, context_length=17, emb_dim=24, n_heads=2, n_layers=3)
    )
    assert ours.total == theirs.num_parameters()
    assert ours.without_embeddings == theirs.num_parameters(exclude_embeddings=True)


@settings(max_examples=60, deadline=None)
@given(configs())
def test_every_count_equals_the_built_models(config):
    model, counts = built(config), count(config)
    block = model.trf_blocks[0]
    assert counts.total == size(model)
    assert counts.untied == size(built(replace(config, tie_weights=False)))
    assert counts.tied == size(built(replace(config, tie_weights=True)))
    assert counts.token_embedding == size(model.tok_emb)
    assert counts.position_embedding == size(model.pos_emb)
    assert counts.attention == size(block.att)
    assert counts.feed_forward == size(block.ff)
    assert counts.norms == size(block.norm1) + size(block.norm2)
    assert (counts.block, counts.blocks) == (size(block), size(model.trf_blocks))
    assert counts.final_norm == size(model.final_norm)
    assert counts.output_head == size(model.out_head)
    linears = (m for m in model.trf_blocks.modules() if isinstance(m, torch.nn.Linear))
    assert counts.matrices == sum(linear.weight.numel() for linear in linears)
    assert architecture(config).count == counts.total


@settings(max_examples=30, deadline=None)
@given(configs())
def test_the_tree_names_the_models_tensors_in_its_order(config):
    expected = {name: tuple(tensor.shape) for name, tensor in built(config).state_dict().items()}
    assert list(tensors(architecture(config))) == list(expected.items())


@settings(max_examples=20, deadline=None)
@given(configs(), st.integers(1, 9), st.sampled_from(sorted(BYTES)))
def test_cache_bytes_equal_the_built_caches(config, tokens, dtype):
    cache = KVCache(config, capacity=tokens, dtype=getattr(torch, dtype), device="meta")
    held = [v for v in vars(cache).values() if isinstance(v, torch.Tensor)]
    assert cache_bytes(config, tokens, dtype) == sum(t.numel() * t.itemsize for t in held)


def flops_of(run):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("inner", [None, 35])
@pytest.mark.parametrize("seen", [1, 2, 7])
def test_flops_of_one_token_are_what_torch_counts(seen, inner):
    config = replace(OPENAI, vocab_size=91, context_length=7, emb_dim=24, n_heads=3, n_layers=2)
    config = replace(config, n_inner=inner)
    model = GPTModel(config).eval()
    cache = model.new_cache()
    if seen > 1:
        model(torch.zeros(1, seen - 1, dtype=torch.long), cache)
    step = flops_of(lambda: model(torch.zeros(1, 1, dtype=torch.long), cache))
    assert forward_flops(config, seen) == step


def test_mean_flops_are_the_mean_over_the_context():
    config = replace(OPENAI, context_length=6)
    each = [forward_flops(config, seen) for seen in range(1, 7)]
    assert mean_forward_flops(config) * 6 == sum(each)
    assert training_flops(config) == 3 * mean_forward_flops(config)


def test_what_cannot_be_computed_is_counted():
    mish = replace(GPT2, activation="mish")
    assert count(mish).total == count(GPT2).total
    assert architecture(mish)["trf_blocks"]["ff"]["layers"]["1"].kind == "mish"
    with pytest.raises(InputError, match="mish"):
        built(mish)


def test_counting_needs_no_torch():
    code = "import sys, gptcli.model.parameters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
