"""The self-test holds here, and each of its checks notices the fault it is for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import HAS_KERNELS

from gptcli.cli import run as run_command
from gptcli.diagnostics import selftest
from gptcli.diagnostics.selftest import CHECKS, names, run
from gptcli.engine import library
from gptcli.engine.pytorch import TorchEngine

QUICK = names(quick=True)
KERNEL_CHECK = "the same bits on every processor"


@pytest.mark.parametrize("name", QUICK)
def test_every_quick_check_holds_on_this_machine(name):
    check = run(name)
    assert check.holds, (check.expected, check.found)
    assert check.seconds < 60


@pytest.mark.slow
def test_the_books_ten_tokens_come_out_here():
    check = run("the book's ten tokens")
    assert check.found == check.expected == " ".join(map(str, selftest.TOKENS))


def test_only_the_large_model_is_left_out_of_the_quick_test():
    assert set(names()) - set(QUICK) == {"the book's ten tokens"}
    assert set(CHECKS) - set(names()) == (set() if HAS_KERNELS else {KERNEL_CHECK})


class Neighbourly(TorchEngine):
    """Logits that depend on how many sequences there are; with kernels, in their last bits."""

    def step(self, spans):
        return super().step(spans) * np.float32(1 + (1e-6 if HAS_KERNELS else 0.1) * len(spans))


def crooked_gelu(x, approximate="none"):
    return torch.nn.functional.silu(x)


FAULTS = {
    "the book's parameter counts": lambda patch: patch.setitem(
        selftest.COUNTS, "gpt2-355m", (406_212_608, 354_749_441)
    ),
    "the book's gradients": lambda patch: patch.setattr(torch.nn.functional, "gelu", crooked_gelu),
    "the stream of draws": lambda patch: patch.setattr(selftest, "uniform", lambda *_name: 0.5),
    "safetensors round trip": lambda patch: patch.setattr(torch, "equal", lambda *_tensors: False),
    "tokenizer round trip": lambda patch: patch.setattr(selftest, "TEXT", "\ud800"),
    "cache and no cache": lambda patch: patch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, k, v, **_: v[..., : q.shape[2], :],
    ),
    "engine and the book's network": lambda patch: (
        patch.setattr(torch.nn.functional, "gelu", crooked_gelu)
        if HAS_KERNELS
        else patch.setattr(selftest, "engine_of", Neighbourly)
    ),
    "the same bits on every processor": lambda patch: patch.setitem(
        selftest.DIGESTS, "int8", "0" * 16
    ),
    "texts alone and together": lambda patch: patch.setattr(selftest, "engine_of", Neighbourly),
}


def test_there_is_a_fault_for_every_quick_check():
    assert FAULTS.keys() - (set() if HAS_KERNELS else {KERNEL_CHECK}) == set(QUICK)


@pytest.mark.parametrize("name", QUICK)
def test_every_check_notices_a_fault(name, monkeypatch):
    FAULTS[name](monkeypatch)
    check = run(name)
    assert not check.holds
    assert check.found != check.expected


def test_an_error_inside_is_what_was_found(monkeypatch):
    def broken(*_name):
        raise ZeroDivisionError("\x1b[31m")

    monkeypatch.setattr(selftest, "uniform", broken)
    check = run("the stream of draws")
    assert not check.holds
    assert check.found == r"ZeroDivisionError: \x1b[31m"


def test_what_deviates_is_named_and_ends_with_one(monkeypatch, capsys):
    monkeypatch.setattr(selftest, "uniform", lambda *_name: 0.5)
    assert run_command(["selftest", "--quick"]) == 1
    out = capsys.readouterr().out
    assert "DEVIATES  the stream of draws" in out
    assert f"1 of {len(QUICK)} checks deviate" in out
    assert "expected  0.459095" in out
    assert run_command(["selftest", "--quick", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gptcli.selftest/1"
    assert not document["holds"]
    wrong = [check["name"] for check in document["checks"] if not check["holds"]]
    assert wrong == ["the stream of draws"]


@pytest.fixture
def no_kernels(monkeypatch, tmp_path):
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(tmp_path / "kernels.so"))
    return tmp_path / "kernels.so"


def test_without_a_compiler_the_kernels_are_left_out_and_said_so(no_kernels, capsys):
    assert run_command(["selftest", "--quick"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "DEVIATES" not in out
    assert KERNEL_CHECK not in out
    assert "the kernels were not checked" in out
    assert "needs a C compiler" in out
    assert run_command(["selftest", "--quick", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["holds"]
    assert "needs a C compiler" in document["machine"]["kernels"]


def test_without_a_compiler_a_wrong_answer_still_ends_with_one(no_kernels, monkeypatch, capsys):
    monkeypatch.setattr(selftest, "uniform", lambda *_name: 0.5)
    assert run_command(["selftest", "--quick"]) == 1
    assert "1 of 8 checks deviate" in capsys.readouterr().out


def test_kernels_that_cannot_be_loaded_deviate(no_kernels, capsys):
    no_kernels.write_bytes(b"no library")
    assert run_command(["selftest", "--quick"]) == 1
    assert f"DEVIATES  {KERNEL_CHECK}" in capsys.readouterr().out


def test_the_random_state_of_the_caller_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run("the book's gradients")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_command_runs_anywhere_and_needs_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gptcli", "selftest", "--quick", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(done.stdout)
    assert document["holds"]
    assert [check["name"] for check in document["checks"]] == QUICK
    assert document["machine"]["torch"] == torch.__version__
    assert list(tmp_path.iterdir()) == []
