"""What `inspect` found out about one target, and how --json shows it.

Reads a config and the headers of weight files; knows no terminal.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptcli.checkpoint.header import Header, TensorInfo, read_headers
from gptcli.checkpoint.layouts import Layout, all_tensors, implied_config, recognise
from gptcli.checkpoint.resolve import Target
from gptcli.cli.located import located
from gptcli.cli.render.counted import config_document
from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.interpret.weight_summary import implied_model, oddities, problems, stored
from gptcli.model.config import GPTConfig
from gptcli.model.parameters import Part, architecture

SCHEMA = "gptcli.inspect/1"


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of one model. Without a layout they are no GPT-2's, and `problems` says why."""

    path: Path
    headers: list[Header]
    layout: Layout | None
    implied: dict[str, object]
    problems: list[str]
    oddities: list[str]


@dataclass(frozen=True, slots=True)
class Inspected:
    """One target. `config` is None where not even the weights tell it.

    `knows_heads` is whether a config file said what no weights can: n_heads and drop_rate.
    """

    target: Target
    config: GPTConfig | None
    knows_heads: bool
    weights: Weights | None


def inspected(name: str | None, config: Path | None, weights: Path | None) -> Inspected:
    """Look at what the user named; nothing is downloaded.

    Raises:
        UsageError, InputError: from resolving the name, or from a file.
    """
    target = located(name, config, weights)
    if target.weights is None:
        if target.config is None:
            raise InputError(shown(target.name), "neither a config nor weights in it")
        return Inspected(target, target.config, True, None)
    found = _weights(target.weights, target.config)
    known = target.config
    if known is None and found.layout:
        try:
            known = implied_model(found.headers, found.layout)
        except InputError:  # `problems` has it
            known = None
    return Inspected(target, known, target.config is not None, found)


def _weights(path: Path, config: GPTConfig | None) -> Weights:
    headers = read_headers(path)
    try:
        layout = recognise(headers)
    except InputError as error:
        return Weights(path, headers, None, {}, [error.problem], [])
    implied = implied_config(headers, layout)
    wrong = problems(headers, layout, config)
    return Weights(path, headers, layout, implied, wrong, oddities(headers, layout))


def document(found: Inspected) -> dict[str, Any]:
    """The object that --json prints. Offsets and sizes are in bytes, `share` is of 1."""
    config = found.config
    tree = architecture(config) if config else None
    return {
        "schema": SCHEMA,
        "name": found.target.name,
        "config": config_document(config, knows_heads=found.knows_heads) if config else None,
        "architecture": _part(tree, tree.count) if tree else None,
        "weights": _weights_document(found.weights) if found.weights else None,
    }


def _part(part: Part, total: int) -> dict[str, Any]:
    count = {"parameters": part.count, "share": part.count / total}
    if part.shape:
        return {"name": part.name, "shape": part.shape, "shared": part.is_shared, **count}
    inside = [_part(inner, total) for inner in part.parts]
    return {"name": part.name, "kind": part.kind, "copies": part.copies, **count, "parts": inside}


def _weights_document(weights: Weights) -> dict[str, Any]:
    layout = weights.layout
    return {
        "files": [
            {
                "path": str(header.path),
                "bytes": header.size,
                "header_bytes": header.header_bytes,
                "metadata": header.metadata,
            }
            for header in weights.headers
        ],
        "layout": layout.name if layout else None,
        "prefix": layout.prefix if layout else None,
        "implied_config": weights.implied,
        "stored": asdict(stored(weights.headers, layout)) if layout else None,
        "problems": weights.problems,
        "oddities": weights.oddities,
        "tensors": [_tensor(info) for info in all_tensors(weights.headers).values()],
    }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "dtype": info.dtype,
        "shape": info.shape,
        "bytes": info.nbytes,
        "start": info.start,
        "end": info.end,
        "file": info.path.name,
    }
