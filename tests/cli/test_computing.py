"""What commands do to the process they compute in."""

import subprocess
import sys
from pathlib import Path

import pytest
from story_text import write_stories
from tiny_directory import write_tiny

# After the command, in its process: products of two threads, and how many are not 0 by their bits
# (a denormal would compare as 0 to a thread that flushes them).
SCRIPT = """
import sys
from gptcli.cli import run

assert run(sys.argv[1:]) == 0
import torch

torch.set_num_threads(2)  # decoding may have chosen one
products = torch.full((1 << 20,), 1e-30).mul(1e-10).view(torch.int32)
print(torch.get_num_threads(), int(products.count_nonzero()), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["train", "generate"])
def test_denormal_products_are_zero_in_every_thread(tmp_path: Path, command: str) -> None:
    if command == "train":
        text = write_stories(tmp_path / "stories.txt")
        shape = ["--size", "tiny", "--vocab-size", "300", "--context-length", "32"]
        arguments = [str(text), "-o", str(tmp_path / "model"), *shape, "--steps", "2"]
    else:
        arguments = ["A cat", "-m", str(write_tiny(tmp_path / "model")), "-n", "2"]
    given = [sys.executable, "-c", SCRIPT, command, *arguments, "--threads", "2"]
    done = subprocess.run(given, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "2 0"
