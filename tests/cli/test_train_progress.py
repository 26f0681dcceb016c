import io
import sys

import pytest

from gptcli.cli.render import console
from gptcli.cli.render.train_progress import View, duration
from gptcli.train.state import Progress
from gptcli.train.trainer import Report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(step: int, bits: float | None = None) -> Report:
    return Report(step, 2.5, 1e-3, 1000 * step, 0.1 * step, bits, bits is not None)


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, leads: bool = True) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with View(40, Progress(), leads) as view:
        for step in range(1, 41):
            view.show(report(step, 1.25 if step == 20 else None))
    return stream.getvalue()


def test_without_a_terminal_there_are_a_few_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(io.StringIO(), monkeypatch).splitlines()
    assert [line.split()[1] for line in lines] == ["1/40", "20/40", "40/40"]
    assert "loss 2.500" in lines[-1]
    assert "valid 1.2500 bits/byte" in lines[-1]
    assert "tok/s" in lines[-1]
    assert lines[-1].endswith("0s left")


def test_a_terminal_has_one_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = shown(Terminal(), monkeypatch)
    assert "\n" not in text
    drawn = text.split(console.CLEAR_LINE)
    assert drawn[0] == drawn[-1] == ""
    assert "####################  step 40/40" in drawn[-2]
    assert max(map(len, drawn)) <= 59


@pytest.mark.parametrize("quiet", [True, False])
def test_only_the_leader_speaks_and_only_if_it_may(
    monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setattr(console.Settings, "quiet", quiet)
    assert shown(Terminal(), monkeypatch, leads=quiet) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.7, "1m 00s"), (200, "3m 20s"), (7500, "2h 05m")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
