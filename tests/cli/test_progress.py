"""Progress lines as a terminal shows them, judged by pyte's screen."""

import io
import sys

import pyte
import pytest

from gptcli.cli.render import console, progress
from gptcli.cli.render.progress import BatchProgress, TrainingProgress, duration
from gptcli.train.state import Progress
from gptcli.train.trainer import StepReport

MIB = 2**20


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and keeps every state of its screen."""

    def __init__(self, columns: int = 80) -> None:
        super().__init__()
        self.screen = pyte.Screen(columns, 5)
        self.states: list[str] = []
        self._stream = pyte.Stream(self.screen)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._stream.feed(text)
        self.states.append("\n".join(line.rstrip() for line in self.screen.display).rstrip())
        return super().write(text)


def terminal_of(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> Terminal:
    """Stands in for stderr from here on; a fixture would be undone by pytest's own capturing."""
    stream = Terminal(columns)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    console.reset()
    return stream


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
@pytest.mark.parametrize("size", [0, 500 * MIB])
def test_a_download_is_one_line_that_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch, columns: int, size: int
) -> None:
    terminal = terminal_of(monkeypatch, columns)
    with progress.downloads() as report:
        report("model.safetensors\n\x1b[2J [bold]x[/bold]", 123 * MIB, size)
    assert "123.0" in "".join(terminal.states)
    assert all("\n" not in state for state in terminal.states)
    assert terminal.states[-1] == ""
    assert not terminal.screen.cursor.hidden


def test_a_wide_line_says_share_size_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with progress.downloads() as report:
        report("model.safetensors", 125 * MIB, 500 * MIB)
    assert any(
        "25%  125.0 MiB of 500.0 MiB  model.safetensors" in state for state in terminal.states
    )


def test_the_end_is_always_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with progress.downloads() as report:
        for received in range(0, 101):
            report("file", received, 100)
    assert any("100%" in state for state in terminal.states)
    assert len(set(terminal.states)) < 50


def test_without_a_download_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with progress.downloads():
        pass
    assert terminal.getvalue() == ""


def test_what_is_printed_while_a_bar_stands_keeps_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with progress.ProgressLine() as line:
        line.draw("working", 1, 10)
        line.clear()
        console.notice("something happened")
        line.draw("done", 10, 10)
    assert terminal.states[-1] == "something happened"


def test_a_log_has_a_line_for_each_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    console.reset()
    with progress.downloads() as report:
        report("a", 1, 2 * MIB)
        report("a", 2, 2 * MIB)
        report("b", 0, 0)
    assert capsys.readouterr().err == "downloading a (2.0 MiB)\ndownloading b\n"


def test_quiet_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    console.Settings.quiet = True
    with progress.downloads() as report:
        report("a", 1, 2)
    console.reset()
    assert terminal.getvalue() == ""


def test_reading_is_shown_for_large_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with progress.reading(progress.LARGE_BYTES - 1) as report:
        report("x", 5)
    assert terminal.getvalue() == ""
    with progress.reading(progress.LARGE_BYTES) as report:
        report("x", progress.LARGE_BYTES // 4)
    assert any("25%  16.0 MiB of 64.0 MiB  x" in state for state in terminal.states)
    assert terminal.states[-1] == ""


class Input:
    """As much of a batch's input as its progress looks at."""

    def __init__(self, size: int | None) -> None:
        self.size, self.position = size, 0


@pytest.mark.parametrize("size", [100, None])
def test_a_batch_tells_its_counts_and_its_failures(
    monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    terminal = terminal_of(monkeypatch)
    from gptcli.batch.runner import Tally

    source = Input(size)
    with BatchProgress(Tally(ok=1234, failed=1), source) as shown:  # type: ignore[arg-type]
        shown.start()
        source.position = 50
        shown.update(10)
        shown.failed(3, "bad_json", "not JSON")
        source.position = 100
        shown._next = 0.0
        shown.update(20)
    assert any("1,235 records" in state and "1 failed" in state for state in terminal.states)
    assert terminal.states[-1] == "line 3: bad_json: not JSON"


def report(step: int, bits: float | None = None) -> StepReport:
    return StepReport(step, 2.5, 1e-3, 1000 * step, 0.1 * step, bits, bits is not None)


def train(*, is_leader: bool = True) -> None:
    with TrainingProgress(40, Progress(), is_leader) as view:
        for step in range(1, 41):
            view.show(report(step, 1.25 if step == 20 else None))


def test_a_training_log_has_a_few_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    train()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/40", "20/40", "40/40"]
    assert "loss 2.500" in lines[-1]
    assert "valid 1.2500 bits/byte" in lines[-1]
    assert "tok/s" in lines[-1]
    assert lines[-1].endswith("0s left")


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_a_training_has_one_line_that_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    terminal = terminal_of(monkeypatch, columns)
    train()
    assert any("step 40/40" in state for state in terminal.states)
    assert all("\n" not in state for state in terminal.states)
    assert terminal.states[-1] == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_only_the_leader_speaks_and_only_if_it_may(
    monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    terminal = terminal_of(monkeypatch)
    monkeypatch.setattr(console.Settings, "quiet", quiet)
    train(is_leader=quiet)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.7, "1m 00s"), (200, "3m 20s"), (7500, "2h 05m")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
