"""The table of `bench`: speeds, how near they are to the machine's own, and what they cost."""

from collections.abc import Iterable, Iterator
from typing import Any

from gptcli.cli.render.table import HEADING, QUIET, Report, Row
from gptcli.core.escape import shown
from gptcli.model.config import GPTConfig
from gptcli.model.parameters import count

Spread = dict[str, float]
_KEYS = ("median", "low", "high")

NOTES = (
    "decode moves every weight of the linear layers once a token, and the keys and values so far. "
    "The machine's bytes are those of summing or copying as many, whichever is faster, both ways "
    "counted; a small model may stay in a cache that the machine's own pass leaves.",
    "products are multiplications and additions of the linear layers and of attention. The "
    "machine's are those of a square product at this width (bfloat16 for int4).",
    "outside the blocks is the same loop around the placeholder, whose blocks do nothing: "
    "embedding, norm, output head, choosing the token.",
    "batch counts new tokens; its time includes reading the prompts.",
)


def show(document: dict[str, Any], *, details: bool = False) -> None:
    """Print a document of `gptcli.cli.commands.bench`; with `details` what the words mean."""
    report, work, found = Report(), document["workload"], document["summary"]
    total = count(GPTConfig(**document["config"])).total
    report.title(
        f"{shown(document['model'])}: {total:,} parameters, {document['width']}, "
        f"{document['device']}, threads {document['threads']}, runs {work['runs']}"
    )
    report.title(f"{shown(document['processor'])}, PyTorch {document['torch']}", QUIET)
    report.rows(list(_rows(work, found)), right=range(1, 4))
    if details:
        report.heading("What the words mean")
        report.points(NOTES)
    else:
        report.space()
        report.more("what the words mean")


def _rows(work: dict[str, int], found: dict[str, Any]) -> Iterator[Row]:
    yield from _section("Speed", _KEYS)
    yield _line("load", found["load"], 1, "s")
    yield _line(f"first token after {work['prompt']}", found["first"], 1e3, "ms")
    yield _line(f"prefill of {work['prefill']}", found["prefill"], 1, "tok/s")
    yield _line(f"decode {work['new_tokens']}", found["decode"], 1, "tok/s")
    if found["batch"]:
        name = f"batch, {work['rows']} x {work['row_tokens']}"
        yield _line(name, found["batch"], 1, "tok/s")
    yield from _section("Next to the machine", ("model", "machine", "share"))
    yield _compared("decode, memory", found["memory"], "GB/s")
    yield _compared("prefill, products", found["products"], "GFLOP/s")
    if found["batch_products"]:
        yield _compared("batch, products", found["batch_products"], "GFLOP/s")
    yield from _section("Time of a token", _KEYS)
    yield _line("decode", found["token"], 1e3, "ms")
    yield _line("outside the blocks", found["outside"], 1e3, "ms")
    yield from _section("Memory", ("",))
    yield Row(("weights a token reads", f"{found['weights'] / 1e6:,.1f} MB"), "  ", "  ")
    yield Row(("peak, with one text", _peak(found["peak"])), "  ", "  ")


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
    return "not known" if peak is None else f"{peak / 1e6:,.1f} MB"
