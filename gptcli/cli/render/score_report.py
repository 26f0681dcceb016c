"""The report of `score`: a table for each text, one JSON object, or a line for each document."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from gptcli.cli.render import console
from gptcli.cli.render.table import QUIET, Report, Row
from gptcli.core.escape import shown
from gptcli.core.units import plural

if TYPE_CHECKING:
    from gptcli.diagnostics.score import Comparison, Score

SCHEMA, DOCUMENT_SCHEMA = "gptcli.score/1", "gptcli.score.document/1"
_TITLES = ("tokens", "nats/token", "perplexity", "bits/byte")
_COMPARED = ("difference", "KL", "same choice")


def show(scores: "Sequence[Score]") -> None:
    """A table for each text: a row for each model."""
    report = Report()
    for number, (_, group) in enumerate(groupby(scores, key=lambda found: found.text)):
        found = list(group)
        if number:
            report.blank_line()
        first = found[0]
        documents = plural(len(first.document_bytes), "document")
        report.title(f"{shown(first.text)}: {documents}, {plural(first.bytes, 'byte')}")
        titles = _TITLES + (_COMPARED if len(found) > 1 else ())
        rows = [Row(_cells(each, len(found) > 1)) for each in found]
        report.titled_rows(titles, rows, right=range(1, len(titles) + 1))
    if any(found.comparison for found in scores):
        report.paragraph(
            "difference in nats a token (bits a byte where the tokens are others) from the first"
            " model, and KL divergence from it in nats a token",
            QUIET,
        )


def _cells(found: "Score", compared: bool) -> tuple[str, ...]:
    cells = (
        shown(found.model),
        f"{found.tokens:,}",
        _with_error(f"{found.nats_per_token:.4f}", found.stderr),
        f"{found.perplexity:,.3f}",
        f"{found.bits_per_byte:.4f}",
    )
    return cells + (_compared_cells(found.comparison) if compared else ())


def _compared_cells(comparison: "Comparison | None") -> tuple[str, ...]:
    if comparison is None:
        return ("", "", "")
    if comparison.nats_per_token is None:
        bits = f"{comparison.bits_per_byte:+.4f}"
        return (_with_error(bits, comparison.bits_per_byte_stderr), "", "")
    return (
        _with_error(f"{comparison.nats_per_token:+.5f}", comparison.stderr, places=5),
        f"{comparison.kl:.5f}",
        f"{comparison.same_choice:.1%}",
    )


def _with_error(value: str, error: float | None, places: int = 4) -> str:
    return value if error is None else f"{value} ± {error:.{places}f}"


def document(scores: "Sequence[Score]") -> dict[str, Any]:
    """All scores as one JSON object."""
    return {"schema": SCHEMA, "results": [_result(found) for found in scores]}


def _result(found: "Score") -> dict[str, Any]:
    comparison = found.comparison
    return {
        "model": found.model,
        "text": found.text,
        "documents": len(found.document_bytes),
        "tokens": found.tokens,
        "bytes": found.bytes,
        "nats_per_token": console.json_number(found.nats_per_token),
        "stderr": console.json_number(found.stderr),
        "perplexity": console.json_number(found.perplexity),
        "bits_per_byte": console.json_number(found.bits_per_byte),
        "compared_with_first": comparison
        and {name: console.json_number(value) for name, value in asdict(comparison).items()},
    }


def print_documents(scores: "Sequence[Score]") -> None:
    """Print a line of JSON for each document and model."""
    for number, size in enumerate(scores[0].document_bytes.tolist()):
        for found in scores:
            nats = float(found.document_nats[number])
            tokens = int(found.document_tokens[number])
            console.print_json(
                {
                    "schema": DOCUMENT_SCHEMA,
                    "model": found.model,
                    "text": found.text,
                    "document": number + 1,
                    "tokens": tokens,
                    "bytes": int(size),
                    "nats": console.json_number(nats),
                    "nats_per_token": console.json_number(nats / tokens if tokens else None),
                    "bits_per_byte": console.json_number(nats / math.log(2) / size),
                }
            )
