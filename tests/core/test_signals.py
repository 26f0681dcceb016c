import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from emission import environment

from gptcli.core import signals

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]

PATIENT = """
import os, signal, sys
from gptcli.core import signals
signals.install()
with signals.deferred() as interrupted:
    assert not interrupted()
    os.kill(os.getpid(), {first})
    assert interrupted()
    print(signals.exit_code(), flush=True)
    if {again}:
        os.kill(os.getpid(), {first})
        print("not reached", flush=True)
sys.exit(signals.exit_code())
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number, _ in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signals._State.received = 0


def child(code: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_outside_patience_a_signal_leaves_at_once_and_quietly(number: int, code: int) -> None:
    begin = "import os\nfrom gptcli.core import signals\nsignals.install()\n"
    script = f"{begin}os.kill({{}}, {number})"
    done = child(script.format("os.getpid()") + "\nprint('not reached')")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_inside_patience_the_first_signal_is_only_noted(number: int, code: int) -> None:
    done = child(PATIENT.format(first=int(number), again=False))
    assert (done.returncode, done.stdout) == (code, f"{code}\n")


def test_the_second_signal_leaves_at_once() -> None:
    done = child(PATIENT.format(first=int(signal.SIGINT), again=True))
    assert (done.returncode, done.stdout) == (130, "130\n")


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.install()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signals._handle


def test_without_handlers_nothing_is_interrupted() -> None:
    with signals.deferred() as interrupted:
        assert not interrupted()
    assert signals.exit_code() == 0


def test_a_farewell_is_written_only_when_leaving_at_once() -> None:
    script = "import os, signal\nfrom gptcli.core import signals\nsignals.install()\n"
    script += "with signals.written_at_exit('tidy'):\n    {}\n"
    leaving = child(script.format(f"os.kill(os.getpid(), {int(signal.SIGTERM)})"))
    assert (leaving.returncode, leaving.stderr) == (143, "tidy")
    assert child(script.format("pass")).stderr == ""


def test_importing_takes_no_signal_over() -> None:
    code = "import signal; b = signal.getsignal(2); import gptcli.core.signals, gptcli.cli;"
    assert child(code + "assert signal.getsignal(2) is b").returncode == 0
