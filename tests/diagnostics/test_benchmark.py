"""The measurements: what they count, what they relate, how they are shown. No speed is asserted."""

import json
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
from engines import engine_of, needs_kernels

from gptcli.core.errors import UsageError
from gptcli.diagnostics.benchmark import Report, Run, Spread, report, run
from gptcli.diagnostics.machine import Machine
from gptcli.diagnostics.workload import Workload, fitted
from gptcli.engine import quantize
from gptcli.model import memory_estimate
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, untrained
from gptcli.model.memory_estimate import decode_bytes, weight_bytes
from gptcli.model.parameters import decode_flops, forward_flops, prefill_flops

CONFIG = GPTConfig(vocab_size=128, context_length=48, emb_dim=64, n_heads=4, n_layers=2)
WORK = Workload(prefill=16, prompt=4, new_tokens=5, rows=3, row_tokens=3, runs=2, product=64)
TINY = ["--prefill", "8", "-n", "3", "--rows", "2", "--row-tokens", "2", "--product", "64"]


def run_of(**seconds: float | None) -> Run:
    """A run that took these seconds on a machine of 1 GB/s and 1 GFLOP/s."""
    times = {
        "load": 1.0,
        "prefill": 2.0,
        "first": 0.5,
        "decode": 4.0,
        "batch": 3.0,
        "outside_engine": 1.0,
    }
    return Run(**(times | seconds), peak=None, machine=Machine(0.5e9, 1e9, 1e9))  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_reads_all_parameters_but_the_embeddings(dtype: torch.dtype, tied: bool) -> None:
    config = GPTConfig(**asdict(CONFIG) | {"tie_weights": tied, "qkv_bias": tied})
    model = GPTModel(config).to(dtype)
    read = [p for name, p in model.named_parameters() if "_emb" not in name]
    read += [model.out_head.weight] if tied else []  # listed under its other name
    name = str(dtype).removeprefix("torch.")
    assert weight_bytes(config, name) == sum(p.numel() * p.element_size() for p in read)


@pytest.mark.parametrize("width", ["int8", "int4"])
def test_quantised_weights_are_counted_as_they_are_stored(width: str) -> None:
    assert memory_estimate.GROUP == quantize.GROUP
    model = GPTModel(CONFIG)
    stored = 0
    for name, p in model.named_parameters():
        if "_emb" in name:
            continue
        if p.dim() == 1:
            stored += 4 * p.numel()
        elif width == "int8" or "out_head" in name:
            made = quantize.to_int8(p.detach().numpy())
            stored += made.values.nbytes + made.scales.nbytes
        else:
            stored += sum(part.nbytes for part in quantize.to_int4(p.detach().numpy()))
    assert weight_bytes(CONFIG, width) == stored


def test_keys_and_values_are_moved_too() -> None:
    cache = untrained(CONFIG, 0).new_cache(capacity=7)
    moved = decode_bytes(CONFIG, "float32", 7) - weight_bytes(CONFIG, "float32")
    assert moved == cache.store.nbytes


def test_flops_of_many_tokens_are_the_sums_of_each() -> None:
    head = 2 * CONFIG.vocab_size * CONFIG.emb_dim
    each = [forward_flops(CONFIG, seen) for seen in range(1, 11)]
    assert prefill_flops(CONFIG, 10) == sum(each) - 9 * head
    assert decode_flops(CONFIG, 4, 6) == sum(each[4:])


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs_kernels)])
def test_a_run_measures_everything(native: bool) -> None:
    made = run(lambda: engine_of(untrained(CONFIG, 0)), WORK, "float32", 2, native=native)
    times = [made.load, made.prefill, made.first, made.decode, made.batch, made.outside_engine]
    assert all(seconds is not None and seconds > 0 for seconds in times)
    rates = [made.machine.read, made.machine.copy, made.machine.product]
    assert all(rate > 0 for rate in rates)
    assert made.machine.memory == max(made.machine.read, made.machine.copy)


@needs_kernels
@pytest.mark.parametrize("width", ["int8", "int4"])
def test_every_width_is_measured(width: str) -> None:
    made = run(lambda: engine_of(untrained(CONFIG, 0), width), WORK, width, 2)
    assert made.decode > 0
    assert made.machine.product > 0


def test_no_rows_leave_out_the_batch() -> None:
    work = Workload(**asdict(WORK) | {"rows": 0})
    made = run(lambda: engine_of(untrained(CONFIG, 0)), work, "float32", 2)
    said = report([made], CONFIG, work, "float32")
    assert made.batch is None
    assert said.batch is None
    assert said.batch_matmul is None


def test_the_report_by_hand() -> None:
    runs = [run_of(), run_of(decode=2.0, batch=6.0), run_of(decode=8.0, batch=4.5)]
    said = report(runs, CONFIG, WORK, "float32")
    assert said.decode == Spread(1.0, 0.5, 2.0)  # 4 tokens after the first
    assert said.token == Spread(1.0, 0.5, 2.0)
    assert said.outside_engine == Spread(0.25, 0.25, 0.25)
    assert said.prefill == Spread(8.0, 8.0, 8.0)
    assert said.batch == Spread(2.0, 1.5, 3.0)  # 9 tokens
    # Tokens 2 to 5 see 5 to 8 tokens: 4 of the prompt and those before them.
    moved = sum(decode_bytes(CONFIG, "float32", seen) for seen in (5, 6, 7, 8))
    assert said.memory.model.median == pytest.approx(moved / 4)
    assert said.memory.machine.median == 1e9
    assert said.memory.share.median == pytest.approx(moved / 4 / 1e9)
    assert said.prefill_matmul.model.median == pytest.approx(prefill_flops(CONFIG, 16) / 2)


def test_a_short_context_shortens_what_was_not_asked_for() -> None:
    assert fitted(1024) == Workload()
    work = fitted(48, rows=2)
    assert (work.prefill, work.prompt, work.new_tokens, work.rows) == (48, 24, 25, 2)
    assert fitted(48, prompt=40).new_tokens == 9
    for context in (2, 3, 8):
        work = fitted(context)
        longest = work.prompt + max(work.new_tokens, work.row_tokens)
        assert max(work.prefill, longest - 1) <= context


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prefill": 49}, "prefill: must be <= 48"),
        ({"prompt": 48}, "prompt: must be <= 47"),
        ({"new_tokens": 26}, "new_tokens: must be <= 25"),
        ({"new_tokens": 1}, "new_tokens: must be an integer >= 2"),
        ({"runs": 0}, "runs: must be an integer >= 1"),
        ({"rows": -1}, "rows: must be an integer >= 0"),
    ],
)
def test_what_was_asked_for_is_never_changed(given: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError) as problem:
        fitted(48, **given)
    assert said in str(problem.value)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_memory_held_and_its_peak() -> None:
    """In a process of its own: here, what other tests left may be freed at any time."""
    code = """
import numpy as np
from gptcli.core.memory import peak_bytes, resident_bytes
before = resident_bytes()
block = np.ones(8 << 20)
held = resident_bytes()
del block
print(before, held, resident_bytes(), peak_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, held, after, peak = map(int, done.stdout.split())
    assert held - before > 0.9 * (64 << 20)
    assert after < held
    assert peak > 0.95 * held  # the system counts in portions


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(CONFIG.to_dict()), encoding="utf-8")
    return str(path)


def benched(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gptcli", "bench", *arguments, *TINY]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_json_has_every_run_and_what_they_say(config_file: str) -> None:
    done = benched(config_file, "--json", "--runs", "2", "--quantize", "int8", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("untrained") == 1
    document = json.loads(done.stdout)
    assert document["schema"] == "gptcli.bench/1"
    assert (document["width"], document["threads"]) == ("int8", 1)
    assert document["config"] == CONFIG.to_dict()
    assert len(document["runs"]) == document["workload"]["runs"] == 2
    assert document["runs"][0].keys() == {field.name for field in fields(Run)}
    assert document["summary"].keys() == {field.name for field in fields(Report)}
    speeds = sorted(8 / one["prefill"] for one in document["runs"])
    assert document["summary"]["prefill"]["low"] == speeds[0]


def test_the_table_names_every_measure(config_file: str) -> None:
    done = benched(config_file, "-r", "1", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    for words in ("bfloat16", "prefill of 8", "decode 3", "batch, 2 x 2", "outside the engine"):
        assert words in done.stdout
    for unit in ("tok/s", "GB/s", "GFLOP/s", "ms", "iB"):
        assert unit in done.stdout


def test_numbers_that_do_not_fit_end_before_anything_is_loaded(config_file: str) -> None:
    command = [sys.executable, "-m", "gptcli", "bench", config_file, "--prefill", "49"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--prefill" in done.stderr
    assert "untrained" not in done.stderr
