"""A few cases of the fuzzer, always the same ones; `checkpoints.py` says how to run many."""

import subprocess
import sys
from pathlib import Path

from engines import needs_kernels

FUZZER = Path(__file__).parent / "checkpoints.py"


@needs_kernels
def test_damaged_checkpoints_give_logits_or_one_clear_error() -> None:
    command = [sys.executable, str(FUZZER), "--cases", "150"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "computed" in done.stdout, "every case was refused"
