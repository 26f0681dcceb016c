"""Data-parallel training: the process group and its end."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# An optimizer's step is what imports most of torch.distributed.
SCRIPT = """
from pathlib import Path
import torch
from gptcli.train.distributed import process_group

with process_group("cpu") as group:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    torch.optim.AdamW([weight]).step()
    assert group.total(1) == 2
print(*sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads thread names in /proc")
def test_no_thread_of_gloo_outlives_the_group() -> None:
    """One that does can abort the process while Python shuts down."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **shared, "RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""},
        )
        for rank in range(2)
    ]
    threads = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "gloo" not in "".join(threads)
