"""The report of `inspect --stats` and its JSON: statistics of each tensor's values."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from gptcli.checkpoint.header import MAX_NAME
from gptcli.cli.render.inspect_report import IN_BLOCK
from gptcli.cli.render.table import WRONG, Canvas, Report, Row, body_row
from gptcli.core.escape import listed, shown
from gptcli.core.units import plural
from gptcli.interpret.model_files import ModelFiles
from gptcli.interpret.tensor_stats import Stats, merged

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = ("min", "max", "mean", "deviation", "norm")
EXPLANATION = (
    "Of finite values: deviation is the square root of the mean squared distance from the mean, "
    "norm the square root of the sum of squares. The bars are 12 equal ranges from min to max. "
    "Damaged values are NaN or infinite."
)


def stats_document(measures: Sequence[Stats]) -> list[dict[str, Any]]:
    """What --json has as "stats": an object for each tensor, in the order of the data.

    name, dtype, shape, elements, nan, infinite, zeros; minimum, maximum, mean, deviation and norm
    of the finite values (null where there are none, or where float64 cannot hold it); histogram:
    counts of 12 equal ranges from minimum to maximum.
    """
    return [asdict(one) for one in measures]


def show_stats(
    files: ModelFiles,
    measures: Sequence[Stats],
    canvas: Canvas | None = None,
    *,
    details: bool = False,
) -> None:
    """Print the table, and what looks wrong.

    Without `details` the tensors of one name in all blocks are one row, without a histogram.
    """
    report = Report(canvas)
    report.title(shown(files.target.name))
    titles, rows = _table(measures if details else over_blocks(measures))
    columns = [number for number, title in enumerate(titles, 1) if title != "histogram"]
    report.titled_rows(titles, rows, right=columns)
    if details:
        report.heading("What the numbers are")
        report.bullets([EXPLANATION])
    if sentences := list(suspicious(measures)):
        report.heading("Suspicious")
        report.bullets(sentences, WRONG)
    if not details:
        report.blank_line()
        report.more_details("each tensor by itself, with a histogram")


def over_blocks(measures: Sequence[Stats]) -> list[Stats]:
    """Statistics of the tensors of one name in all blocks together."""
    kinds: dict[tuple[str, str], list[Stats]] = {}
    for one in measures:
        match = IN_BLOCK.fullmatch(one.name)
        start, rest = (match[1], match[3]) if match else (one.name, "")
        kinds.setdefault((start, rest), []).append(one)
    return [_merged_blocks(start, rest, some) for (start, rest), some in kinds.items()]


def _merged_blocks(start: str, rest: str, some: Sequence[Stats]) -> Stats:
    if not rest:
        return replace(some[0], histogram=())
    numbers = [int(one.name.removeprefix(start).partition(".")[0]) for one in some]
    low, high = min(numbers), max(numbers)
    return merged(f"{start}{low}-{high}{rest}" if high > low else f"{start}{low}{rest}", some)


def suspicious(measures: Sequence[Stats]) -> Iterator[str]:
    """Sentences on what a trained model should not have: NaN, infinity, constant tensors."""
    broken = [one for one in measures if one.nan or one.infinite]
    if broken:
        nan, infinite = sum(one.nan for one in broken), sum(one.infinite for one in broken)
        names = listed(one.name for one in broken)
        yield f"{nan:,} NaN and {infinite:,} infinite values, in {_tensors(broken)} ({names})."
    zero = [one for one in measures if one.elements and one.zeros == one.elements]
    if zero:
        yield f"Nothing but zeros in {_tensors(zero)} ({listed(one.name for one in zero)})."
    same = [o for o in measures if o.elements > 1 and o.minimum == o.maximum and o.minimum]
    if same:
        yield f"One value everywhere in {_tensors(same)} ({listed(one.name for one in same)})."
    unread = [one for one in measures if not one.was_read]
    if unread:
        dtypes = listed(dict.fromkeys(one.dtype for one in unread))
        yield f"Not measured, because of their dtype ({dtypes}): {_tensors(unread)}."


def _tensors(some: Sequence[Stats]) -> str:
    return plural(len(some), "tensor")


def _numbers(one: Stats) -> list[str]:
    values = (one.minimum, one.maximum, one.mean, one.deviation, one.norm)
    return ["-" if value is None else f"{value:.3g}" for value in values]


def _counts(one: Stats) -> list[str]:
    return [f"{one.zeros:,}", f"{one.nan + one.infinite:,}"]


def _table(measures: Sequence[Stats]) -> tuple[list[str], list[Row]]:
    """Titles and a row for each tensor; a column of counts only if one of them is not 0."""
    counts = [_counts(one) for one in measures]
    used = [column for column in (0, 1) if any(cells[column] != "0" for cells in counts)]
    drawn = any(one.histogram for one in measures)
    rows = []
    for one, cells in zip(measures, counts, strict=True):
        values = (*_numbers(one), *(cells[column] for column in used))
        values += (bars(one.histogram),) if drawn else ()
        style = WRONG if one.nan or one.infinite else ""
        rows.append(body_row(shown(one.name, MAX_NAME), *values, style=style))
    counted = [("zeros", "damaged")[column] for column in used]
    return [*COLUMNS, *counted, *(["histogram"] if drawn else [])], rows


def bars(counts: Sequence[int]) -> str:
    """A histogram as a line of bars: the lowest bar for a few values, a space for none."""
    most = max(counts, default=0)
    return "".join(" " if not n else BARS[(len(BARS) * n - 1) // most] for n in counts)
