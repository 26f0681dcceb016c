"""Wrapping of a streamed text, as pyte's screen shows it; textwrap and the text are the oracles."""

import fcntl
import os
import pty
import struct
import sys
import termios
import textwrap
from itertools import pairwise
from unicodedata import normalize

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.cli.render import console
from gptcli.cli.render.word_wrap import WordWrap

WORDS = st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=30)
PARTS = ["a", "b", " ", "\n", "\t", "漢", "。", "-", "e\u0301", "🙂"]
ANYTHING = st.lists(st.sampled_from(PARTS), max_size=40).map("".join)


def screen_of(pieces, columns, widths=None):
    """The screen after the pieces; `widths` are what the terminal says it is, one for each."""
    screen = pyte.Screen(columns, 100)
    screen.set_mode(pyte.modes.LNM)  # as a terminal driver: a newline returns the carriage too
    stream = pyte.Stream(screen)
    said = iter(widths or [])
    wrap = WordWrap(lambda: next(said, columns))
    for piece in pieces:
        for text, _ in wrap.feed(piece):
            stream.feed(text)
    return screen


def lines_of(screen):
    return [line.rstrip() for line in screen.display]


def cut(text, places):
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def dense(text):
    return "".join(normalize("NFC", text).split())


@settings(max_examples=60)
@given(WORDS, st.integers(11, 40), st.lists(st.integers(0), max_size=8))
def test_words_are_wrapped_as_textwrap_does(words, columns, places):
    text = " ".join(words)
    lines = lines_of(screen_of(cut(text, places), columns))
    expected = textwrap.wrap(text, columns - 1)
    assert lines[: len(expected)] == expected
    assert not any(lines[len(expected) :])


@settings(max_examples=60)
@given(ANYTHING, st.integers(2, 30), st.lists(st.integers(0), max_size=8))
def test_the_pieces_do_not_matter(text, columns, places):
    assert lines_of(screen_of(cut(text, places), columns)) == lines_of(screen_of([text], columns))


@settings(max_examples=60)
@given(ANYTHING, st.integers(3, 30), st.lists(st.integers(0), max_size=8))
def test_nothing_is_lost_and_the_last_column_stays_empty(text, columns, places):
    screen = screen_of(cut(text, places), columns)
    assert dense("".join(screen.display)) == dense(text)
    assert all(screen.buffer[row][columns - 1].data == " " for row in range(screen.lines))


@settings(max_examples=60)
@given(ANYTHING, st.lists(st.integers(3, 30), min_size=9), st.lists(st.integers(0), max_size=8))
def test_nothing_is_lost_in_a_window_that_is_resized(text, widths, places):
    screen = screen_of(cut(text, places), 30, widths)
    assert dense("".join(screen.display)) == dense(text)


def test_an_accent_stays_with_its_letter_in_a_window_that_got_narrow() -> None:
    screen = screen_of(["aaae", "\u0301", "b"], 30, [12, 3, 3])
    assert [normalize("NFC", line) for line in lines_of(screen)[:2]] == ["aaa\xe9", "b"]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (["Once upon", " a ti", "me"], ["Once upon", "a time"]),
        (["one two thr", "ee"], ["one two", "three"]),
        (["x" * 25], ["x" * 10, "x" * 10, "x" * 5]),
        (["ab ", "x" * 12], ["ab", "x" * 10, "xx"]),
        (["12345 7890   ", "next"], ["12345 7890", "next"]),
        (["  indented\n", "\tby a tab"], ["  indented", "        by", "a tab"]),
        (["漢字漢字漢字"], ["漢字漢字漢", "字"]),
        (["漢字漢字漢。"], ["漢字漢字", "漢。"]),
        (["cafe\u0301s are e\u0301e\u0301"], ["cafés are", "éé"]),
    ],
)
def test_examples(pieces, lines):
    found = [line for line in lines_of(screen_of(pieces, 11)) if line]
    assert [normalize("NFC", line) for line in found] == lines


def test_joined_emoji_stay_together():
    wrap = WordWrap(lambda: 6)
    sent = [text for piece in ("ab ", "🙂", "\u200d", "🙂") for text, _ in wrap.feed(piece)]
    assert sent == ["ab ", "🙂", "\u200d", "\x1b[2D\x1b[K\n🙂\u200d🙂"]


def test_a_word_moves_with_the_styles_of_its_pieces():
    wrap = WordWrap(lambda: 8)
    sent = [
        part
        for piece in (("two", "red"), (" wo", "green"), ("rds", "blue"))
        for part in wrap.feed(*piece)
    ]
    assert sent == [
        ("two", "red"),
        (" wo", "green"),
        ("\x1b[2D\x1b[K\n", ""),
        ("wo", "green"),
        ("rds", "blue"),
    ]


def test_a_terminal_that_is_resized_wraps_at_its_new_width(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    master, slave = pty.openpty()
    with open(slave, "w", encoding="utf-8") as stream:  # noqa: PTH123  # a descriptor
        monkeypatch.setattr(sys, "stdout", stream)
        console.reset()
        output = console.Output(wraps=True)
        for columns in (30, 12):
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            output.write("one two three four\n")
        received = ""
        while received.count("four\r\n") < 2:  # a terminal hands over what it has, in pieces
            received += os.read(master, 1000).decode()
    os.close(master)
    assert received.split("\r\n") == ["one two three four", "one two ", "three four", ""]
