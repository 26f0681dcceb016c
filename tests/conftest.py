"""Fixtures that several test files use."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Several tests run at once: threads that wait for their next product leave the processor to them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine is no failure: nothing here is held to a time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


# A background job ignores Ctrl-C, one under nohup the end of its terminal too, and so would every
# command that a test ends by them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_teardown() -> None:
    """A command that a test ran in this process has made tiny floats 0 in it: not for the next."""
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """What a command sets for its own process (huge pages, threads) is not for the next test's."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data beside the repository, which a plain checkout lacks."""
    path = Path(__file__).parent.parent.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the data folder ../shared")
    return path


@pytest.fixture(scope="session")
def tiktoken_cache(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TIKTOKEN_CACHE_DIR with GPT-2's encoding."""
    path = tmp_path_factory.mktemp("tiktoken")
    script = shared / "tools" / "tiktoken-cache.sh"
    command = ["bash", str(script), str(path)]
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    return path
