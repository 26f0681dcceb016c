"""Tables that leave out their least columns where a terminal is narrow, and say which.

Knows nothing of models.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from rich.cells import cell_len

from gptcli.cli.render.report import QUIET, Report
from gptcli.cli.render.table import GAP, Row


def show_rows(
    report: Report, rows: Sequence[Row], right: Collection[int], optional: Sequence[int]
) -> None:
    """Print rows, the first of them the header, without as few of the `optional` as need be.

    Args:
        report: what they are printed on.
        rows: all with the same number of cells.
        right: the columns aligned on their right.
        optional: what to leave out, the first of them first.
    """
    kept = list(range(len(rows[0].cells)))
    dropped = []
    for column in optional:
        if report.width is None or _width(rows, kept) <= report.width:
            break
        kept.remove(column)
        dropped.append(rows[0].cells[column])
    cut = [replace(row, cells=tuple(row.cells[column] for column in kept)) for row in rows]
    report.rows(cut, [kept.index(column) for column in right if column in kept])
    if named := [name for name in dropped if name]:
        report.points([f"no room for {', '.join(named)}"], QUIET)


def _width(rows: Sequence[Row], kept: Sequence[int]) -> int:
    widths = [max(cell_len(row.cells[column]) for row in rows) for column in kept]
    return cell_len(rows[0].lead) + sum(widths) + len(GAP) * (len(kept) - 1)
