"""Memory by arithmetic, each figure against a run of our own code in a fresh process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizer_files import byte_ranks, write_ranks

from gptcli.checkpoint.load import save
from gptcli.checkpoint.presets import PRESETS, preset_config
from gptcli.engine import native, quantize
from gptcli.engine.library import why_unavailable
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained
from gptcli.model.memory_estimate import (
    DTYPES,
    GROUP,
    PREFILL_TOKENS,
    generation_memory,
    largest_model,
    scaled_to_heads,
    training_memory,
)
from gptcli.model.parameters import count

MODEL = GPTConfig(
    vocab_size=3000, context_length=256, emb_dim=512, n_heads=8, n_layers=6, drop_rate=0.0
)
TOY = GPTConfig(vocab_size=300, context_length=32, emb_dim=64, n_heads=2, n_layers=1)

# Peak and current resident bytes above those of the same run with a toy model, which has loaded
# and warmed up all that does not depend on the size.
MEASURE = """
import json, sys
from gptcli.generation.scheduler import Job, Scheduler
from gptcli.core.memory import peak_bytes, resident_bytes
from gptcli.generation.llm import LLM
from gptcli.generation.model_spec import ModelSpec
from gptcli.sampling.params import SamplingParams
from gptcli.generation.sequence import Sequence

def write(directory, texts, tokens, width):
    how = {"quantize": width} if width in {"int8", "int4"} else {"dtype": width}
    engine = LLM.load(ModelSpec(model=directory, threads=1, engine="native", **how)).engine
    loaded = resident_bytes()
    new = tokens // 8  # so many that the last prompt is read before the first text ends
    params = SamplingParams(max_new_tokens=new)
    jobs = [
        Job(Sequence(prompt=[1] * (tokens - new), params=params, context=tokens, seed=n))
        for n in range(texts)
    ]
    assert len(list(Scheduler(engine, texts).run(jobs))) == texts
    return loaded

def train(directory, rows, tokens, _):
    import torch, torch.nn.functional as F
    from gptcli.checkpoint.resolve import resolve
    from gptcli.model.gpt import untrained
    torch.manual_seed(0)
    model = untrained(resolve(directory).config, 0).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    for part in (1, 2, 3, 4):  # the second time all there is to keep is kept
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        if part % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
    return 0

order = json.loads(sys.argv[1])
what = {"write": write, "train": train}[order["what"]]
what(order["toy"], 2, 32, order["width"])
base = resident_bytes()
loaded = what(order["model"], order["texts"], order["tokens"], order["width"])
peak = peak_bytes()  # ru_maxrss would begin at that of the process that started this one
print(json.dumps({"loaded": loaded - base, "peak": peak - base}))
"""


def measured(directory, what, config, texts, tokens, *, width=None):
    """What a process took; glibc gives back at once what is larger than 64 KiB."""
    order = {"what": what, "texts": texts, "tokens": tokens}
    for name, model in {"model": config, "toy": TOY}.items():
        save(untrained(replace(model, tokenizer="b.tiktoken"), 0), directory / name)
        write_ranks(directory / name / "b.tiktoken", byte_ranks())
        order[name] = str(directory / name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(order | {"width": width})],
        env=os.environ | EXACT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


# Memory to the page: what is freed goes back at once, and no page is a huge one.
EXACT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "THP_MEM_ALLOC_ENABLE": "0",
    "NUMPY_MADVISE_HUGEPAGE": "0",
}

needs_kernels = pytest.mark.skipif(why_unavailable() is not None, reason="kernels are not built")
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")


@needs_proc
@needs_kernels
@pytest.mark.parametrize("tie", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize(
    "width", [pytest.param(d, marks=[pytest.mark.slow] * (d != "float32")) for d in DTYPES]
)
def test_running_takes_what_is_said(tmp_path, width, tie):
    config = replace(MODEL, tie_weights=tie)
    found = measured(tmp_path, "write", config, 24, 128, width=width)
    told = generation_memory(config, width, 24, 128)
    assert found["loaded"] == pytest.approx(told.weights, rel=0.05)
    assert found["peak"] == pytest.approx(told.total, rel=0.1)


@needs_proc
@needs_kernels
@pytest.mark.parametrize("width", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
def test_a_large_head_takes_more_while_it_is_rounded(tmp_path, width):
    config = replace(MODEL, vocab_size=40_000, tie_weights=True)
    found = measured(tmp_path, "write", config, 2, 32, width=width)
    told = generation_memory(config, width, 2, 32)
    assert told.loading > told.total  # embedding and head in float
    assert found["peak"] == pytest.approx(told.loading, rel=0.1)


@needs_proc
@pytest.mark.parametrize("drop_rate", [0.0, 0.1])
def test_training_takes_what_is_said(tmp_path, drop_rate):
    config = replace(MODEL, drop_rate=drop_rate, emb_dim=256, n_heads=4, n_layers=3)
    found = measured(tmp_path, "train", config, 3, 256)
    assert found["peak"] == pytest.approx(training_memory(config, 3, 256).total, rel=0.1)


def test_constants_are_those_of_the_code():
    assert native.MAX_ROWS == PREFILL_TOKENS
    assert quantize.GROUP == GROUP


def test_the_known_shares_of_training():
    told = training_memory(MODEL, 1, 1)
    assert told.weights == told.gradients == told.optimizer // 2 == 4 * count(MODEL).total


def test_memory_grows_with_every_size():
    for change in ({"n_layers": 7}, {"emb_dim": 576}, {"vocab_size": 3001}):
        larger = replace(MODEL, **change)
        for dtype in DTYPES:
            assert (
                generation_memory(larger, dtype, 1, 64).total
                > generation_memory(MODEL, dtype, 1, 64).total
            )
        assert training_memory(larger, 1, 64).total > training_memory(MODEL, 1, 64).total
    assert (
        generation_memory(MODEL, "int8", 2, 64).total
        > generation_memory(MODEL, "int8", 1, 64).total
    )
    assert (
        generation_memory(MODEL, "int8", 1, 65).total
        > generation_memory(MODEL, "int8", 1, 64).total
    )


GPT2 = preset_config(PRESETS["gpt2-124m"])
SMALL = GPTConfig(vocab_size=40, context_length=16, emb_dim=24, n_heads=3, n_layers=5)


@pytest.mark.parametrize("budget", [1, 10_000, 100_000, 1_234_567, 9_999_999])
def test_no_larger_relative_fits_and_no_smaller_is_chosen(budget):
    all_of_them = [scaled_to_heads(SMALL, heads) for heads in range(1, 200)]
    fitting = [one for one in all_of_them if count(one).total <= budget]
    found = largest_model(SMALL, lambda one: count(one).total, budget)
    assert found == (fitting[-1] if fitting else None)


def test_exactly_enough_is_enough():
    def cost(one):
        return count(one).total

    needs = cost(GPT2)
    assert largest_model(GPT2, cost, needs) == GPT2
    assert largest_model(GPT2, cost, needs - 1) == scaled_to_heads(GPT2, 11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_fits_for_writing_fits_and_the_next_does_not(dtype):
    found = largest_model(
        GPT2, lambda one: generation_memory(one, dtype, 1, 1024).total, 8_000_000_000
    )
    assert generation_memory(found, dtype, 1, 1024).total <= 8_000_000_000
    larger = scaled_to_heads(GPT2, found.n_heads + 1)
    assert generation_memory(larger, dtype, 1, 1024).total > 8_000_000_000
    assert (found.head_dim, found.vocab_size) == (64, 50257)
    assert found.emb_dim / found.n_layers == pytest.approx(64, rel=0.02)


def test_less_fits_for_training_than_for_writing():
    write = largest_model(
        GPT2, lambda one: generation_memory(one, "float32", 1, 1024).total, 8_000_000_000
    )
    train = largest_model(GPT2, lambda one: training_memory(one, 1, 1024).total, 8_000_000_000)
    assert count(train).total < count(write).total / 3


def test_an_endless_budget_ends_at_what_a_config_may_have():
    found = largest_model(replace(SMALL, n_layers=1), lambda one: count(one).total, 1 << 200)
    assert found.emb_dim == (1 << 20) // 8 * 8
    assert largest_model(replace(SMALL, n_layers=99), lambda _one: 0, 0).n_layers <= 100_000
