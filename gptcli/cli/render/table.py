"""Lay out rows of text in columns, for any width: nothing is ever cut off.

Where the columns do not fit, a row flows over several lines. Knows no stream; carries styles but
does not know what they mean. Works on 100,000 rows. Whoever calls escapes what comes from a file.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len

GAP = "  "


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `lead` and `below` stand before its first and its further lines: a tree's guides."""

    cells: tuple[str, ...]
    lead: str = ""
    below: str = ""
    style: str = ""


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
    """The rows without their first column, as they stand below it."""
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


def wrapped(text: str, width: int, first: str = "", rest: str = "") -> Iterator[str]:
    """Words on lines of at most `width` columns; the lines begin with `first`, then with `rest`."""
    line, has_words = first, False
    for word in text.split(" "):
        if has_words and cell_len(line) + 1 + cell_len(word) > width:
            yield from folded(line, width)
            line, has_words = rest, False
        line += f" {word}" if has_words else word
        has_words = True
    yield from folded(line, width)


def folded(text: str, width: int) -> Iterator[str]:
    """Pieces of at most `width` columns, broken anywhere."""
    piece, used = "", 0
    for letter in text:
        used += cell_len(letter)
        if used > width and piece:
            yield piece
            piece, used = "", cell_len(letter)
        piece += letter
    yield piece
