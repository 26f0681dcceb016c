"""Break text between words, for a terminal: a whole one, or one that is still being streamed."""

from collections.abc import Callable, Iterator
from itertools import groupby
from unicodedata import category

from rich.cells import cell_len

Styled = tuple[str, str]  # text and its style
_TAB = 8
_JOINER = "\u200d"  # joins emoji into one picture
_NEVER_FIRST = {"Pe", "Pf", "Po", "Lm"}  # Unicode categories of what closes a phrase


def wrapped(
    text: str, width: int, first: str = "", rest: str = "", *, folds: bool = True
) -> Iterator[str]:
    """Words on lines of at most `width` columns; the lines begin with `first`, then with `rest`.

    A word longer than a line is folded; without `folds` it makes a line that is too long.
    """
    line, has_words = first, False
    for word in text.split(" "):
        if has_words and cell_len(line) + 1 + cell_len(word) > width:
            yield from folded(line, width) if folds else [line]
            line, has_words = rest, False
        line += f" {word}" if has_words else word
        has_words = True
    yield from folded(line, width) if folds else [line]


def folded(text: str, width: int) -> Iterator[str]:
    """Pieces of at most `width` columns, broken anywhere."""
    piece, used = "", 0
    for character in text:
        used += cell_len(character)
        if used > width and piece:
            yield piece
            piece, used = "", cell_len(character)
        piece += character
    yield piece


class WordWrap:
    """Wraps a text that is streamed piece by piece, from the first column on.

    Every piece is shown at once. A word that turns out too long for its line is erased there and
    written again on the next one, so that nothing is held back. As with CSS's `pre-wrap`, blanks
    at the end of a full line take no room and a word longer than a line is broken. The last column
    stays empty, because terminals differ in what a full line does to the cursor.

    `columns` gives the terminal's width; it is called for each piece, as windows are resized.
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self._column = 0
        self._sent: list[Styled] = []  # of this piece
        self._word: list[tuple[Styled, int]] = []  # characters at the cursor, and their widths
        self._fresh = 0  # how many of them are of this piece
        self._before = ""  # the last character

    def feed(self, text: str, style: str = "") -> Iterator[Styled]:
        """The next piece → what to send: text with its style, cursor movements without one."""
        room = max(1, self._columns() - 1)
        self._sent, self._fresh = [], 0
        for character in text:
            self._add(character, style, room)
        for same, parts in groupby(self._sent, key=lambda part: part[1]):
            yield "".join(text for text, _ in parts), same

    def _add(self, character: str, style: str, room: int) -> None:
        width = _TAB - self._column % _TAB if character == "\t" else cell_len(character)
        if character == "\n":
            self._start_line(style)
        elif character in " \t":
            self._end_word()
            if self._column + width <= room:
                self._sent.append((character, style))
                self._column += width
        else:
            if self._may_break_before(character, width):
                self._end_word()
            if width and self._column + width > room:  # an accent stays with its letter
                self._break(width, room)
            self._send((character, style), width)
        self._before = character

    def _send(self, character: Styled, width: int) -> None:
        self._sent.append(character)
        self._word.append((character, width))
        self._fresh += 1
        self._column += width

    def _break(self, width: int, room: int) -> None:
        """Go to the next line; the word moves along if it fits there whole.

        What was sent of it with earlier pieces is erased; the rest of it was not sent yet.
        """
        word = self._word
        widths = [size for _, size in word]
        moves = 0 < sum(widths) < self._column and sum(widths) + width <= room
        if moves:
            older = sum(widths[: len(word) - self._fresh])
            del self._sent[len(self._sent) - self._fresh :]
            if older:
                self._sent.append((f"\x1b[{older}D\x1b[K", ""))
        if self._column:
            self._start_line("")
        if moves:
            for character, size in word:
                self._send(character, size)

    def _may_break_before(self, character: str, width: int) -> bool:
        """Beside a wide character: Chinese and Japanese have no blanks between words."""
        if width == 0 or self._before == _JOINER or category(character) in _NEVER_FIRST:
            return False
        return width == 2 or cell_len(self._before) == 2

    def _end_word(self) -> None:
        self._word, self._fresh = [], 0

    def _start_line(self, style: str) -> None:
        self._sent.append(("\n", style))
        self._column = 0
        self._end_word()
