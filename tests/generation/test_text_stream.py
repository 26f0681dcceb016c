"""Stop strings and text, without a model: tokens are single bytes."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.generation.text_stream import StopFinder


def run(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, str | None]:
    finder, shown = StopFinder(stops), ""
    for piece in pieces:
        shown += finder.feed(piece)
        if finder.found is not None:
            return shown, finder.found
    return shown + finder.finish(), None


def naive(stops: Sequence[str], text: str) -> tuple[str, str | None]:
    """The definition: the first end of any stop string; of two that end there, the longer."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end - len(stop)], stop
    return text, None


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "found"),
    [
        (["\n"], ["one\ntwo"], "one", "\n"),
        (["END"], ["the E", "N", "D of"], "the ", "END"),
        (["END"], ["the EN", "ding"], "the ENding", None),
        (["112"], ["1", "1", "1", "2"], "1", "112"),
        (["abcd", "c"], ["ab", "c", "d"], "ab", "c"),
        (["bc", "abc"], ["a", "bc"], "", "abc"),
        ([], ["all", " of it"], "all of it", None),
        (["", "x"], ["axe"], "a", "x"),
    ],
)
def test_stop_strings_by_hand(
    stops: list[str], pieces: list[str], shown: str, found: str | None
) -> None:
    assert run(stops, pieces) == (shown, found)


texts = st.text(alphabet="ab1\n", max_size=30)


@given(st.lists(st.text(alphabet="ab1\n", max_size=4), max_size=3), texts, st.data())
def test_any_chunking_shows_what_the_definition_says(
    stops: list[str], text: str, data: st.DataObject
) -> None:
    pieces, rest = [], text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.append(rest[:size])
        rest = rest[size:]
    assert run(stops, pieces) == naive(stops, text)


def test_nothing_is_held_back_longer_than_a_stop_string_could_begin() -> None:
    finder = StopFinder(["abc"])
    assert [finder.feed(c) for c in "xabab"] == ["x", "", "", "ab", ""]
    assert finder.finish() == "ab"


def test_text_that_cannot_stop_is_shown_at_once() -> None:
    def shown() -> Iterator[str]:
        finder = StopFinder(["zzz"])
        for piece in ("a", "bc", "d"):
            yield finder.feed(piece)

    assert list(shown()) == ["a", "bc", "d"]
