"""Break a streamed text between words, for a terminal.

Every piece is shown at once. A word that turns out too long for its line is erased there and
written again on the next one, so nothing is held back. As CSS's `pre-wrap`: blanks at the end of
a full line take no room, a word longer than a line is broken, and the last column stays empty,
because terminals differ in what a full line does to the cursor.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from unicodedata import category

from rich.cells import cell_len

Styled = tuple[str, str]  # text and its style
_TAB = 8
_JOINER = "\u200d"  # joins emoji into one picture
_NEVER_FIRST = {"Pe", "Pf", "Po", "Lm"}  # Unicode categories of what closes a phrase


class WordWrap:
    """One text that is written piece by piece from the first column on.

    `columns` tells the terminal's width now; it is asked for each piece, for windows are resized.
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self._column = 0
        self._word: list[Styled] = []  # what was written of the word at the cursor
        self._word_width = 0
        self._before = ""  # the last character

    def feed(self, text: str, style: str = "") -> Iterator[Styled]:
        """The next piece → what to send: text with its style, cursor movements without one."""
        room = max(1, self._columns() - 1)
        sent = [part for letter in text for part in self._letter(letter, style, room)]
        for same, parts in groupby(sent, key=lambda part: part[1]):
            yield "".join(text for text, _ in parts), same

    def _letter(self, letter: str, style: str, room: int) -> Iterator[Styled]:
        width = _TAB - self._column % _TAB if letter == "\t" else cell_len(letter)
        if letter == "\n":
            yield letter, ""
            self._start_line()
        elif letter in " \t":
            self._end_word()
            if self._column + width <= room:
                yield letter, style
                self._column += width
        else:
            if self._may_break_before(letter, width):
                self._end_word()
            if self._column + width > room:
                yield from self._break(width, room)
            yield letter, style
            self._column += width
            self._word.append((letter, style))
            self._word_width += width
        self._before = letter

    def _break(self, width: int, room: int) -> Iterator[Styled]:
        """Go to the next line; the word moves along if it fits there whole."""
        word, word_width = self._word, self._word_width
        moves = 0 < word_width < self._column and word_width + width <= room
        if moves:
            yield f"\x1b[{word_width}D\x1b[K", ""
        if self._column:
            yield "\n", ""
        self._start_line()
        if moves:
            yield from word
            self._column = self._word_width = word_width
            self._word = word

    def _may_break_before(self, letter: str, width: int) -> bool:
        """Beside a wide character: Chinese and Japanese have no blanks between words."""
        if width == 0 or self._before == _JOINER or category(letter) in _NEVER_FIRST:
            return False
        return width == 2 or cell_len(self._before) == 2

    def _end_word(self) -> None:
        self._word, self._word_width = [], 0

    def _start_line(self) -> None:
        self._column = 0
        self._end_word()
