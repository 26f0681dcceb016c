"""count-params: what a change costs, what fits a budget, memory for a way of use."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from gptcli.checkpoint.presets import PRESETS, preset_config
from gptcli.cli import run
from gptcli.core.errors import UsageError
from gptcli.interpret.parameter_counts import config_with, parse_what_if
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel
from gptcli.model.memory_estimate import generation_memory, training_memory
from gptcli.model.parameters import count

GPT2 = preset_config(PRESETS["gpt2-124m"])


def counted(capsys, *arguments):
    assert run(["count-params", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    assert run(["count-params", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_changed_model_stands_beside_the_target(capsys):
    found = counted(capsys, "gpt2-124m", "--what-if", "emb_dim=1024,n_layers=24")["targets"]
    assert [one["parameters"]["total"] for one in found] == [163_009_536, 406_212_608]
    assert found[1]["changed"] == {"emb_dim": 1024, "n_layers": 24}
    assert found[1]["config"]["n_heads"] == 16  # each as wide as before
    assert found[0]["changed"] == {}


def test_every_kind_of_key_can_change(capsys):
    text = "vocab_size=50_304, qkv_bias=TRUE, tie_weights=true, n_heads=6, drop_rate=0"
    config = config_with(GPT2, parse_what_if(text))
    assert config == replace(
        GPT2, vocab_size=50304, qkv_bias=True, tie_weights=True, n_heads=6, drop_rate=0.0
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("emb_dm=3", 'Did you mean "emb_dim"?'),
        ("emb_dim", "expected key=value"),
        ("", "expected key=value"),
        ("tokenizer=x", "expected key=value"),
        ("emb_dim=1e3", "an integer"),
        ("emb_dim=" + "9" * 5000, "an integer"),
        ("qkv_bias=1", "true or false"),
        ("drop_rate=much", "a number"),
        ("drop_rate=nan", "drop_rate"),
        ("emb_dim=100", "not divisible by n_heads 12"),
        ("n_heads=0", "n_heads"),
        ("emb_dim=0", "emb_dim"),
        ("\x1b[31m=3", r"\x1b"),
    ],
)
def test_what_cannot_be_changed_says_why(text, said):
    with pytest.raises(UsageError, match="what_if") as raised:
        config_with(GPT2, parse_what_if(text))
    assert said in str(raised.value)


def test_the_largest_that_fits_and_the_books_sizes(capsys):
    arguments = ["gpt2-124m", "--fit", "8GB", "--dtype", "int8", "--context", "512"]
    document = counted(capsys, *arguments)
    (fit,), (target,) = document["fits"], document["targets"]
    config = GPTConfig(**fit["config"])
    assert fit["bytes"] == generation_memory(config, "int8", 1, 512).total <= 8 * 10**9
    assert target["parameters"]["total"] == count(config).total
    assert target["memory"]["write"]["total"] == fit["bytes"]
    assert [one["fits"] for one in fit["presets"]] == [True] * 4
    assert fit["loading_bytes"] == generation_memory(config, "int8", 1, 512).loading


def test_a_moment_that_takes_more_than_is_there_is_told(capsys):
    arguments = ["gpt2-124m", "--fit", "50MB", "--dtype", "int4", "--context", "16"]
    (fit,) = counted(capsys, *arguments)["fits"]
    assert fit["loading_bytes"] > fit["budget_bytes"]
    assert run(["count-params", *arguments]) == 0
    assert "While it is loaded" in capsys.readouterr().out


def test_the_largest_that_can_be_trained(capsys):
    document = counted(capsys, "gpt2", "--fit", "24GiB", "--train", "--batch", "2")
    (fit,) = document["fits"]
    assert fit["purpose"] == "train"
    assert fit["bytes"] == training_memory(GPTConfig(**fit["config"]), 2, 1024).total <= 24 << 30
    assert [one["fits"] for one in fit["presets"]] == [True, True, False, False]


def test_a_longer_context_than_the_familys_is_given_to_it(capsys):
    (fit,) = counted(capsys, "gpt2-124m", "--fit", "8GB", "--context", "4096")["fits"]
    assert fit["config"]["context_length"] == 4096


def test_a_family_known_by_weights_alone_has_heads_like_gpt2s(capsys, tmp_path):
    config = GPTConfig(vocab_size=90, context_length=8, emb_dim=128, n_heads=2, n_layers=2)
    state = {name: t.contiguous() for name, t in GPTModel(config).state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    (fit,) = counted(capsys, str(tmp_path / "w.safetensors"), "--fit", "100MB")["fits"]
    assert fit["config"]["emb_dim"] // fit["config"]["n_heads"] == 64


def test_memory_follows_the_options(capsys):
    arguments = ["--dtype", "int4", "--batch", "3", "--context", "100"]
    (one,) = counted(capsys, "gpt2", *arguments)["targets"]
    config = preset_config(PRESETS["gpt2"])
    assert one["memory"]["write"]["total"] == generation_memory(config, "int4", 3, 100).total
    assert one["memory"]["train"]["total"] == training_memory(config, 3, 100).total
    assert run(["count-params", "gpt2", *arguments]) == 0
    out = capsys.readouterr().out
    assert f"{training_memory(config, 3, 100).total / 2**20:,.1f} MiB" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpt2", "--fit", "1MB"], "the smallest needs"),
        (["gpt2", "--train"], "--train: needs --fit"),
        (["gpt2", "--context", "2000"], "the context of gpt2 is 1,024, got 2,000"),
        (["gpt2", "--context", "0"], "--context: must be an integer >= 1"),
        (["gpt2", "--batch", "0"], "--batch: must be an integer >= 1"),
        (["gpt2", "--dtype", "int3"], "--dtype"),
    ],
)
def test_what_cannot_be_answered_says_why(capsys, arguments, said):
    assert said in refused(capsys, *arguments)


def test_the_count_of_a_changed_model_is_torchs(capsys):
    change = "emb_dim=24,n_layers=3,vocab_size=50,context_length=8,n_heads=2,qkv_bias=true"
    found = counted(capsys, "gpt2-124m", "--what-if", change)["targets"][1]
    with torch.device("meta"):
        model = GPTModel(config_with(GPT2, parse_what_if(change)))
    assert found["parameters"]["total"] == sum(p.numel() for p in model.parameters())
