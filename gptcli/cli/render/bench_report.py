"""The report of `bench`: speeds, compared with the machine's own rates, and memory."""

from collections.abc import Iterable, Iterator
from typing import Any

from gptcli.cli.render.table import HEADING, QUIET, Report, Row
from gptcli.core.escape import shown
from gptcli.core.units import bytes_text
from gptcli.model.config import GPTConfig
from gptcli.model.parameters import count

Spread = dict[str, float]  # median, low, high
_KEYS = ("median", "low", "high")

NOTES = (
    "decode, memory: each token moves all weights of the linear layers, and the keys and values so "
    "far. The machine's rate is that of reading or copying as many bytes with as many threads, "
    "whichever is faster; a small model that stays in a cache can beat it.",
    "matmul: multiplications and additions of the linear layers and of attention. The machine's "
    "rate is that of a square float32 matmul by NumPy's BLAS.",
    "outside the engine: what is not spent in the network: sampling, and the loop.",
    "batch: new tokens only, though its time includes the prefill.",
)


def show(document: dict[str, Any], *, details: bool = False) -> None:
    """Print the JSON of `bench` as a table; with `details` what the figures mean."""
    report, work, summary = Report(), document["workload"], document["summary"]
    total = count(GPTConfig(**document["config"])).total
    report.title(
        f"{shown(document['model'])}: {total:,} parameters, {document['width']}, "
        f"{document['device']}, threads {document['threads']}, runs {work['runs']}"
    )
    report.title(f"{shown(document['processor'])}, {document['engine']}", QUIET)
    report.rows(list(_rows(work, summary)), right=range(1, 4))
    if details:
        report.heading("What is measured")
        report.bullets(NOTES)
    else:
        report.blank_line()
        report.more_details("what is measured")


def _rows(work: dict[str, int], summary: dict[str, Any]) -> Iterator[Row]:
    yield from _section("Speed", _KEYS)
    yield _speed("load", summary["load"], 1, "s")
    yield _speed(f"first token after {work['prompt']}", summary["first"], 1e3, "ms")
    yield _speed(f"prefill of {work['prefill']}", summary["prefill"], 1, "tok/s")
    yield _speed(f"decode {work['new_tokens']}", summary["decode"], 1, "tok/s")
    yield _speed("  each token", summary["token"], 1e3, "ms")
    yield _speed("  outside the engine", summary["outside_engine"], 1e3, "ms")
    if summary["batch"]:
        name = f"batch, {work['rows']} x {work['row_tokens']}"
        yield _speed(name, summary["batch"], 1, "tok/s")
    yield from _section("Compared with the machine", ("model", "machine", "share"))
    yield _comparison("decode, memory", summary["memory"], "GB/s")
    yield _comparison("prefill, matmul", summary["prefill_matmul"], "GFLOP/s")
    if summary["batch_matmul"]:
        yield _comparison("batch, matmul", summary["batch_matmul"], "GFLOP/s")
    yield from _section("Memory", ("",))
    yield Row(("weights read per token", bytes_text(summary["weights"])), "  ", "  ")
    yield Row(("peak, one sequence", _peak(summary["peak"])), "  ", "  ")


def _section(title: str, columns: Iterable[str]) -> Iterator[Row]:
    yield Row(("",))
    yield Row((title, *columns), style=HEADING)


def _speed(name: str, spread: Spread, scale: float, unit: str) -> Row:
    cells = (f"{_three_digits(spread[key] * scale)} {unit}" for key in _KEYS)
    return Row((name, *cells), "  ", "  ")


def _comparison(name: str, pair: dict[str, Spread], unit: str) -> Row:
    rates = (f"{_three_digits(pair[key]['median'] / 1e9)} {unit}" for key in ("model", "machine"))
    share = pair["share"]
    spread = f"{share['median']:.0%} ({share['low']:.0%} to {share['high']:.0%})"
    return Row((name, *rates, spread), "  ", "  ")


def _three_digits(number: float) -> str:
    """Three significant digits: 0.312, 48.2, 1,270."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.{2 if number >= 1 else 3}f}"


def _peak(peak: int | None) -> str:
    return "not known" if peak is None else bytes_text(peak)
