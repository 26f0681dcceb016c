"""Comparing models: layouts are equal to one another, and every kind of difference is found."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2
from safetensors.torch import load_file, save_file

from gptcli.checkpoint.header import read_headers
from gptcli.checkpoint.layouts import detect_layout
from gptcli.checkpoint.load import save
from gptcli.checkpoint.tensordata import PIECE
from gptcli.cli import run
from gptcli.core.errors import InputError
from gptcli.interpret.canonical_weights import Weights
from gptcli.interpret.model_diff import bytes_to_read, compare
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained

SMALL = GPTConfig(vocab_size=50, context_length=8, emb_dim=12, n_heads=3, n_layers=2)


def weights(path):
    headers = read_headers(path)
    try:
        layout = detect_layout(headers)
    except InputError:
        layout = None
    return Weights.of_files(headers, layout)


def book(config=SMALL, seed=0):
    tensors = dict(untrained(config, seed).named_parameters())
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def compared(tmp_path, first, second):
    save_file(first, tmp_path / "a.safetensors")
    save_file(second, tmp_path / "b.safetensors")
    return compare(weights(tmp_path / "a.safetensors"), weights(tmp_path / "b.safetensors"))


def pairs(comparison):
    return {pair.name: pair for pair in comparison.pairs}


@pytest.fixture(params=range(len(SHAPES)))
def oracle(request):
    return lively_gpt2(**SHAPES[request.param])


def test_what_transformers_saves_equals_what_we_save_of_the_same_weights(oracle, tmp_path):
    oracle.save_pretrained(tmp_path / "theirs")
    save(copy_weights(oracle), tmp_path / "ours")
    a, b = (weights(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    found = compare(a, b)
    assert found.is_equal
    assert found.tying == ("shared", "shared")
    assert len(found.pairs) == len(copy_weights(oracle).state_dict()) - 1
    assert found.whole.elements == oracle.num_parameters()
    assert (found.whole.differing, found.whole.cosine) == (0, 1.0)


def test_a_changed_value_of_a_fused_transposed_tensor_is_found_at_its_place(oracle, tmp_path):
    save(copy_weights(oracle), tmp_path / "ours")
    with torch.no_grad():
        qkv = oracle.transformer.h[0].attn.c_attn.weight  # (E, 3E): inputs first
        width = qkv.shape[0]
        qkv[3, 2 * width + 5] += 0.5  # input 3 of output 5 of the values
    oracle.save_pretrained(tmp_path / "theirs")
    found = compare(*(weights(tmp_path / s / "model.safetensors") for s in ("ours", "theirs")))
    (changed,) = [pair for pair in found.pairs if not pair.is_equal]
    assert (changed.name, changed.argmax) == ("trf_blocks.0.att.W_value.weight", (5, 3))
    assert changed.distance.maximum == pytest.approx(0.5, abs=1e-6)
    assert not found.is_equal


def nanogpt(oracle):
    """The names of transformers, matrices as Linear has them, and no head."""
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = oracle.transformer.state_dict(prefix="transformer.")
    return {n: (t.T if n.endswith(matrices) else t).contiguous() for n, t in state.items()}


def test_nanogpts_layout_equals_both_others(oracle, tmp_path):
    save_file(nanogpt(oracle), tmp_path / "nano.safetensors")
    save(copy_weights(oracle), tmp_path)
    found = compare(weights(tmp_path / "nano.safetensors"), weights(tmp_path / "model.safetensors"))
    assert found.is_equal


def test_biases_that_nanogpt_leaves_out_equal_zeros(oracle, tmp_path):
    state = nanogpt(oracle)
    bare = {n: t for n, t in state.items() if not n.endswith("bias")}
    save_file(bare, tmp_path / "bare.safetensors")
    zero = {n: torch.zeros_like(t) if n.endswith("bias") else t for n, t in state.items()}
    save_file(zero, tmp_path / "zero.safetensors")
    found = compare(weights(tmp_path / "bare.safetensors"), weights(tmp_path / "zero.safetensors"))
    assert {name.split(".")[-2] for name in found.added} == {"W_query", "W_key", "W_value"}
    assert all(pair.is_equal for pair in found.pairs)
    assert not found.removed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_distances_are_numpys(tmp_path, dtype):
    torch.manual_seed(1)
    a = torch.randn(3, PIECE - 1).to(dtype)
    b = a + (torch.randn_like(a) * (torch.rand(a.shape) < 0.01)).to(dtype)
    distance = compared(tmp_path, {"x": a}, {"x": b}).pairs[0].distance
    x, y = a.double().numpy().ravel(), b.double().numpy().ravel()
    assert distance.elements == x.size
    assert distance.differing == (x != y).sum()
    assert distance.maximum == np.abs(x - y).max()
    assert distance.relative == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-10)
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert distance.cosine == pytest.approx(cosine, rel=1e-12)


def test_the_whole_model_is_measured_as_one_vector(tmp_path):
    a, b = book(seed=0), book(seed=1)
    whole = compared(tmp_path, a, b).whole
    x, y = (np.concatenate([t.double().numpy().ravel() for t in side.values()]) for side in (a, b))
    assert whole.relative == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x))
    assert whole.maximum == np.abs(x - y).max()


def test_added_removed_shape_and_dtype(tmp_path):
    a, b = book(), book()
    del b["trf_blocks.1.norm1.shift"]
    b["extra"] = torch.ones(2)
    b["pos_emb.weight"] = torch.cat([b["pos_emb.weight"]] * 2)
    b["final_norm.scale"] = b["final_norm.scale"].bfloat16()  # ones, exactly
    found = compared(tmp_path, a, b)
    assert list(found.removed) == ["trf_blocks.1.norm1.shift"]
    assert list(found.added) == ["extra"]
    pair = pairs(found)["pos_emb.weight"]
    assert (pair.shapes, pair.distance, pair.is_equal) == (((8, 12), (16, 12)), None, False)
    pair = pairs(found)["final_norm.scale"]
    assert (pair.dtypes, pair.distance.differing, pair.is_equal) == (("F32", "BF16"), 0, False)
    assert sum(not pair.is_equal for pair in found.pairs) == 2


def test_tying_by_absence_by_copy_and_not_at_all(tmp_path):
    shared, copied, own = book(replace(SMALL, tie_weights=True)), book(), book()
    for name, tensor in shared.items():
        copied[name] = tensor.clone()
    copied["out_head.weight"] = copied["tok_emb.weight"].clone()
    own = copied | {"out_head.weight": copied["tok_emb.weight"] + 1}
    found = compared(tmp_path, shared, copied)
    assert found.tying == ("shared", "copied")
    assert found.is_equal
    found = compared(tmp_path, shared, own)
    assert found.tying == ("shared", "own")
    assert pairs(found)["out_head.weight"].distance.maximum == pytest.approx(1)
    assert not found.is_equal


def test_damage_is_counted_and_kept_out_of_the_distances(tmp_path):
    a, b = torch.ones(10), torch.ones(10)
    a[[0, 1, 2]] = torch.tensor([torch.nan, torch.inf, torch.inf])
    b[[0, 1, 2, 3]] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan])
    b[9] = 3
    pair = compared(tmp_path, {"x": a}, {"x": b}).pairs[0]
    distance = pair.distance
    assert (distance.differing, distance.not_finite, distance.maximum) == (3, 2, 2.0)
    assert pair.argmax == (9,)
    json.dumps([distance.relative, distance.cosine], allow_nan=False)


def test_zeros_have_no_direction(tmp_path):
    found = compared(tmp_path, {"x": torch.zeros(3)}, {"x": torch.ones(3)})
    assert (found.whole.relative, found.whole.cosine, found.whole.maximum) == (None, None, 1.0)
    found = compared(tmp_path, {"x": torch.zeros(3)}, {"x": torch.zeros(3)})
    assert (found.whole.relative, found.is_equal) == (0.0, True)


def test_a_config_is_compared_by_names_and_shapes(tmp_path):
    save_file(book(), tmp_path / "a.safetensors")
    a = weights(tmp_path / "a.safetensors")
    assert compare(a, Weights.of_config(SMALL)).is_equal
    found = compare(a, Weights.of_config(replace(SMALL, n_layers=3, vocab_size=51)))
    assert len(found.added) == 13
    assert not found.removed
    unequal = [pair.name for pair in found.pairs if not pair.is_equal]
    assert unequal == ["tok_emb.weight", "out_head.weight"]
    assert found.whole is None


def test_mask_buffers_are_no_difference(tmp_path):
    masks = {f"trf_blocks.{n}.att.mask": torch.ones(8, 8) for n in range(2)}
    assert compared(tmp_path, book(), book() | masks).is_equal


def test_a_fused_tensor_of_an_impossible_shape_is_compared_as_it_is(tmp_path):
    lively_gpt2(**SHAPES[0]).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["transformer.h.0.attn.c_attn.weight"] = torch.ones(7)
    found = compared(tmp_path, state, state)
    assert found.is_equal
    assert pairs(found)["trf_blocks.0.att.W_query.weight"].shapes == ((7,), (7,))


def test_what_is_told_adds_up(oracle, tmp_path):
    oracle.save_pretrained(tmp_path / "theirs")
    save(copy_weights(oracle).bfloat16(), tmp_path / "ours")
    a, b = (weights(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    told = []
    compare(a, b, lambda _name, read: told.append(read))
    assert sum(told) == bytes_to_read(a, b) == 6 * oracle.num_parameters()


def diff(capsys, *arguments):
    assert run(["inspect", *map(str, arguments), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gptcli.inspect-diff/1"
    return document


def test_inspect_with_two_targets_compares_them(oracle, tmp_path, capsys):
    oracle.save_pretrained(tmp_path / "theirs")
    save(copy_weights(oracle), tmp_path / "ours")
    document = diff(capsys, tmp_path / "theirs", tmp_path / "ours")
    assert document["equal"]
    assert document["config"] == {}
    assert run(["inspect", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert "The same model." in capsys.readouterr().out


def test_inspect_says_what_differs_and_where(tmp_path, capsys):
    a, b = untrained(SMALL, 0), untrained(replace(SMALL, drop_rate=0.2), 0)
    with torch.no_grad():
        b.trf_blocks[1].ff.layers[0].bias[7] += 1
        b.pos_emb.weight[2, 3] = torch.nan
    save(a, tmp_path / "a")
    save(b, tmp_path / "b")
    document = diff(capsys, tmp_path / "a", tmp_path / "b")
    assert not document["equal"]
    assert document["config"] == {"drop_rate": {"a": 0.1, "b": 0.2}}
    unequal = {t["name"]: t["distance"] for t in document["tensors"] if not t["equal"]}
    assert unequal["trf_blocks.1.ff.layers.0.bias"]["at"] == [7]
    assert unequal["pos_emb.weight"]["not_finite"] == 1
    assert run(["inspect", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "1 key of the config, 2 of the 31 tensors in both" in out
    assert "not finite" in out


def test_blocks_that_only_one_model_has_are_one_line(capsys):
    assert run(["inspect", "gpt2-124m", "gpt2-355m"]) == 0
    assert (
        "Only in B: 156 tensors\n  trf_blocks.12-23.*  13 tensors each\n" in capsys.readouterr().out
    )


def test_of_many_changed_tensors_those_that_differ_most_are_shown(tmp_path, capsys):
    model = untrained(SMALL, 0)
    save(model, tmp_path / "a")
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.mul_(1 + number / 1000)
    save(model, tmp_path / "b")
    assert run(["inspect", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "the 10 that differ most" in out
    last = list(dict(model.named_parameters()))[-1]
    table = out[out.index("the 10 that differ most") :].splitlines()
    assert last in table[2]
    assert len([line for line in table if "F32" in line]) == 10


def test_equal_changes_of_many_blocks_are_one_line(capsys):
    assert run(["inspect", "gpt2-124m", "gpt2-355m", "--details"]) == 0
    out = capsys.readouterr().out
    assert "trf_blocks.12-23.norm1.scale " in out
    assert "trf_blocks.0-11.ff.layers.0.weight   3072 x 768 → 4096 x 1024" in out


def test_weights_without_a_config_say_nothing_of_heads(tmp_path, capsys):
    save(untrained(SMALL, 0), tmp_path / "a")
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((tmp_path / "a" / "model.safetensors").read_bytes())
    assert diff(capsys, tmp_path / "a", bare)["equal"]


def test_files_of_no_gpt2_are_compared_by_their_own_names(tmp_path, capsys):
    save(untrained(SMALL, 0), tmp_path)
    save_file({"x": torch.ones(3)}, tmp_path / "x.safetensors")
    document = diff(capsys, tmp_path / "x.safetensors", tmp_path / "model.safetensors")
    assert [tensor["name"] for tensor in document["removed"]] == ["x"]
    assert len(document["added"]) == 31


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpt2", "gpt2-xl", "gpt2-large"], "two to compare, got 3"),
        (["gpt2", "gpt2-xl", "--stats"], "--stats: needs a single target"),
        (["gpt2", "gpt2-xl", "--config", "x.yaml"], "--config: needs a single target"),
    ],
)
def test_what_does_not_go_with_two_targets(capsys, arguments, said):
    assert run(["inspect", *arguments]) == 2
    assert said in capsys.readouterr().err
