import io
import sys

import pytest

from gptcli.cli.render import console, progress

MIB = 2**20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    console.reset()
    return stream


@pytest.mark.parametrize("width", [1, 20, 40, 60, 200])
@pytest.mark.parametrize("size", [0, 500 * MIB])
def test_a_bar_is_one_line_narrower_than_the_terminal(width: int, size: int) -> None:
    line = progress.bar("model.safetensors\n\x1b[2J", 123 * MIB, size, width)
    assert len(line) < width
    assert line.isprintable()


def test_a_wide_bar_says_share_size_and_name() -> None:
    line = progress.bar("model.safetensors", 125 * MIB, 500 * MIB, 100)
    assert line == " 25%  125.0 of 500.0 MiB  model.safetensors  ######.................."


def test_a_terminal_sees_the_end_and_an_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with progress.downloads() as report:
        for received in range(0, 101):
            report("file", received, 100)
    drawn = stream.getvalue().split(console.CLEAR_LINE)
    assert drawn[-1] == ""
    assert drawn[-2].startswith("100%")
    assert len(drawn) < 50


def test_without_a_download_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with progress.downloads():
        pass
    assert stream.getvalue() == ""


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


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    console.reset()
    console.Settings.quiet = True
    with progress.downloads() as report:
        report("a", 1, 2)
    console.reset()
    assert capsys.readouterr().err == ""
