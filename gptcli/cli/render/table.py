"""Reports for a person: titles, rows in columns and paragraphs that fit a terminal of any width.

Nothing is ever cut off. Where columns do not fit side by side, a table leaves out the ones named
as least important, or a row flows over several lines. On a pipe rows are as long as they are.
Escape what comes from a file before it is put into a row.
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
    """One row. `lead` and `below` stand before its first and its further lines: a tree's guides."""

    cells: tuple[str, ...]
    lead: str = ""
    below: str = ""
    style: str = ""


class Canvas(Protocol):
    """Where a report is written instead of stdout."""

    width: int

    def write(self, text: str, style: str = "") -> None:
        """Add a piece of text."""


class Report:
    """Writes at each call. `colored` is whether styles are shown; `width` None is no limit."""

    def __init__(self, canvas: Canvas | None = None) -> None:
        self._output = canvas or console.Output(colored=True)
        self.colored = canvas is not None or console.wants_color(sys.stdout)
        at_terminal = canvas is None and console.is_terminal(sys.stdout)
        self.width = console.width() if at_terminal else canvas.width if canvas else None

    def title(self, text: str, style: str = TITLE) -> None:
        """A line of its own, wrapped at the width."""
        self._write((line, style) for line in wrapped(text, self.width or console.MAX_WIDTH))

    def heading(self, text: str) -> None:
        """An empty line, then a section's title."""
        self._write([("", "")])
        self.title(text, HEADING)

    def rows(self, rows: Sequence[Row], right: Iterable[int] = ()) -> None:
        """Rows in columns; those in `right` are aligned on their right."""
        self._write(aligned(rows, right, self.width))

    def first_rows(self, rows: Sequence[Row], most: int) -> None:
        """At most `most` rows, and how many more --details shows."""
        self.rows(rows[:most])
        if len(rows) > most:
            self.points([f"and {plural(len(rows) - most, 'line')} more (--details)"], QUIET)

    def table(
        self, rows: Sequence[Row], right: Collection[int], optional: Sequence[int] = ()
    ) -> None:
        """Rows, the first of them the header, without as few of the `optional` columns as need be.

        Args:
            rows: all with the same number of cells.
            right: the columns aligned on their right.
            optional: what to leave out, the first of them first.
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
            self.points([f"no room for {', '.join(named)}"], QUIET)

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
        """Names and values; values wrap beside the names if there is room."""
        named = list(pairs)
        column = max(cell_len(name) for name, _ in named)
        width = self.width or console.MAX_WIDTH
        indent = " " * (column + 4 if width > column + 24 else 4)
        for name, value in named:
            first = f"  {name}{' ' * (column - cell_len(name))}  "
            self._write((line, "") for line in wrapped(value, width, first, indent))

    def paragraph(self, text: str, style: str = "") -> None:
        """A sentence or more, wrapped at the terminal's width or 100 columns."""
        self._write((line, style) for line in wrapped(text, console.width()))

    def space(self) -> None:
        """An empty line."""
        self._write([("", "")])

    def more(self, what: str, option: str = "--details") -> None:
        """A report's last line: what an option would show besides."""
        self.paragraph(f"{option}: {what}", QUIET)

    def points(self, texts: Iterable[str], style: str = "") -> None:
        """A list of sentences, wrapped at the terminal's width or 100 columns."""
        for text in texts:
            lines = wrapped(text, console.width(), "  - ", "    ")
            self._write((line, style) for line in lines)

    def spans(self, lines: Iterable[Iterable[tuple[str, str]]]) -> None:
        """Lines of (text, style) pieces, as they are; the caller fits them to `width`."""
        for line in lines:
            for text, style in line:
                self._output.write(text, style)
            self._output.write("\n")

    def _write(self, lines: Iterable[tuple[str, str]]) -> None:
        for style, group in groupby(lines, key=lambda line: line[1]):
            self._output.write("".join(f"{text}\n" for text, _ in group), style)


def thinned(rows: Sequence[Row], *, details: bool = False, most: int = 14) -> list[Row]:
    """At most `most` rows, evenly spaced from the first to the last; with `details` all."""
    if details or len(rows) <= most:
        return list(rows)
    places = [round(i * (len(rows) - 1) / (most - 1)) for i in range(most)]
    return [rows[place] for place in places]


def aligned(
    rows: Sequence[Row], right: Iterable[int], width: int | None
) -> Iterator[tuple[str, str]]:
    """Lines of at most `width` columns, each with its row's style; None is no limit.

    `right` are the columns, counted from 0, that are aligned on their right. Where not all
    columns fit, the first has a line of its own and the others follow below, aligned if possible.
    """
    sides = set(right)
    lines = _columns(rows, sides, width)
    if lines is not None:
        yield from ((line, row.style) for line, row in zip(lines, rows, strict=True))
        return
    others = _others(rows)
    below = _columns(others, {side - 1 for side in sides}, width)
    for index, row in enumerate(rows):
        if row.cells[0] or len(row.cells) == 1:
            yield from ((line, row.style) for line in folded(row.lead + row.cells[0], width or 1))
        if any(row.cells[1:]):
            rest = _flowing(others[index], width or 1) if below is None else [below[index]]
            yield from ((line, row.style) for line in rest)


def are_aligned(rows: Sequence[Row], width: int | None) -> bool:
    """Whether `aligned` keeps all columns, or all but the first, side by side."""
    return any(_columns(some, set(), width) is not None for some in (rows, _others(rows)))


def _others(rows: Sequence[Row]) -> list[Row]:
    """The rows without their first column, for the lines below it."""
    return [Row(row.cells[1:] or ("",), row.below) for row in rows]


def _columns(rows: Sequence[Row], right: set[int], width: int | None) -> list[str] | None:
    """A line for each row, or None if they would be too wide."""
    columns = list(zip_longest(*([row.lead + row.cells[0], *row.cells[1:]] for row in rows)))
    widths = [max(cell_len(cell or "") for cell in column) for column in columns]
    if width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        return None
    padded = [
        [_pad(cell or "", size, to_right=index in right) for cell in column]
        for index, (column, size) in enumerate(zip(columns, widths, strict=True))
    ]
    return [GAP.join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _pad(cell: str, size: int, *, to_right: bool) -> str:
    space = " " * (size - cell_len(cell))
    return space + cell if to_right else cell + space


def _flowing(row: Row, width: int) -> Iterator[str]:
    """The cells of a row side by side while they fit, then on a further line."""
    line, has_cells = row.lead, False
    for cell in filter(None, row.cells):
        if has_cells and cell_len(line) + len(GAP) + cell_len(cell) > width:
            yield from folded(line, width)
            line, has_cells = row.lead, False
        line += GAP + cell if has_cells else cell
        has_cells = True
    yield from folded(line, width)


def _table_width(rows: Sequence[Row], kept: Sequence[int]) -> int:
    widths = [max(cell_len(row.cells[column]) for row in rows) for column in kept]
    return cell_len(rows[0].lead) + sum(widths) + len(GAP) * (len(kept) - 1)
