"""Check a checkpoint's tensors against a config, reporting every problem at once."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from gptcli.checkpoint.header import Header, TensorInfo
from gptcli.checkpoint.layouts import (
    DTYPES,
    EMBEDDING,
    HEAD,
    Layout,
    all_tensors,
    expected_shapes,
    implied_config,
)
from gptcli.checkpoint.quantized import stored_tensors
from gptcli.core.errors import InputError
from gptcli.core.escape import listed, shown
from gptcli.core.units import plural
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import GROUP, Width

SIZES = ("vocab_size", "context_length", "emb_dim", "n_layers")
_MAX_OF_A_KIND = 5  # problems of one kind

Shape = tuple[int, ...]


def find_mismatches(headers: Sequence[Header], layout: Layout, config: GPTConfig) -> list[str]:
    """Differences between these weights and this config, a line each; empty if they match.

    A size in which the two differ is one problem; tensors are then checked against the file's size.
    A file without an output head is taken to be tied. In the book's layout, and in a file with a
    head for another task, it is a problem unless the config has `tie_weights`.
    """
    infos = all_tensors(headers)
    problems, config = _size_mismatches(implied_config(headers, layout), config)
    expected = expected_shapes(config)
    needs_tie_weights = layout.name in {"book", "quantized"} or bool(layout.other_heads)
    may_lack_head = layout.embedding_is_head or not needs_tie_weights
    if layout.embedding_is_head and not (layout.declares_tied or config.tie_weights):
        head = shown(layout.sources[EMBEDDING].name)
        problems.append(f"has no token embedding, and the config does not say that {head} is it")
    if HEAD not in layout.sources and (config.tie_weights or may_lack_head):
        del expected[HEAD]
    if layout.width:
        return problems + _quantized_mismatches(infos, expected, layout.width, config)
    if line := _name_mismatches(layout, expected):
        problems.append(line)
    problems += _limited(_wrong_shapes(infos, _source_shapes(layout, expected)))
    problems += _limited(_wrong_dtypes(infos, layout))
    return problems


def _size_mismatches(implied: dict[str, Any], config: GPTConfig) -> tuple[list[str], GPTConfig]:
    """Problems: the sizes in which config and file differ; and the config with the file's sizes."""
    usual = 4 * implied.get("emb_dim", config.emb_dim)
    implied = {"n_inner": usual, **implied}
    said = {key: getattr(config, key) for key in SIZES}
    said["n_inner"] = config.n_inner or usual
    changes = {key: implied[key] for key in said if implied.get(key) not in {None, said[key]}}
    problems = [
        f"{key}: the file has {value:,}, the config says {said[key]:,}"
        for key, value in changes.items()
    ]
    biases = implied["qkv_bias"]
    if biases != config.qkv_bias:
        has = "has" if biases else "has no"
        problems.append(
            f"the file {has} query/key/value biases but the config says qkv_bias: "
            f"{str(config.qkv_bias).lower()}"
        )
    try:
        return problems, replace(config, n_heads=1, qkv_bias=biases, **changes)
    except InputError:  # a size that no model has
        return problems, config


def _name_mismatches(layout: Layout, expected: dict[str, Shape]) -> str:
    """`3 tensors missing (...), 1 tensor unexpected (...)`, by the file's own names."""
    missing = [n for n in expected if n not in layout.sources and n not in layout.zero_biases]
    absent = dict.fromkeys(layout.file_name(name) for name in missing)
    surplus = [source.name for name, source in layout.sources.items() if name not in expected]
    return _missing_and_unexpected(absent, dict.fromkeys([*layout.unexpected, *surplus]))


def _missing_and_unexpected(absent: Collection[str], extra: Collection[str]) -> str:
    return ", ".join(
        f"{plural(len(names), 'tensor')} {word} ({listed(names)})"
        for names, word in ((absent, "missing"), (extra, "unexpected"))
        if names
    )


def _quantized_mismatches(
    infos: dict[str, TensorInfo], expected: dict[str, Shape], width: Width, config: GPTConfig
) -> list[str]:
    """Mismatches of quantised weights, whose every tensor follows from config and width."""
    widths = {"emb_dim": config.emb_dim, "n_inner": config.hidden_dim}
    if width == "int4" and (odd := [key for key, value in widths.items() if value % GROUP]):
        found = f"{odd[0]} that is a multiple of {GROUP} (found {widths[odd[0]]})"
        return [f"int4 needs an {found}"]
    stored = stored_tensors(expected, width)
    absent = [name for name in stored if name not in infos]
    extra = [name for name in infos if name not in stored]
    names = _missing_and_unexpected(absent, extra)
    present = {name: tensor for name, tensor in stored.items() if name in infos}
    wrong = (
        f'tensor "{shown(name)}" is {infos[name].dtype}, expected {" or ".join(tensor.dtypes)}'
        for name, tensor in present.items()
        if infos[name].dtype not in tensor.dtypes
    )
    shapes = {name: tensor.shape for name, tensor in present.items()}
    return [*([names] if names else []), *_limited(_wrong_shapes(infos, shapes)), *_limited(wrong)]


def _source_shapes(layout: Layout, expected: dict[str, Shape]) -> dict[str, Shape]:
    """Expected shapes of the file's tensors, fused and transposed as the file has them."""
    shapes = {}
    for name, source in layout.sources.items():
        if name in expected:
            first, *rest = expected[name]
            shape = (first if source.part is None else 3 * first, *rest)
            shapes[source.name] = shape[::-1] if source.transposed else shape
    return shapes


def _wrong_shapes(infos: dict[str, TensorInfo], shapes: dict[str, Shape]) -> Iterator[str]:
    for name, shape in shapes.items():
        if infos[name].shape != shape:
            found = list(infos[name].shape)
            yield f'tensor "{shown(name)}" has the shape {found}, expected {list(shape)}'


def _wrong_dtypes(infos: dict[str, TensorInfo], layout: Layout) -> Iterator[str]:
    for name in dict.fromkeys(source.name for source in layout.sources.values()):
        if infos[name].dtype not in DTYPES:
            yield f'tensor "{shown(name)}" is {infos[name].dtype}; weights must be F32, F16 or BF16'


def _limited(problems: Iterator[str]) -> list[str]:
    found = list(problems)
    more = (
        [f"... (+{len(found) - _MAX_OF_A_KIND} more of this kind)"]
        if len(found) > _MAX_OF_A_KIND
        else []
    )
    return [*found[:_MAX_OF_A_KIND], *more]
