"""A report for a person: titles, rows in columns and paragraphs, on stdout.

Fits a terminal of any width; on a pipe rows are as long as they are. Knows nothing of models.
"""

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Protocol

from rich.cells import cell_len

from gptcli.cli.render import console
from gptcli.cli.render.table import Row, aligned, are_aligned, wrapped

TITLE, HEADING, QUIET, WRONG = "bold", "bold cyan", "dim", "yellow"


class Canvas(Protocol):
    """What a report is written on where that is not stdout."""

    width: int

    def write(self, text: str, style: str | None = None) -> None:
        """Add a piece of text."""


class Report:
    """Collects nothing: every call writes. `colored` is whether styles are seen."""

    def __init__(self, canvas: Canvas | None = None) -> None:
        self._output = canvas or console.Output(colored=True)
        self.colored = canvas is not None or console.wants_color(sys.stdout)
        at_terminal = canvas is None and console.is_terminal(sys.stdout)
        self.width = console.width() if at_terminal else canvas.width if canvas else None

    def title(self, text: str, style: str = TITLE) -> None:
        """A paragraph by itself."""
        self._write((line, style) for line in wrapped(text, self.width or console.MAX_WIDTH))

    def heading(self, text: str) -> None:
        """An empty line, then what follows it."""
        self._write([("", "")])
        self.title(text, HEADING)

    def rows(self, rows: Sequence[Row], right: Iterable[int] = ()) -> None:
        """Rows in columns; those in `right` are aligned on their right."""
        self._write(aligned(rows, right, self.width))

    def numbers(self, titles: Sequence[str], rows: Sequence[Row], right: Iterable[int]) -> None:
        """Rows below the titles of all columns but the first.

        Where no columns fit beside one another, each cell stands behind its title.
        """
        head = Row(("", *titles), rows[0].lead, rows[0].below, QUIET) if rows else Row(("",))
        if are_aligned([head, *rows], self.width):
            self.rows([head, *rows], right)
            return
        for row in rows:
            named = zip(titles, row.cells[1:], strict=True)
            cells = (row.cells[0], *(f"{title} {cell}".strip() for title, cell in named))
            self.rows([Row(cells, row.lead, row.below, row.style)])

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and what they are, wrapped beside the names if there is room."""
        named = list(pairs)
        column = max(cell_len(name) for name, _ in named)
        width = self.width or console.MAX_WIDTH
        indent = " " * (column + 4 if width > column + 24 else 4)
        for name, value in named:
            first = f"  {name}{' ' * (column - cell_len(name))}  "
            self._write((line, "") for line in wrapped(value, width, first, indent))

    def points(self, texts: Iterable[str], style: str = "") -> None:
        """A list of sentences, wrapped at the terminal's width or 100 columns."""
        for text in texts:
            lines = wrapped(text, console.width(), "  - ", "    ")
            self._write((line, style) for line in lines)

    def spans(self, lines: Iterable[Iterable[tuple[str, str]]]) -> None:
        """Lines of (text, style) pieces, as they are: whoever calls knows the width."""
        for line in lines:
            for text, style in line:
                self._output.write(text, style or None)
            self._output.write("\n")

    def _write(self, lines: Iterable[tuple[str, str]]) -> None:
        for style, group in groupby(lines, key=lambda line: line[1]):
            self._output.write("".join(f"{text}\n" for text, _ in group), style or None)
