import fcntl
import io
import json
import os
import pty
import re
import struct
import sys
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.cli.render import console
from gptcli.core.errors import InputError, RunError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]52;c;aGk=\x07",
    "\x9b31m",
    "\u202eabc\u2066",
    "[red]x[/red] [/INST] [link=http://x]y[/link] :smile:",
    "a" * 300,
    "tab\tand\nnewline\r\n",
    "\x00\x7f\ufeff\u2028\U000e0041",
]


@pytest.fixture(autouse=True)
def plain_settings(monkeypatch: pytest.MonkeyPatch):
    console.reset()
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    yield
    console.reset()


def written(text: str, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, **how: bool) -> str:
    monkeypatch.setattr(sys, "stdout", stream)
    output = console.Output(**how)
    for character in text:
        output.write(character, "green")
    output.end()
    return stream.getvalue()


def plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_pipe_gets_the_exact_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    end = "" if text.endswith("\n") else "\n"
    assert written(text, io.StringIO(), monkeypatch) == text + end


@pytest.mark.parametrize("text", HOSTILE)
def test_raw_sends_a_terminal_the_exact_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(text, Terminal(), monkeypatch, raw=True).rstrip("\n") == text.rstrip("\n")


@given(
    text=st.text(
        alphabet=st.one_of(
            st.characters(exclude_categories=["Cs"]), st.sampled_from("\x1b\x9b\u202e\x07[]:")
        ),
        max_size=40,
    )
)
def test_a_terminal_gets_no_control_character_and_the_whole_text(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_COLOR", "1")
        shown = written(text, Terminal(), patch)
    assert not [c for c in shown if (c < " " and c not in "\n\t") or "\x7f" <= c < "\xa0"]
    assert not set("\u202e\u2066\u200e\u061c\ufeff\u2028\u2029") & set(shown)
    ordinary = [c for c in text if c.isalnum() or c in "[]: \n\t"]
    remaining = iter(shown)
    assert all(c in remaining for c in ordinary)


def test_a_terminal_gets_styles_and_neither_markup_nor_wrapping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "[red]x[/INST] :smile: " + "y" * 200
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    output = console.Output()
    output.write(text, "green")
    assert stream.getvalue() == f"\x1b[32m{text}\x1b[0m"


def test_blanks_and_tabs_reach_a_terminal_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = "x" * 200 + "   \ty\t  \n  "
    assert written(text, Terminal(), monkeypatch) == text + "\n"
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    console.Output().write(text)
    assert stream.getvalue() == text


def test_empty_output_is_still_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written("", io.StringIO(), monkeypatch) == "\n"


@pytest.mark.parametrize(
    ("choice", "variables", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "0"}, False, False),
        ("auto", {"FORCE_COLOR": ""}, False, False),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("always", {"NO_COLOR": "1", "TERM": "dumb"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour_on_stderr(
    choice: console.ColorChoice,
    variables: dict[str, str],
    terminal: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    console.Settings.color = choice
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert console.wants_color(stream) is expected
    console.error(RunError("x", "y"))
    assert ("\x1b[" in stream.getvalue()) is expected
    assert "x: y" in stream.getvalue()


def test_the_environment_never_colours_a_piped_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not console.wants_color(sys.stdout)


@pytest.mark.parametrize("columns", ["0", "abc", "-1", "1", "99999999999999999999", ""])
def test_odd_columns_leave_a_usable_width(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert 20 <= console.width() <= console.MAX_WIDTH


def test_an_error_is_one_line_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(InputError("config.yaml", "no such file", "Name another"))
    captured = capsys.readouterr()
    assert captured.err == "gptcli: error: config.yaml: no such file. Name another\n"
    assert captured.out == ""


def test_an_error_has_at_most_20_lines_and_4_kib(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(RunError("x", "line\n" * 500))
    assert capsys.readouterr().err.count("\n") == 20
    console.error(RunError("x", "y" * 10_000))
    assert len(capsys.readouterr().err) < 4200


def test_messages_carry_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(RunError("\x1b]0;title\x07", "\x9bx"))
    console.notice("\x1b[2J")
    assert not set("\x1b\x07\x9b") & set(capsys.readouterr().err)


def test_an_internal_error_shows_its_traceback_only_with_debug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        {}["odd"]
    except LookupError as problem:
        console.internal_error(problem)
        short = capsys.readouterr().err
        console.Settings.debug = True
        console.internal_error(problem)
    assert short.startswith("gptcli: internal error: KeyError: 'odd'\nplease report; run again")
    assert "Traceback" not in short
    assert "Traceback" in capsys.readouterr().err


PROBLEM = InputError("models/story/config.yaml", "emb_dim: must be >= 1", "Correct that number")


@pytest.mark.parametrize("color", ["always", "never"])
def test_messages_on_a_narrow_terminal_break_between_words(
    color: console.ColorChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    console.Settings.color = color
    console.error(PROBLEM)
    console.notice("a notice\nof two lines, the second of which is too long")
    assert plain(stream.getvalue()).splitlines() == [
        "gptcli: error: models/story/config.yaml:",
        "emb_dim: must be >= 1. Correct that",
        "number",
        "a notice",
        "of two lines, the second of which is too",
        "long",
    ]


def test_a_word_longer_than_a_line_is_sent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    console.say(f"cannot read {'x' * 60} now")
    assert plain(stream.getvalue()).splitlines() == ["cannot read", "x" * 60, "now"]


def test_messages_in_a_log_are_not_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console.error(PROBLEM)
    assert capsys.readouterr().err.count("\n") == 1


def test_the_width_of_messages_is_that_of_their_own_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setattr(sys, "__stdout__", io.StringIO())
        assert console.width() == 100
        assert console.width(stream) == 40
    os.close(master)


def test_quiet_drops_notices_only(capsys: pytest.CaptureFixture[str]) -> None:
    console.Settings.quiet = True
    console.notice("worth knowing")
    console.say("asked for")
    assert capsys.readouterr().err == "asked for\n"


def test_waiting_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with console.waiting("loading"):
        assert stream.getvalue() == "loading"
    assert stream.getvalue() == "loading\r\x1b[2K"
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stderr", piped)
    with console.waiting("loading"):
        pass
    assert piped.getvalue() == ""


def test_json_is_one_ascii_line_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"text": "é\n\u2028"})
    out = capsys.readouterr().out
    assert (out.count("\n"), out.isascii(), json.loads(out)) == (1, True, {"text": "é\n\u2028"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.print_json({"x": float("nan")})
