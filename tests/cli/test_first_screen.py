"""What a command prints without options fits a screen.

That is 23 lines and the shell's next prompt, or 40 where there is more to say.
"""

import pytest

from gptcli.checkpoint.presets import PRESETS
from gptcli.cli import run


def lines(capsys, *arguments):
    assert run(list(arguments)) == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("command", ["count-params", "inspect"])
def test_a_preset_fits_a_screen(capsys, command, preset):
    short = lines(capsys, command, preset)
    assert len(short) <= 23
    assert len(lines(capsys, command, preset, "--details")) > len(short)


def test_the_models_fit_a_screen(capsys):
    assert len(lines(capsys, "models")) <= 23


def test_statistics_fit_a_screen(capsys):
    assert len(lines(capsys, "inspect", "--stats")) <= 23


def test_a_comparison_fits_in_40_lines(capsys):
    assert len(lines(capsys, "inspect", "gpt2-124m", "gpt2-1558m")) <= 40


@pytest.mark.parametrize("text", ["Once", "Once upon a time, there was a little girl. " * 10])
def test_a_prompt_fits_in_40_lines(capsys, text):
    assert len(lines(capsys, "inspect", "--prompt", text)) <= 40


def test_gradients_fit_a_screen(capsys):
    assert len(lines(capsys, "inspect", "--gradients")) <= 23


def test_the_sizes_of_gpt2_are_explained_in_one_sentence(capsys):
    out = " ".join(" ".join(lines(capsys, "count-params", "gpt2-124m")).split())
    assert "total 163,009,536" in out
    assert "if tied 124,412,160" in out
    assert "124M or 163M?" in out
