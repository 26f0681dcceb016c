"""The kernels' own threads: shared, interrupted, forked, more than there are processors."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_models import random_weights

from gptcli.engine import library
from gptcli.engine.build_kernels import SOURCES, find_compiler
from gptcli.engine.native import MAX_ROWS, NativeEngine, Span
from gptcli.model.config import GPTConfig

pytestmark = pytest.mark.skipif(
    library.why_unavailable() is not None, reason="needs the kernels, and so a C compiler"
)

SMALL = GPTConfig(vocab_size=61, context_length=40, emb_dim=32, n_heads=4, n_layers=2)
IDS = [1, 2, 3]


def logits(model: NativeEngine) -> np.ndarray[Any, Any]:
    return model.step([Span(model.new_cache(8), IDS, len(IDS))])


def test_more_threads_than_processors_finish_every_step() -> None:
    models = [NativeEngine(SMALL, random_weights(SMALL), threads=n) for n in (1, 2, 5, 16)]
    expected = logits(models[0])
    for _ in range(300):
        for model in models[1:]:
            assert (logits(model) == expected).all()


STEPS_BESIDE_BUSY_PROCESSES = """
import sys
from native_models import random_weights
from gptcli.engine.native import NativeEngine, Span
from gptcli.model.config import GPTConfig

config = GPTConfig(vocab_size=61, context_length=40, emb_dim=32, n_heads=4, n_layers=2)
model = NativeEngine(config, random_weights(config), threads=int(sys.argv[1]))
for _ in range(20000):
    model.step([Span(model.new_cache(8), [1, 2, 3], 3)])
"""


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_no_step_hangs_where_threads_are_descheduled_at_any_moment(threads: int) -> None:
    """A thread that ended a run and was stopped there once took the next run's work away."""
    helpers = str(Path(__file__).parents[1] / "helpers")
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        subprocess.run(
            [sys.executable, "-c", STEPS_BESIDE_BUSY_PROCESSES, str(threads)],
            check=True,
            timeout=100,
            env={**os.environ, "PYTHONPATH": helpers},
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize("flags", [["-O2"], ["-O1", "-g", "-fsanitize=thread"]])
def test_each_chunk_is_done_once_and_all_threads_agree(tmp_path: Path, flags: list[str]) -> None:
    program = tmp_path / "pool_stress"
    sources = [str(Path(__file__).with_name("pool_stress.c")), str(SOURCES / "pool.c")]
    command = [*find_compiler(), "-std=gnu11", *flags, f"-I{SOURCES}", *sources, "-pthread"]
    if subprocess.run([*command, "-o", str(program)], check=False).returncode:
        pytest.skip("needs a compiler with ThreadSanitizer")
    # ThreadSanitizer cannot run beside AddressSanitizer, which `.ci/sanitizers` loads first.
    alone = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    for threads in ("2", "3", "8"):
        command = [str(program), threads, "2000"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=100, check=False, env=alone
        )
        if "unexpected memory mapping" in done.stderr:
            pytest.skip("ThreadSanitizer does not run on this system")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_models_may_be_used_from_several_python_threads() -> None:
    models = [NativeEngine(SMALL, random_weights(SMALL, seed=n), threads=2) for n in range(3)]
    expected = [logits(model) for model in models]
    wrong: list[int] = []

    def use(number: int) -> None:
        for _ in range(100):
            if not (logits(models[number]) == expected[number]).all():
                wrong.append(number)

    users = [threading.Thread(target=use, args=(n % 3,)) for n in range(6)]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
    assert not wrong


def test_a_fork_while_other_threads_compute_hangs_nobody() -> None:
    model = NativeEngine(SMALL, random_weights(SMALL), threads=3)
    expected, stop = logits(model), threading.Event()

    def use() -> None:
        while not stop.is_set():
            logits(model)

    def in_child(queue: Any) -> None:
        fresh = NativeEngine(SMALL, random_weights(SMALL), threads=3)
        queue.put(bool((logits(fresh) == expected).all()))

    user = threading.Thread(target=use)
    user.start()
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        queue = context.SimpleQueue()
        child = context.Process(target=in_child, args=(queue,))
        child.start()
        assert queue.get()
        child.join(30)
        assert child.exitcode == 0
    stop.set()
    user.join(30)
    assert (logits(model) == expected).all()


def test_an_interrupt_is_heard_between_the_parts_of_a_long_step() -> None:
    """And the cache holds nothing of a step that was not finished."""
    length = 8 * MAX_ROWS
    config = GPTConfig(vocab_size=61, context_length=length, emb_dim=64, n_heads=1, n_layers=4)
    model = NativeEngine(config, random_weights(config), threads=2)
    ids = [n % 61 for n in range(length)]
    cache = model.new_cache()
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()

    def compute() -> None:
        start = time.monotonic()
        while time.monotonic() < start + 30:
            cache.truncate(0)
            model.step([Span(cache, ids, 0)])

    with pytest.raises(KeyboardInterrupt):
        compute()
    timer.join()
    assert cache.length in {0, len(ids)}
    cache.truncate(0)
    assert np.isfinite(model.step([Span(cache, ids[:5])])).all()
