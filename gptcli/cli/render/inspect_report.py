"""The report of `inspect` and its JSON: the architecture as a tree, and the weight files."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from gptcli.checkpoint.header import MAX_NAME, TensorInfo
from gptcli.checkpoint.layouts import all_tensors
from gptcli.cli.render.count_params_report import config_document, value_text
from gptcli.cli.render.table import WRONG, Canvas, Report, Row, body_row
from gptcli.core.escape import shown
from gptcli.core.units import bytes_text, plural
from gptcli.interpret.model_files import ModelFiles, WeightFiles
from gptcli.interpret.weight_summary import FileTotals, file_totals
from gptcli.model.config import OPTIONAL_KEYS, GPTConfig
from gptcli.model.parameters import Part, architecture

SCHEMA = "gptcli.inspect/1"
IN_BLOCK = re.compile(r"(\D*\.|)(\d{1,9})(\..*)", re.DOTALL)  # h.0.attn.c_attn.weight
LAYOUTS = {
    "book": "the book's names",
    "huggingface": "Hugging Face's GPT-2: query, key and value fused, inputs before outputs",
    "nanogpt": "nanoGPT's: query, key and value fused, outputs before inputs as in the book",
    "quantized": "quantised by gptcli: the book's names, each matrix as whole numbers and scales",
}
MOST_ROWS = 20  # of tensors that belong to no GPT-2


def show(files: ModelFiles, canvas: Canvas | None = None, *, details: bool = False) -> None:
    """Print the tree and a summary of the files; with `details` every tensor too."""
    report = Report(canvas)
    name = shown(files.target.name)
    if files.config and not details:
        name += f": {_config_line(files, files.config)}"
    report.title(name)
    if files.config and details:
        _show_config(report, files, files.config)
        tree = architecture(files.config)
        report.heading("Architecture (shapes as the book's class has them: out x in + bias)")
        report.rows(list(_tree(tree, tree.count)), right=(2, 3))
    elif files.config:
        tree = architecture(files.config)
        report.rows(list(_short_tree(tree, tree.count)), right=(2, 3))
    if files.weights and details:
        _show_weights(report, files.weights)
    elif files.weights:
        _summarise_weights(report, files.weights)
    if files.weights:
        _show_notes(report, files.weights)
    if not details:
        report.more_details(
            "every tensor and the whole config" if files.weights else "the whole config"
        )


def _config_line(files: ModelFiles, config: GPTConfig) -> str:
    heads = f"{plural(config.n_heads, 'head')} of {config.head_dim:,}"
    shown_apart = {"tokenizer", "tie_weights"}
    optional = [
        f"{key} {shown(value)}"
        for key, value in config.to_dict().items()
        if key in OPTIONAL_KEYS and key not in shown_apart
    ]
    parts = [
        plural(config.n_layers, "layer"),
        heads if files.knows_heads else "heads not in the weights",
        f"context {config.context_length:,}",
        f"dropout {config.drop_rate:g}" if files.knows_heads else "",
        "qkv bias" if config.qkv_bias else "",
        "tied" if config.tie_weights else "untied",
        *optional,
    ]
    return ", ".join(filter(None, parts))


def _show_config(report: Report, files: ModelFiles, config: GPTConfig) -> None:
    report.heading("Config" if files.knows_heads else "Config, as far as the weights tell")
    values = {key: value_text(value) for key, value in config.to_dict().items()}
    values |= {"tie_weights": value_text(config.tie_weights)}
    if files.knows_heads:
        values["n_heads"] += f", each {config.head_dim:,} wide"
    else:
        values["n_heads"] = "not in the weights" + _likely_heads(config)
        values["drop_rate"] = "not in the weights"
    report.pairs(values.items())


def _likely_heads(config: GPTConfig) -> str:
    heads, rest = divmod(config.emb_dim, 64)
    return f"; {heads:,} if a head is 64 wide, as GPT-2's are" if heads and not rest else ""


def _tree(part: Part, total: int, first: str = "", rest: str = "") -> Iterator[Row]:
    """A module, then its children; its own tensors are shapes on its line."""
    inner = [child for child in part.parts if not child.shape]
    if part.kind == "TransformerBlock":
        yield _branch(
            part.name, plural(part.copies, "equal block"), part.count, total, first, rest, 1
        )
        name = f"0-{part.copies - 1}" if part.copies > 1 else "0"
        one = replace(part, name=name, kind="one block", copies=1)
        yield from _tree(one, total, rest + "└─ ", rest + "   ")
        return
    yield _branch(part.name, _described(part), part.count, total, first, rest, len(inner))
    for child in inner:
        guides = ("└─ ", "   ") if child is inner[-1] else ("├─ ", "│  ")
        yield from _tree(child, total, rest + guides[0], rest + guides[1])


def _branch(
    name: str, what: str, count: int, total: int, first: str, rest: str, children: int
) -> Row:
    share = "" if not count else f"{count / total:.2%}" if count / total >= 0.0001 else "<0.01%"
    number = f"{count:,}" if count or "is" in what else ""
    return Row((name, what, number, share), first, rest + ("│ " if children else " "))


def _short_tree(part: Part, total: int, first: str = "", rest: str = "") -> Iterator[Row]:
    """The tree without dropout, and with a module's only child on the module's line."""
    inner = [child for child in part.parts if not child.shape and child.kind != "Dropout"]
    name, what = part.name, _described(part)
    if len(inner) == 1:  # ff.layers
        name, inner = f"{name}.{inner[0].name}", list(inner[0].parts)
    if part.copies > 1 or part.kind == "TransformerBlock":
        name = f"{name}.0-{part.copies - 1}" if part.copies > 1 else f"{name}.0"
        what = f"{plural(part.copies, 'block')} of {part.count // part.copies:,}"
    yield _branch(name, what, part.count, total, first, rest, len(inner))
    for child in inner:
        guides = ("└─ ", "   ") if child is inner[-1] else ("├─ ", "│  ")
        yield from _short_tree(child, total, rest + guides[0], rest + guides[1])


def _described(part: Part) -> str:
    shapes = " + ".join(shape_text(child.shape) for child in part.parts if child.shape)
    return " ".join(filter(None, (part.kind, shapes, part.detail)))


def shape_text(shape: Sequence[int]) -> str:
    """`768 x 3072`; `scalar` for no dimensions."""
    return " x ".join(str(size) for size in shape) or "scalar"


def _show_weights(report: Report, weights: WeightFiles) -> None:
    report.heading("Weights")
    report.pairs(_facts(weights))
    for header in weights.headers:
        if header.metadata:
            report.heading(f"Metadata of {shown(header.path.name)}")
            report.pairs((shown(key), shown(value)) for key, value in header.metadata.items())
    for header in weights.headers:
        report.heading(
            f"Tensors of {shown(header.path.name)} (in the order of their data; bytes, from, to)"
        )
        report.rows([_tensor_row(info) for info in header.tensors.values()], right=(3, 4, 5))


def _summarise_weights(report: Report, weights: WeightFiles) -> None:
    """Path, size, layout and number of tensors; the names too if it is no GPT-2."""
    report.blank_line()
    report.pairs(_short_facts(weights))
    if weights.layout is None:
        infos = all_tensors(weights.headers).values()
        rows = rows_by_block(
            (info.name, f"{shape_text(info.shape)}  {info.dtype}") for info in infos
        )
        report.heading("Tensors")
        report.first_rows(rows, MOST_ROWS)


def _short_facts(weights: WeightFiles) -> Iterator[tuple[str, str]]:
    size = sum(header.size for header in weights.headers)
    shards = f"{len(weights.headers):,} shards, " if len(weights.headers) > 1 else ""
    yield "weights", f"{shown(weights.path)}, {shards}{bytes_text(size)}"
    if weights.layout is None:
        yield "layout", "not one of a GPT-2"
        return
    yield "layout", LAYOUTS[weights.layout.name]
    infos = all_tensors(weights.headers)
    sums = file_totals(weights.headers, weights.layout)
    in_blocks = [match for name in infos if (match := IN_BLOCK.fullmatch(name))]
    blocks = {match[2] for match in in_blocks}
    repeated = len({match[3] for match in in_blocks})
    text = f"{len(infos):,} in {'+'.join(sums.dtypes)}"
    if len(blocks) > 1 and repeated * len(blocks) == len(in_blocks):
        outside = len(infos) - len(in_blocks)
        text += f": {repeated:,} in each of {len(blocks):,} blocks, {outside:,} outside them"
    yield "tensors", text


def _show_notes(report: Report, weights: WeightFiles) -> None:
    for title, texts, style in (
        ("Notes", weights.oddities, ""),
        ("Missing or wrong", weights.problems, WRONG),
    ):
        if texts:
            report.heading(title)
            report.bullets(texts, style)


def rows_by_block(tensors: Iterable[tuple[str, str]]) -> list[Row]:
    """Rows of (name, description); equal ones of consecutive blocks share a row."""
    numbers: dict[tuple[str, str, str], list[int]] = {}
    for name, what in tensors:
        match = IN_BLOCK.fullmatch(name)
        start, number, rest = match.groups() if match else (name, "0", "")
        numbers.setdefault((start, rest, what), []).append(int(number))
    return [
        body_row(shown(start, MAX_NAME) + _block_range(first, last, rest), what)
        for (start, rest, what), found in numbers.items()
        for first, last in _runs(sorted(found))
    ]


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """1, 2, 3, 7 → (1, 3), (7, 7)."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


def _block_range(first: int, last: int, rest: str) -> str:
    return rest and (f"{first}{rest}" if first == last else f"{first}-{last}{rest}")


def _facts(weights: WeightFiles) -> Iterator[tuple[str, str]]:
    yield "file", shown(weights.path)
    if len(weights.headers) > 1:
        yield "shards", f"{len(weights.headers):,}"
    size = sum(header.size for header in weights.headers)
    yield "bytes", f"{size:,} ({bytes_text(size)})"
    if weights.layout is None:
        yield "layout", "not one of a GPT-2"
        return
    prefix = f', after "{weights.layout.prefix}"' if weights.layout.prefix else ""
    yield "layout", LAYOUTS[weights.layout.name] + prefix
    sums = file_totals(weights.headers, weights.layout)
    yield "tensors", f"{sums.tensors:,}"
    yield "elements", f"{sums.elements:,}{_split(sums)}"
    yield "dtypes", ", ".join(f"{dtype} {size:,} bytes" for dtype, size in sums.dtypes.items())


def _split(sums: FileTotals) -> str:
    parts = {
        "parameters": sums.parameters,
        "scales and zeros": sums.scales,
        "in masks": sums.masks,
        "unexpected": sums.unexpected,
    }
    return ": " + ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)


def _tensor_row(info: TensorInfo) -> Row:
    return body_row(
        shown(info.name, MAX_NAME),
        shape_text(info.shape),
        info.dtype,
        f"{info.nbytes:,}",
        f"{info.start:,}",
        f"{info.end:,}",
    )


def document(files: ModelFiles) -> dict[str, Any]:
    """The object that --json prints: offsets and sizes in bytes, `share` from 0 to 1."""
    config = files.config
    tree = architecture(config) if config else None
    return {
        "schema": SCHEMA,
        "name": files.target.name,
        "config": config_document(config, knows_heads=files.knows_heads) if config else None,
        "architecture": _part(tree, tree.count) if tree else None,
        "weights": _weights_document(files.weights) if files.weights else None,
    }


def _part(part: Part, total: int) -> dict[str, Any]:
    count = {"parameters": part.count, "share": part.count / total}
    if part.shape:
        return {"name": part.name, "shape": part.shape, "shared": part.is_shared, **count}
    parts = [_part(child, total) for child in part.parts]
    return {"name": part.name, "kind": part.kind, "copies": part.copies, **count, "parts": parts}


def _weights_document(weights: WeightFiles) -> dict[str, Any]:
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
        "stored": asdict(file_totals(weights.headers, layout)) if layout else None,
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
