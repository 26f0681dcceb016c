"""`gptcli export`: other programs read what it writes, and write the same text."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gpt2_oracle import FAMILY, lively_gpt2
from tiny_directory import write_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from gptcli.checkpoint.weights import Weights
from gptcli.cli import run
from gptcli.generation.llm import LLM
from gptcli.generation.model_spec import ModelSpec
from gptcli.tokenizer.conversion import huggingface_files, merges_of
from gptcli.tokenizer.encodings import from_ranks, read_ranks

PROMPTS = ["Once upon a time", " two  spaces", "caf\u00e9, na\u00efve \u65e5\u672c\n\nend", "a"]
STORIES = Path(__file__).parents[2] / "gptcli" / "data" / "stories"

needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="needs the built-in model")


def greedy(model: str, prompt: str, capsys: pytest.CaptureFixture[str]) -> dict[str, list[int]]:
    capsys.readouterr()
    assert run(["generate", "-m", model, "--greedy", "-n", "12", "--json", prompt]) == 0
    said = json.loads(capsys.readouterr().out)
    return {"prompt": said["prompt_ids"], "ids": said["ids"]}


def theirs(directory: Path, prompt: str) -> dict[str, list[int]]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(directory)(prompt, return_tensors="pt").input_ids
    end = model.generation_config.eos_token_id
    made = model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=0)[0]
    new = made[ids.shape[1] :].tolist()
    return {"prompt": ids[0].tolist(), "ids": new[:-1] if new and new[-1] == end else new}


def weights_of(directory: Path) -> Weights:
    checkpoint = LLM.open(ModelSpec(model=str(directory))).checkpoint
    assert checkpoint is not None
    return checkpoint.weights()


@needs_stories
@pytest.mark.parametrize("prompt", PROMPTS)
def test_transformers_writes_the_same_ids_with_the_built_in_model(
    prompt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "-o", str(tmp_path / "out"), "-q"]) == 0
    assert theirs(tmp_path / "out", prompt) == greedy("stories", prompt, capsys)


def test_an_untied_model_without_qkv_biases_is_exported_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny(tmp_path / "model")
    assert run(["export", "-m", str(model), "-o", str(tmp_path / "out"), "-q"]) == 0
    assert theirs(tmp_path / "out", "The cat") == greedy(str(model), "The cat", capsys)


@pytest.mark.parametrize("changes", FAMILY, ids=str)
def test_what_a_gpt2_config_says_survives(changes: dict[str, object], tmp_path: Path) -> None:
    shape = {"vocab_size": 257, "n_positions": 32, "n_embd": 16, "n_head": 2, "n_layer": 2}
    oracle = lively_gpt2(**shape, **changes)
    oracle.save_pretrained(tmp_path / "in")
    tokenizer = from_ranks("bytes", {bytes([byte]): byte for byte in range(256)}, eos_id=256)
    for name, contents in huggingface_files(tokenizer, 32).items():
        (tmp_path / "in" / name).write_bytes(contents)
    assert run(["export", "-m", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-q"]) == 0
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(again(ids).logits, oracle(ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("format", ["huggingface", "book"])
def test_what_comes_back_is_equal(format: str, tmp_path: Path) -> None:
    model, out = write_tiny(tmp_path / "model"), tmp_path / "out"
    assert run(["export", str(model), "-o", str(out), "--format", format, "-q"]) == 0
    before, after = weights_of(model), weights_of(out)
    for name in ("tok_emb.weight", "trf_blocks.2.ff.layers.0.bias", "out_head.weight"):
        np.testing.assert_array_equal(before.floats(name), after.floats(name))


def test_rounded_weights_are_exported_as_the_floats_they_stand_for(tmp_path: Path) -> None:
    model, small = write_tiny(tmp_path / "model"), tmp_path / "small"
    assert run(["quantize", str(model), "-o", str(small), "--quantize", "int8", "-q"]) == 0
    assert run(["export", str(small), "-o", str(tmp_path / "out"), "-q"]) == 0
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").transformer.wte.weight
    ours = weights_of(small).floats("tok_emb.weight")
    np.testing.assert_array_equal(theirs.detach().numpy(), ours)


def test_a_gguf_file_holds_the_weights(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    model = write_tiny(tmp_path / "model")
    assert run(["export", str(model), "-o", str(tmp_path / "out"), "--format", "gguf", "-q"]) == 0
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    weights = weights_of(model)
    parts = [weights.floats(f"trf_blocks.1.att.W_{part}.weight") for part in ("query", "key")]
    np.testing.assert_array_equal(tensors["blk.1.attn_qkv.weight"][:32], np.concatenate(parts))
    np.testing.assert_array_equal(tensors["output.weight"], weights.floats("out_head.weight"))
    assert not tensors["blk.0.attn_qkv.bias"].any()


@needs_stories
@pytest.mark.parametrize("prompt", PROMPTS)
def test_llama_cpp_writes_the_same_ids(
    prompt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs the extra `compare`")
    assert run(["export", "-o", str(tmp_path / "out"), "--format", "gguf", "-q"]) == 0
    llama = llama_cpp.Llama(str(tmp_path / "out" / "model.gguf"), n_ctx=128, verbose=False)
    ids = llama.tokenize(prompt.encode())
    ours = greedy("stories", prompt, capsys)
    assert ids == ours["prompt"]
    made: list[int] = []
    for id in llama.generate(ids, temp=0.0):
        if id == llama.token_eos() or len(made) == 12:
            break
        made.append(id)
    assert made == ours["ids"]


def test_what_llama_cpp_cannot_compute_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny(tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"activation": "relu"}
    (model / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    assert run(["export", str(model), "-o", str(out), "--format", "gguf"]) == 2
    assert "activation relu" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_directory_that_holds_something_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    assert run(["export", "-o", str(tmp_path / "out")]) == 2
    assert "not empty" in capsys.readouterr().err


@needs_stories
def test_merges_make_each_token_of_the_ranks() -> None:
    ranks = read_ranks(STORIES / "tokenizer.tiktoken")
    made = [left + right for left, right in merges_of(ranks)]
    assert made == [token for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
