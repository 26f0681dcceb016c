"""The report of `bench`: speeds, compared with the machine's own, and memory."""

from collections.abc import Iterable, Iterator
from typing import Any

from gptcli.cli.render.table import HEADING, QUIET, Report, Row
from gptcli.core.escape import shown
from gptcli.core.units import bytes_text
from gptcli.model.config import GPTConfig
from gptcli.model.parameters import count

Spread = dict[str, float]
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
    """Print a document of `gptcli.cli.commands.bench`; with `details` what is measured."""
    report, work, found = Report(), document["workload"], document["summary"]
    total = count(GPTConfig(**document["config"])).total
    report.title(
        f"{shown(document['model'])}: {total:,} parameters, {document['width']}, "
        f"{document['device']}, threads {document['threads']}, runs {work['runs']}"
    )
    report.title(f"{shown(document['processor'])}, {document['engine']}", QUIET)
    report.rows(list(_rows(work, found)), right=range(1, 4))
    if details:
        report.heading("What is measured")
        report.points(NOTES)
    else:
        report.space()
        report.more("what is measured")


def _rows(work: dict[str, int], found: dict[str, Any]) -> Iterator[Row]:
    yield from _section("Speed", _KEYS)
    yield _line("load", found["load"], 1, "s")
    yield _line(f"first token after {work['prompt']}", found["first"], 1e3, "ms")
    yield _line(f"prefill of {work['prefill']}", found["prefill"], 1, "tok/s")
    yield _line(f"decode {work['new_tokens']}", found["decode"], 1, "tok/s")
    yield _line("  each token", found["token"], 1e3, "ms")
    yield _line("  outside the engine", found["outside"], 1e3, "ms")
    if found["batch"]:
        name = f"batch, {work['rows']} x {work['row_tokens']}"
        yield _line(name, found["batch"], 1, "tok/s")
    yield from _section("Compared with the machine", ("model", "machine", "share"))
    yield _compared("decode, memory", found["memory"], "GB/s")
    yield _compared("prefill, matmul", found["products"], "GFLOP/s")
    if found["batch_products"]:
        yield _compared("batch, matmul", found["batch_products"], "GFLOP/s")
    yield from _section("Memory", ("",))
    yield Row(("weights read per token", bytes_text(found["weights"])), "  ", "  ")
    yield Row(("peak, one sequence", _peak(found["peak"])), "  ", "  ")


def _section(title: str, columns: Iterable[str]) -> Iterator[Row]:
    yield Row(("",))
    yield Row((title, *columns), style=HEADING)


def _line(name: str, spread: Spread, scale: float, unit: str) -> Row:
    cells = (f"{_three(spread[key] * scale)} {unit}" for key in _KEYS)
    return Row((name, *cells), "  ", "  ")


def _compared(name: str, pair: dict[str, Spread], unit: str) -> Row:
    rates = (f"{_three(pair[key]['median'] / 1e9)} {unit}" for key in ("model", "machine"))
    share = pair["share"]
    spread = f"{share['median']:.0%} ({share['low']:.0%} to {share['high']:.0%})"
    return Row((name, *rates, spread), "  ", "  ")


def _three(number: float) -> str:
    """Three digits that matter: 0.312, 48.2, 1,270."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.{2 if number >= 1 else 3}f}"


def _peak(peak: int | None) -> str:
    return "not known" if peak is None else bytes_text(peak)
