"""The report of `inspect --gradients` and its JSON: gradients with and without shortcuts."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gptcli.cli.render.console import json_number
from gptcli.cli.render.heatmap import bar
from gptcli.cli.render.table import Report, Row, body_row, evenly_spaced, header_row

if TYPE_CHECKING:
    from gptcli.interpret.gradients import Gradients

_BLOCKS = "trf_blocks."
_BAR = 10
_DECADES = 8  # of the logarithmic bars: powers of ten below the largest gradient


def show(report: Report, both: "tuple[Gradients, Gradients]", *, details: bool = False) -> None:
    """Print losses, gradients by block and the demonstration; with `details` by parameter too."""
    ours, without = both
    report.paragraph(
        f"loss {ours.loss:.4f} nats a token with shortcuts, {without.loss:.4f} without"
    )
    report.heading("Mean absolute gradient of each block's weights (bars are logarithmic)")
    header, *rows = _by_block(ours, without)
    report.table([header, *evenly_spaced(rows, details=details)], right=(1, 3), optional=(4, 2))
    for found in both if details else ():
        name = "with" if found.shortcuts else "without"
        report.heading(f"Mean absolute gradient by kind of parameter, {name} shortcuts")
        rows = list(_by_kind(found.mean_absolute))
        columns = len(rows[0].cells)
        report.table(rows, right=range(1, columns), optional=range(2, columns - 1))
    _show_demonstration(report)
    if not details:
        report.blank_line()
        report.more_details("each kind of parameter")


def _by_block(ours: "Gradients", without: "Gradients") -> Iterator[Row]:
    yield header_row("", "with shortcuts", "", "without", "")
    means, others = ours.by_part(), without.by_part()
    largest = max(*means.values(), *others.values(), 0.0)
    for part, mean in means.items():
        other = others[part]
        bars = (_bar(mean, largest), _bar(other, largest))
        yield body_row(part, _short(mean), bars[0], _short(other), bars[1])


def _bar(value: float, largest: float) -> str:
    if not 0 < value < math.inf:
        return ""
    return bar(1 + math.log10(value / largest) / _DECADES, _BAR)


def _short(value: float) -> str:
    return f"{value:.1e}"


def _by_kind(means: dict[str, float]) -> Iterator[Row]:
    """A row for each kind of parameter: the first, the middle and the last block."""
    blocks = sorted({int(n.split(".")[1]) for n in means if n.startswith(_BLOCKS)})
    some = sorted({blocks[0], blocks[len(blocks) // 2], blocks[-1]})
    yield header_row("", *(f"block {block}" for block in some))
    prefix = f"{_BLOCKS}{blocks[0]}."
    for name in means:
        if name.startswith(prefix):
            kind = name.removeprefix(prefix)
            values = [means[f"{_BLOCKS}{block}.{kind}"] for block in some]
            yield body_row(kind, *map(_short, values))
    for name, value in means.items():
        if not name.startswith(_BLOCKS):
            yield body_row(name, _short(value), *[""] * (len(some) - 1))


def _show_demonstration(report: Report) -> None:
    from gptcli.model.shortcut import BOOK_GRADIENTS, demonstration

    report.heading("The book's five layers (seed 123, input 1, 0, -1)")
    columns: list[Sequence[float]] = []
    for shortcut in (False, True):
        columns += [demonstration(shortcut), BOOK_GRADIENTS[shortcut]]
    rows = [header_row("layer", "without", "in the book", "with shortcuts", "in the book")]
    for layer, values in enumerate(zip(*columns, strict=True)):
        rows.append(body_row(str(layer), *(f"{value:.8f}" for value in values)))
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
