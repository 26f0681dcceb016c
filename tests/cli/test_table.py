import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from gptcli.cli.render.table import Row, aligned
from gptcli.cli.render.word_wrap import folded, wrapped

words = st.text(alphabet="ab1,漢é", max_size=12)
rows = st.lists(
    st.builds(Row, st.lists(words, min_size=1, max_size=4).map(tuple)), min_size=1, max_size=6
)


def dense(text):
    return "".join(text.split())


def test_columns_are_aligned_to_their_sides():
    lines = aligned([Row(("a", "1", "x")), Row(("bbb", "22,222", "y"))], {1}, 80)
    assert [line for line, _ in lines] == ["a         1  x", "bbb  22,222  y"]


def test_wide_letters_take_two_columns():
    lines = aligned([Row(("漢", "x")), Row(("abc", "y"))], (), None)
    assert [line for line, _ in lines] == ["漢   x", "abc  y"]


def test_what_does_not_fit_goes_below_and_stays_aligned():
    table = [
        Row(("a_long_name", "1", "xx"), "  ", "    ", "bold"),
        Row(("b", "22", "y"), "  ", "    "),
    ]
    assert list(aligned(table, {1}, 14)) == [
        ("  a_long_name", "bold"),
        ("     1  xx", "bold"),
        ("  b", ""),
        ("    22  y", ""),
    ]


@given(rows, st.integers(2, 60))
def test_nothing_is_cut_and_no_line_is_wider_than_allowed(table, width):
    lines = [line for line, _ in aligned(table, {1}, width)]
    assert max(map(cell_len, lines), default=0) <= width
    assert dense("".join(lines)) == dense("".join(cell for row in table for cell in row.cells))


@given(rows)
def test_without_a_limit_every_row_is_one_line(table):
    assert len(list(aligned(table, {0}, None))) == len(table)


@given(st.lists(words, min_size=1).map(" ".join), st.integers(8, 60))
def test_wrapping_keeps_every_word_and_the_width(text, width):
    lines = list(wrapped(text, width, "- ", "  "))
    assert max(map(cell_len, lines)) <= width
    assert dense("".join(lines)) == dense("- " + text)


@pytest.mark.parametrize(("text", "pieces"), [("", [""]), ("abcde", ["ab", "cd", "e"])])
def test_folding(text, pieces):
    assert list(folded(text, 2)) == pieces
