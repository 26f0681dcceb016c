"""Reports: titles, tables and paragraphs that fit a terminal of any width.

Nothing is cut off. Where columns do not fit side by side, a table leaves out optional ones, or a
row takes several lines. On a pipe rows are as long as they are. The caller escapes text of files.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest
from typing import Protocol

from rich.cells import cell_len

from gptcli.cli.render import console
from gptcli.cli.render.word_wrap import folded, wrapped
from gptcli.core.units import plural

GAP = "  "
TITLE, HEADING, QUIET, WRONG = "bold", "bold cyan", "dim", "yellow"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `indent` starts its first line and `hanging` the others (a tree's guides)."""

    cells: tuple[str, ...]
    indent: str = ""
    hanging: str = ""
    style: str = ""


def header_row(*cells: str) -> Row:
    """The header of `body_row`s."""
    return body_row(*cells, style=QUIET)


def body_row(*cells: str, style: str = "") -> Row:
    """A row below a heading, indented by 2 columns, its further lines by 4."""
    return Row(cells, "  ", "    ", style)


class Canvas(Protocol):
    """Somewhere to write a report other than stdout."""

    width: int

    def write(self, text: str, style: str = "") -> None:
        """Add a piece of text."""


class Report:
    """Prints each part as soon as its method is called.

    Attributes:
        colored: whether styles are shown.
        width: columns; None is no limit.
    """

    def __init__(self, canvas: Canvas | None = None) -> None:
        self._output = canvas or console.Output(colored=True)
        self.colored = canvas is not None or console.wants_color(sys.stdout)
        at_terminal = canvas is None and console.is_terminal(sys.stdout)
        self.width = console.width() if at_terminal else canvas.width if canvas else None

    def title(self, text: str, style: str = TITLE) -> None:
        """Print a title, wrapped at the width."""
        self._write((line, style) for line in wrapped(text, self.width or console.MAX_WIDTH))

    def heading(self, text: str) -> None:
        """Print an empty line and a section's title."""
        self._write([("", "")])
        self.title(text, HEADING)

    def rows(self, rows: Sequence[Row], right: Iterable[int] = ()) -> None:
        """Print rows in aligned columns; the columns in `right` are right-aligned."""
        self._write(aligned(rows, right, self.width))

    def first_rows(self, rows: Sequence[Row], most: int) -> None:
        """Print at most `most` rows, and how many more --details shows."""
        self.rows(rows[:most])
        if len(rows) > most:
            self.bullets([f"and {plural(len(rows) - most, 'line')} more (--details)"], QUIET)

    def table(
        self, rows: Sequence[Row], right: Collection[int], optional: Sequence[int] = ()
    ) -> None:
        """Print a header and rows; leave out `optional` columns until the rest fits.

        Args:
            rows: the header first; all with the same number of cells.
            right: the columns that are right-aligned.
            optional: the columns that may be left out, the least important first.
        """
        kept = list(range(len(rows[0].cells)))
        dropped = []
        for column in optional:
            if self.width is None or _table_width(rows, kept) <= self.width:
                break
            kept.remove(column)
            dropped.append(rows[0].cells[column])
        cut = [replace(row, cells=tuple(row.cells[column] for column in kept)) for row in rows]
        self.rows(cut, [kept.index(column) for column in right if column in kept])
        if named := [name for name in dropped if name]:
            self.bullets([f"no room for {', '.join(named)}"], QUIET)

    def titled_rows(self, titles: Sequence[str], rows: Sequence[Row], right: Iterable[int]) -> None:
        """Print rows below `titles`, one for each column but the first.

        Where the columns do not fit side by side, each cell is printed after its title.
        """
        header = Row(("", *titles), rows[0].indent, rows[0].hanging, QUIET) if rows else Row(("",))
        if are_aligned([header, *rows], self.width):
            self.rows([header, *rows], right)
            return
        for row in rows:
            titled = zip(titles, row.cells[1:], strict=True)
            cells = (row.cells[0], *(f"{title} {cell}".strip() for title, cell in titled))
            self.rows([replace(row, cells=cells)])

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Print names and values; long values wrap, next to the names if there is room."""
        named = list(pairs)
        column = max(cell_len(name) for name, _ in named)
        width = self.width or console.MAX_WIDTH
        indent = " " * (column + 4 if width > column + 24 else 4)
        for name, value in named:
            first = f"  {name}{' ' * (column - cell_len(name))}  "
            self._write((line, "") for line in wrapped(value, width, first, indent))

    def paragraph(self, text: str, style: str = "") -> None:
        """Print text wrapped at the terminal's width, or at 100 columns."""
        self._write((line, style) for line in wrapped(text, console.width()))

    def blank_line(self) -> None:
        """Print an empty line."""
        self._write([("", "")])

    def more_details(self, what: str) -> None:
        """Print the last line of a report: what --details shows besides."""
        self.paragraph(f"--details: {what}", QUIET)

    def bullets(self, texts: Iterable[str], style: str = "") -> None:
        """Print a list of sentences, wrapped at the terminal's width or at 100 columns."""
        for text in texts:
            lines = wrapped(text, console.width(), "  - ", "    ")
            self._write((line, style) for line in lines)

    def spans(self, lines: Iterable[Iterable[tuple[str, str]]]) -> None:
        """Print lines of (text, style) pieces; the caller fits them to `width`."""
        for line in lines:
            for text, style in line:
                self._output.write(text, style)
            self._output.write("\n")

    def _write(self, lines: Iterable[tuple[str, str]]) -> None:
        for style, group in groupby(lines, key=lambda line: line[1]):
            self._output.write("".join(f"{text}\n" for text, _ in group), style)


def evenly_spaced(rows: Sequence[Row], *, details: bool = False, most: int = 14) -> list[Row]:
    """At most `most` rows, evenly spaced from the first to the last; with `details` all."""
    if details or len(rows) <= most:
        return list(rows)
    places = [round(i * (len(rows) - 1) / (most - 1)) for i in range(most)]
    return [rows[place] for place in places]


def aligned(
    rows: Sequence[Row], right: Iterable[int], width: int | None
) -> Iterator[tuple[str, str]]:
    """Rows as lines of at most `width` columns (None is no limit), each with its row's style.

    `right` are the columns, counted from 0, that are right-aligned. Where not all columns fit, the
    first has a line of its own and the others follow below, aligned if possible.
    """
    right = set(right)
    lines = _columns(rows, right, width)
    if lines is not None:
        yield from ((line, row.style) for line, row in zip(lines, rows, strict=True))
        return
    others = _without_first_column(rows)
    below = _columns(others, {column - 1 for column in right}, width)
    for index, row in enumerate(rows):
        if row.cells[0] or len(row.cells) == 1:
            yield from ((line, row.style) for line in folded(row.indent + row.cells[0], width or 1))
        if any(row.cells[1:]):
            rest = _flowing(others[index], width or 1) if below is None else [below[index]]
            yield from ((line, row.style) for line in rest)


def are_aligned(rows: Sequence[Row], width: int | None) -> bool:
    """Whether all columns, or all but the first, fit side by side."""
    others = _without_first_column(rows)
    return any(_columns(some, set(), width) is not None for some in (rows, others))


def _without_first_column(rows: Sequence[Row]) -> list[Row]:
    """The rows that follow below the first column."""
    return [Row(row.cells[1:] or ("",), row.hanging) for row in rows]


def _columns(rows: Sequence[Row], right: set[int], width: int | None) -> list[str] | None:
    """A line for each row, or None if they would be too wide."""
    columns = list(zip_longest(*([row.indent + row.cells[0], *row.cells[1:]] for row in rows)))
    widths = [max(cell_len(cell or "") for cell in column) for column in columns]
    if width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        return None
    padded = [
        [_pad(cell or "", size, right=index in right) for cell in column]
        for index, (column, size) in enumerate(zip(columns, widths, strict=True))
    ]
    return [GAP.join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _pad(cell: str, size: int, *, right: bool) -> str:
    space = " " * (size - cell_len(cell))
    return space + cell if right else cell + space


def _flowing(row: Row, width: int) -> Iterator[str]:
    """The cells of a row on as few lines as they fit."""
    line, has_cells = row.indent, False
    for cell in filter(None, row.cells):
        if has_cells and cell_len(line) + len(GAP) + cell_len(cell) > width:
            yield from folded(line, width)
            line, has_cells = row.indent, False
        line += GAP + cell if has_cells else cell
        has_cells = True
    yield from folded(line, width)


def _table_width(rows: Sequence[Row], kept: Sequence[int]) -> int:
    widths = [max(cell_len(row.cells[column]) for row in rows) for column in kept]
    return cell_len(rows[0].indent) + sum(widths) + len(GAP) * (len(kept) - 1)
