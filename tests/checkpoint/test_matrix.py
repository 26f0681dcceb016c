"""Directories that transformers saved give transformers' greedy ids, or a refusal that says why."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_by_transformers import (
    CHANGES,
    CLASSES,
    DTYPES,
    FORMS,
    NEW_TOKENS,
    PREFIXES,
    SHAPES,
    TOKENIZERS,
    Kind,
    save,
)
from transformers import AutoModelForCausalLM

from gptcli.cli import run

_QUICK = 8
_COUNT = 72


def _kinds() -> list[Kind]:
    """Each value of each axis about equally often, in combinations drawn once for all."""
    axes: dict[str, list[Any]] = {
        "tokenizer": list(TOKENIZERS),
        "shape": SHAPES,
        "change": CHANGES,
        "dtype": list(DTYPES),
        "prefix": list(PREFIXES),
        "saved_class": [CLASSES[0], *CLASSES],
        "shards": [False, False, True],
    }
    draw = random.Random(14)
    columns = []
    for values in axes.values():
        column = [values[n % len(values)] for n in range(_COUNT)]
        draw.shuffle(column)
        columns.append(column)
    return [Kind(**dict(zip(axes, row, strict=True))) for row in zip(*columns, strict=True)]


KINDS = _kinds()


def test_the_matrix_has_every_value_of_every_axis() -> None:
    assert len(KINDS) == _COUNT
    assert len({str(kind) for kind in KINDS}) >= 60
    for name, values in (("tokenizer", TOKENIZERS), ("prefix", PREFIXES), ("dtype", DTYPES)):
        assert {getattr(kind, name) for kind in KINDS} == set(values)
    assert {json.dumps(kind.change) for kind in KINDS} == {json.dumps(one) for one in CHANGES}
    assert {kind.shards for kind in KINDS} == {False, True}


def _written(directory: Path, prompt: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    model = ["-m", str(directory)]
    code = run(["generate", *model, "--greedy", "-n", str(NEW_TOKENS), "--json", prompt])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=f"{n}:{kind}", marks=[pytest.mark.slow] if n >= _QUICK else [])
        for n, kind in enumerate(KINDS)
    ],
)
def test_greedy_ids_are_those_of_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Kind
) -> None:
    if kind.lacks_a_head:
        save(kind, tmp_path, expect_texts=False)
        assert run(["generate", "-m", str(tmp_path), "The dog"]) == 3
        assert "lm_head.weight" in capsys.readouterr().err
        return
    for text in save(kind, tmp_path):
        found = _written(tmp_path, text.prompt, capsys)
        assert found["prompt_ids"] == text.prompt_ids
        assert found["ids"] == text.ids
        assert found["finish_reason"] == ("length" if len(text.ids) == NEW_TOKENS else "stop")


@pytest.mark.parametrize("form", FORMS)
def test_greedy_ids_stay_in_every_form_that_others_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    change = {"activation_function": "gelu"} if form == "nanoGPT" else {}
    texts = save(Kind(change=change), tmp_path)
    FORMS[form](tmp_path)
    for text in texts:
        assert _written(tmp_path, text.prompt, capsys)["ids"] == text.ids


Damage = Callable[[Path], object]


def _config(**changes: object) -> Damage:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def changed(directory: Path) -> None:
        path = directory / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return changed


def _as_pickle(directory: Path) -> None:
    path = directory / "model.safetensors"
    torch.save(load_file(path), directory / "pytorch_model.bin")
    path.unlink()


def _cut(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


REFUSED: dict[str, tuple[Kind, Damage, str]] = {
    "mish": (
        Kind(change={"activation_function": "mish"}),
        lambda _: None,
        r'config\.json: the activation "mish" is not supported',
    ),
    "cross attention": (
        Kind(change={"add_cross_attention": True}), lambda _: None, "add_cross_attention"
    ),
    "another architecture": (
        Kind(), _config(model_type="gpt_neo"), 'model_type: .* found the text "gpt_neo"'
    ),
    "quantised by others": (
        Kind(), _config(quantization_config={"bits": 4}), "quantization_config: not supported"
    ),
    "pruned": (Kind(), _config(pruned_heads={"0": [1]}), "pruned_heads: not supported"),
    "pickle": (Kind(), _as_pickle, "never unpickles"),
    "cut short": (Kind(), _cut, r"model.safetensors: truncated \(.* bytes, expected"),
    "no index": (
        Kind(shards=True),
        lambda path: (path / "model.safetensors.index.json").unlink(),
        r"model-00001-of-.* need model\.safetensors\.index\.json",
    ),
    "a shard": (
        Kind(shards=True),
        lambda path: next(path.glob("model-00002-of-*")).unlink(),
        r"1 of \d+ shards missing \(model-00002-of-",
    ),
    "other width": (Kind(), _config(n_embd=64), "emb_dim: the file has 32, the config says 64"),
    "other inner width": (
        Kind(), _config(n_inner=100), "n_inner: the file has 128, the config says 100"
    ),
    "other depth": (Kind(), _config(n_layer=5), "n_layers: the file has 2, the config says 5"),
    "other context": (
        Kind(), _config(n_positions=65), "context_length: the file has 64, the config says 65"
    ),
    "a tensor": (
        Kind(),
        _tensors(lambda all: all.pop("transformer.h.1.ln_2.bias")),
        r"1 tensor missing \(transformer\.h\.1\.ln_2\.bias\)",
    ),
    "renamed": (
        Kind(),
        _tensors(lambda all: all.update(rotary=all.pop("transformer.ln_f.bias"))),
        r"1 tensor missing \(transformer\.ln_f\.bias\), 1 tensor unexpected \(rotary\)",
    ),
    "foreign names": (
        Kind(),
        _tensors(lambda all: (all.clear(), all.update({"encoder.x": torch.ones(1)}))),
        r"no weights of a GPT-2 in it \(found encoder\.x, expected wte\.weight",
    ),
    "not a number": (
        Kind(),
        _tensors(lambda all: all["transformer.ln_f.bias"].fill_(torch.nan)),
        r'"transformer\.ln_f\.bias" holds 32 NaN values',
    ),
    "integers": (
        Kind(),
        _tensors(lambda all: all.update({"transformer.ln_f.bias": torch.ones(32).int()})),
        r'"transformer\.ln_f\.bias" is I32; weights must be',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "damage", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_the_reason_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Kind, damage: Damage, reason: str
) -> None:
    save(kind, tmp_path, expect_texts=False)
    damage(tmp_path)
    capsys.readouterr()
    assert run(["generate", "-m", str(tmp_path), "--greedy", "The dog"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"gptcli: error: {tmp_path}")
    assert captured.err.count("\n") == 1
    assert re.search(reason, captured.err), captured.err


def test_what_cannot_run_is_counted_and_inspected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(Kind(change={"activation_function": "mish"}), tmp_path, expect_texts=False)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters()
    capsys.readouterr()
    assert run(["count-params", str(tmp_path), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["targets"][0]["parameters"]
    assert counts["total"] == expected
    assert run(["inspect", str(tmp_path)]) == 0
    assert "mish" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_writes_the_same(tmp_path: Path) -> None:
    """As a process of its own, through a pipe."""
    kinds = (KINDS[0], Kind(shards=True, prefix="module.", dtype="bfloat16"))
    for number, kind in enumerate(kinds):
        directory = tmp_path / str(number)
        directory.mkdir()
        for text in save(kind, directory):
            command = ["generate", "-m", str(directory), "--greedy", "-n", str(NEW_TOKENS)]
            done = subprocess.run(
                [sys.executable, "-m", "gptcli", *command, "--json", text.prompt],
                capture_output=True,
                text=True,
                check=True,
            )
            assert json.loads(done.stdout)["ids"] == text.ids


def test_what_is_odd_and_no_error_is_said_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = save(Kind(saved_class="GPT2DoubleHeadsModel"), tmp_path)
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 999}))
    capsys.readouterr()
    command = ["generate", "-m", str(tmp_path), "--greedy", "-n", "1", "--json"]
    assert run([*command, texts[0].prompt]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["ids"] == texts[0].ids[:1]
    assert "left out multiple_choice_head.summary.bias" in captured.err
    assert "999 is outside" in captured.err
    assert run([*command, "--quiet", texts[0].prompt]) == 0
    assert capsys.readouterr().err == ""
