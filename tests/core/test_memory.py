"""What is available is never more than the machine or the process may have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.core.errors import RunError
from gptcli.core.memory import available_bytes, require

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own figures")


@linux
def test_no_more_is_available_than_the_machine_has() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = available_bytes()
    assert available is not None
    assert 0 < available <= total


@linux
def test_a_limit_of_the_process_counts() -> None:
    script = (
        "import resource; from gptcli.core.memory import available_bytes;"
        "resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20));"
        "print(available_bytes() >> 20)"
    )
    here = Path(__file__).parents[2]
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=here)
    assert 100 < int(result.stdout) < 300


@pytest.mark.parametrize(
    ("needed", "available", "message"),
    [
        (7e11, 23e9, "x: needs about 651.9 GiB, 21.4 GiB are available"),
        (5.94e9, 120e6, "x: needs about 5.5 GiB, 114.4 MiB are available"),
        (1, 0, "x: needs about 1 byte, 0 bytes are available"),
    ],
)
def test_what_does_not_fit_is_refused(needed: float, available: int, message: str) -> None:
    with pytest.raises(RunError, match=message):
        require("x", needed, int(available))


def test_what_fits_or_cannot_be_known_passes() -> None:
    require("x", 100, 100)
    require("x", 1e15, None)
