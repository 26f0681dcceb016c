"""The report of `inspect --gradients`: a model with and without shortcuts, and the book's demo."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gptcli.cli.render.console import json_number
from gptcli.cli.render.heatmap import bar
from gptcli.cli.render.table import QUIET, Report, Row, thinned

if TYPE_CHECKING:
    from gptcli.interpret.gradients import Gradients

_BLOCKS = "trf_blocks."
_BAR = 10
_DECADES = 8  # a bar begins this many powers of ten below the largest gradient


def show(report: Report, both: "tuple[Gradients, Gradients]", *, details: bool = False) -> None:
    """Print losses, gradients by block and the demonstration; with `details` by parameter too."""
    ours, without = both
    report.paragraph(
        f"loss {ours.loss:.4f} nats a token with shortcuts, {without.loss:.4f} without"
    )
    report.heading("Mean absolute gradient of each block's weights (bars are logarithmic)")
    header, *rows = _compared(ours, without)
    report.table([header, *thinned(rows, details=details)], right=(1, 3), optional=(4, 2))
    for found in both if details else ():
        name = "with" if found.shortcuts else "without"
        report.heading(f"Mean absolute gradient by kind of parameter, {name} shortcuts")
        rows = list(_by_kind(found.mean_absolute))
        columns = len(rows[0].cells)
        report.table(rows, right=range(1, columns), optional=range(2, columns - 1))
    _show_demonstration(report)
    if not details:
        report.space()
        report.more("each kind of parameter")


def _compared(ours: "Gradients", without: "Gradients") -> Iterator[Row]:
    yield Row(("", "with shortcuts", "", "without", ""), "  ", "    ", QUIET)
    pairs = [found.by_part() for found in (ours, without)]
    largest = max((value for pair in pairs for value in pair.values()), default=0.0)
    for group, value in pairs[0].items():
        other = pairs[1][group]
        cells = (group, _short(value), _bar(value, largest), _short(other), _bar(other, largest))
        yield Row(cells, "  ", "    ")


def _bar(value: float, largest: float) -> str:
    if not 0 < value < math.inf:
        return ""
    return bar(1 + math.log10(value / largest) / _DECADES, _BAR)


def _short(value: float) -> str:
    return f"{value:.1e}"


def _by_kind(means: dict[str, float]) -> Iterator[Row]:
    """A row for each kind of parameter, with the first, the middle and the last block."""
    blocks = sorted({int(n.split(".")[1]) for n in means if n.startswith(_BLOCKS)})
    some = sorted({blocks[0], blocks[len(blocks) // 2], blocks[-1]})
    yield Row(("", *(f"block {block}" for block in some)), "  ", "    ", QUIET)
    prefix = f"{_BLOCKS}{blocks[0]}."
    for name in means:
        if name.startswith(prefix):
            kind = name.removeprefix(prefix)
            values = [means[f"{_BLOCKS}{block}.{kind}"] for block in some]
            yield Row((kind, *map(_short, values)), "  ", "    ")
    for name, value in means.items():
        if not name.startswith(_BLOCKS):
            yield Row((name, _short(value), *[""] * (len(some) - 1)), "  ", "    ")


def _show_demonstration(report: Report) -> None:
    from gptcli.model.shortcut import BOOK_GRADIENTS, demonstration

    report.heading("The book's five layers (seed 123, input 1, 0, -1)")
    names = ("layer", "without", "in the book", "with shortcuts", "in the book")
    columns: list[Sequence[float]] = []
    for shortcut in (False, True):
        columns += [demonstration(shortcut), BOOK_GRADIENTS[shortcut]]
    rows = [Row(names, "  ", "    ", QUIET)]
    for layer, values in enumerate(zip(*columns, strict=True)):
        cells = (str(layer), *(f"{value:.8f}" for value in values))
        rows.append(Row(cells, "  ", "    "))
    report.table(rows, right=range(1, 5), optional=(4, 2))


def gradients_document(both: "tuple[Gradients, Gradients]") -> dict[str, Any]:
    """What `inspect --gradients --json` has in "gradients"; see `prompt_report`."""
    from gptcli.model.shortcut import BOOK_GRADIENTS, demonstration

    plain = zip(*(found.mean_absolute.items() for found in both), strict=True)
    return {
        "loss": _with_and_without(*(json_number(found.loss) for found in both)),
        "parameters": [
            {"name": name, **_with_and_without(json_number(ours), json_number(without))}
            for (name, ours), (_, without) in plain
        ],
        "demonstration": _with_and_without(
            *(
                {
                    "computed": [json_number(value) for value in demonstration(shortcut)],
                    "published": [json_number(value) for value in BOOK_GRADIENTS[shortcut]],
                }
                for shortcut in (True, False)
            )
        ),
    }


def _with_and_without(ours: object, without: object) -> dict[str, Any]:
    return {"with_shortcuts": ours, "without_shortcuts": without}
