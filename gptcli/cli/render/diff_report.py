"""The report of `inspect A B` and its JSON: the differences between two models."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gptcli.checkpoint.header import MAX_NAME
from gptcli.cli.render.inspect_report import IN_BLOCK, rows_by_block, shape_text
from gptcli.cli.render.table import Report, Row, body_row
from gptcli.core.escape import listed, shown
from gptcli.core.units import plural
from gptcli.interpret.canonical_weights import NamedTensor
from gptcli.interpret.model_diff import Comparison, Distance, Pair

MOST_ROWS, MOST_VALUES = 6, 10  # without --details
SCHEMA = "gptcli.inspect-diff/1"
TYING = {
    None: "no head or no embedding",
    "shared": "tied: the head is the embedding",
    "copied": "tied: the head is a copy of the embedding",
    "own": "a head of its own",
}


def diff_document(names: tuple[str, str], found: Comparison) -> dict[str, Any]:
    """The object that --json prints; "a" and "b" are the first target and the second.

    equal: whether they are the same model. config: key → a and b, where they differ. tying: null,
    "shared" (no head is stored), "copied" (stored, equal to the embedding) or "own". removed and
    added: tensors that only a or only b has. tensors: those that both have, with `equal` and,
    where values were compared, `distance`: elements, differing, not_finite, maximum |a - b| and the
    index `at` of it, relative norm(a - b) / norm(a), cosine. whole: the same for all of them as one
    vector, null where no values were compared.
    """
    return {
        "schema": SCHEMA,
        "a": names[0],
        "b": names[1],
        "equal": found.is_equal,
        "config": {key: {"a": a, "b": b} for key, (a, b) in found.config.items()},
        "tying": {"a": found.tying[0], "b": found.tying[1]},
        "removed": [_tensor(name, tensor) for name, tensor in found.removed.items()],
        "added": [_tensor(name, tensor) for name, tensor in found.added.items()],
        "tensors": [_pair(pair) for pair in found.pairs],
        "whole": asdict(found.whole) if found.whole else None,
    }


def _tensor(name: str, tensor: NamedTensor) -> dict[str, Any]:
    return {"name": name, "shape": tensor.shape, "dtype": tensor.dtype}


def _pair(pair: Pair) -> dict[str, Any]:
    distance = asdict(pair.distance) | {"at": pair.argmax or None} if pair.distance else None
    return {
        "name": pair.name,
        "equal": pair.is_equal,
        "shape": {"a": pair.shapes[0], "b": pair.shapes[1]},
        "dtype": {"a": pair.dtypes[0], "b": pair.dtypes[1]},
        "distance": distance,
    }


def show_diff(names: tuple[str, str], found: Comparison, *, details: bool = False) -> None:
    """Print what differs and by how much.

    Without `details`: the first tensors of each kind, and those whose values differ most.
    """
    report = Report()
    for letter, name in zip("AB", names, strict=True):
        report.title(f"{letter}  {shown(name)}")
    report.heading("Result")
    report.bullets(_result(found))
    if found.config:
        report.heading("Config")
        changes = found.config.items()
        report.pairs((key, f"{_value(a)} → {_value(b)}") for key, (a, b) in changes)
    for title, tensors in (("Only in A", found.removed), ("Only in B", found.added)):
        if tensors:
            report.heading(f"{title}: {_tensors(len(tensors))}")
            described = {name: _described(tensor) for name, tensor in tensors.items()}
            if not details:
                described = _by_block(described, [pair.name for pair in found.pairs])
            rows = rows_by_block(described.items())
            report.first_rows(rows, len(rows) if details else MOST_ROWS)
    reshaped = [pair for pair in found.pairs if pair.shapes[0] != pair.shapes[1]]
    if reshaped:
        report.heading(f"Other shape: {_tensors(len(reshaped))}")
        rows = rows_by_block((pair.name, _shapes(pair)) for pair in reshaped)
        report.first_rows(rows, len(rows) if details else MOST_ROWS)
    changed = [pair for pair in found.pairs if pair.distance and not pair.is_equal]
    _show_values(report, changed, details=details)


def _by_block(described: Mapping[str, str], common: Iterable[str]) -> dict[str, str]:
    """Descriptions by name; a block that the other model lacks is one entry."""
    shared = {match.group(1, 2) for name in common if (match := IN_BLOCK.fullmatch(name))}
    blocks: dict[str, int] = {}
    shortened: dict[str, str] = {}
    for name, what in described.items():
        match = IN_BLOCK.fullmatch(name)
        if match is None or match.group(1, 2) in shared:
            shortened[name] = what
            continue
        block = f"{match[1]}{match[2]}.*"
        blocks[block] = blocks.get(block, 0) + 1
        shortened[block] = f"{_tensors(blocks[block])} each"
    return shortened


def _show_values(report: Report, changed: Sequence[Pair], *, details: bool) -> None:
    if not changed:
        return
    title = f"Other values or dtype: {_tensors(len(changed))}"
    if len(changed) > MOST_VALUES and not details:
        title += f", the {MOST_VALUES} that differ most (--details: all)"
        changed = sorted(changed, key=_by_relative_difference, reverse=True)[:MOST_VALUES]
    report.heading(title)
    titles = ("differing", "max |a-b|", "at", "relative", "cosine", "dtype")
    report.titled_rows(titles, [_value_row(pair) for pair in changed], right=(1, 2, 4, 5))


def _by_relative_difference(pair: Pair) -> float:
    """Sort key; infinite if values are not finite."""
    assert pair.distance is not None, pair.name
    relative = pair.distance.relative
    return math.inf if pair.distance.not_finite or relative is None else relative


def _result(found: Comparison) -> Iterator[str]:
    """The result in sentences, the verdict first."""
    if found.is_equal:
        yield "The same model." if found.whole else "The same shapes; no values were compared."
    else:
        unequal = sum(not pair.is_equal for pair in found.pairs)
        parts = [
            f"{plural(len(found.config), 'key')} of the config" if found.config else "",
            f"{_tensors(len(found.removed))} only in A" if found.removed else "",
            f"{_tensors(len(found.added))} only in B" if found.added else "",
            f"{unequal:,} of the {_tensors(len(found.pairs))} in both" if unequal else "",
            "whether the head is tied"
            if "own" in found.tying and len(set(found.tying)) > 1
            else "",
        ]
        yield f"They differ: {', '.join(filter(None, parts))}."
    if found.tying[0] == found.tying[1]:
        yield f"Output head: {TYING[found.tying[0]]}."
    else:
        yield f"Output head: in A {TYING[found.tying[0]]}, in B {TYING[found.tying[1]]}."
    if found.whole:
        yield _total(found.whole)


def _total(whole: Distance) -> str:
    if not whole.differing:
        return f"All {whole.elements:,} values that both have are equal."
    broken = f" ({whole.not_finite:,} of them not finite)" if whole.not_finite else ""
    relative, cosine = _number(whole.relative), _number(whole.cosine, 9)
    return (
        f"{whole.differing:,} of {whole.elements:,} values differ{broken}: at most "
        f"{whole.maximum:.3g}, relative {relative}, cosine {cosine}."
    )


def _tensors(count: int) -> str:
    return plural(count, "tensor")


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else shown(value)


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _described(tensor: NamedTensor) -> str:
    return f"{shape_text(tensor.shape)}  {tensor.dtype or ''}".rstrip()


def _shapes(pair: Pair) -> str:
    return f"{shape_text(pair.shapes[0])} → {shape_text(pair.shapes[1])}"


def _value_row(pair: Pair) -> Row:
    distance = pair.distance
    assert distance is not None, pair.name
    a, b = (dtype or "zero" for dtype in pair.dtypes)
    return body_row(
        shown(pair.name, MAX_NAME),
        f"{distance.differing:,}",
        "not finite" if distance.not_finite else f"{distance.maximum:.3g}",
        listed([", ".join(map(str, pair.argmax))]) if pair.argmax else "-",
        _number(distance.relative),
        _number(distance.cosine, 9),
        a if a == b else f"{a} → {b}",
    )
