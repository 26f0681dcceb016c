"""Layers made straight from files: the same bits as by way of the book's model, held once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_load import CONFIG, FORMS, IDS, ORACLE, Weights, book, huggingface, nanogpt, written

from gptcli.checkpoint.header import read_headers
from gptcli.checkpoint.layouts import EMBEDDING
from gptcli.checkpoint.load import load_fast, load_model, save
from gptcli.checkpoint.resolve import Target, resolve
from gptcli.checkpoint.streamed import FileRows
from gptcli.core.errors import InputError, RunError
from gptcli.engine.fast import FastGPT
from gptcli.engine.quantize import Width
from gptcli.model.gpt import untrained


def assert_as_by_the_model(
    target: Target, width: Width | None = None, dtype: torch.dtype = torch.float32
) -> FastGPT:
    fast = load_fast(target, width, dtype=dtype)
    other = FastGPT(load_model(target, dtype=dtype), width)
    assert fast.config == other.config
    assert torch.equal(fast(IDS), other(IDS))
    return fast


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layout_gives_the_same_bits(
    tmp_path: Path, form: Callable[[], Weights], dtype: torch.dtype
) -> None:
    fast = assert_as_by_the_model(written(tmp_path, form()), dtype=dtype)
    if dtype == torch.float32:
        torch.testing.assert_close(fast(IDS), ORACLE(IDS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", [huggingface, nanogpt, book])
def test_rounding_gives_the_same_bits(tmp_path: Path, form: Callable[[], Weights]) -> None:
    assert_as_by_the_model(written(tmp_path, form()), "int8")


@pytest.mark.parametrize("width", ["int8", "int4", None])
@pytest.mark.parametrize("tie", [True, False])
def test_a_saved_model_gives_the_same_bits(tmp_path: Path, width: Width | None, tie: bool) -> None:
    save(untrained(replace(CONFIG, emb_dim=64, n_heads=4, tie_weights=tie), 3), tmp_path)
    assert_as_by_the_model(resolve(str(tmp_path)), width)


@pytest.mark.parametrize("width", [None, "int8"])
def test_a_head_of_its_own_is_used(tmp_path: Path, width: Width | None) -> None:
    weights = book() | {"out_head.weight": ORACLE.lm_head.weight + 0.1}
    fast = assert_as_by_the_model(written(tmp_path, weights), width)
    assert not fast.config.tie_weights


def test_biases_that_are_not_there_are_zeros(tmp_path: Path) -> None:
    weights = {name: w for name, w in nanogpt().items() if not name.endswith(".bias")}
    assert_as_by_the_model(written(tmp_path, weights, replace(CONFIG, qkv_bias=False)))


def test_a_value_that_is_not_finite_is_refused_wherever_it_is(tmp_path: Path) -> None:
    for name, weight in book().items():
        if name.endswith("mask"):
            continue
        broken = weight.clone()
        broken.view(-1)[-1] = float("nan")
        with pytest.raises(InputError, match="1 NaN"):
            load_fast(written(tmp_path, book() | {name: broken}))


@pytest.fixture
def rows(tmp_path: Path) -> FileRows:
    target = written(tmp_path, {name: w.half() for name, w in book().items()})
    (header,) = read_headers(target.weights or Path())
    return FileRows(header, header.tensors[EMBEDDING], torch.float32)


def test_rows_are_those_of_the_tensor(rows: FileRows) -> None:
    ids = torch.tensor([3, 0, 96, 3])
    expected = book()[EMBEDDING].half().float()[ids]
    assert torch.equal(rows[ids], expected)


def test_rows_stay_when_the_file_is_replaced(rows: FileRows, tmp_path: Path) -> None:
    before = rows[torch.tensor([5])]
    new = tmp_path / "new"
    new.write_bytes(b"something else")
    new.replace(tmp_path / "model.safetensors")
    assert torch.equal(rows[torch.tensor([5])], before)


def test_rows_of_a_file_that_is_rewritten_are_refused(rows: FileRows, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(RunError, match="changed while it was being read"):
        rows[torch.tensor([5])]
    path.write_bytes(b"")
    with pytest.raises(RunError, match="changed while it was being read"):
        rows[torch.tensor([5])]
