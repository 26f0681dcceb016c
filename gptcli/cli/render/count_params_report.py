"""The report of `count-params` and its JSON: models side by side.

Without --details: parts, totals and memory. With it all of `SECTIONS`, and why other programs'
counts differ.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len

from gptcli.cli.render.table import GAP, HEADING, TITLE, WRONG, Report, Row, body_row
from gptcli.cli.render.word_wrap import folded
from gptcli.core.escape import shown
from gptcli.core.units import bytes_text, plural
from gptcli.interpret.parameter_counts import Fit, ModelCount, Usage
from gptcli.interpret.weight_summary import FileTotals
from gptcli.model.config import OPTIONAL_KEYS, GPTConfig
from gptcli.model.memory_estimate import PROCESS_BYTES, GenerationMemory, TrainingMemory
from gptcli.model.parameters import (
    BYTES,
    Counts,
    cache_bytes,
    count,
    forward_flops,
    mean_forward_flops,
    training_flops,
)

SCHEMA = "gptcli.count-params/1"
Value = Callable[[ModelCount], str]
Lines = Sequence[tuple[str, Value]]
TOTALS = {"total", "sum"}
MAX_NAME_COLUMNS = 24  # a longer name is folded


def _integer(get: Callable[[ModelCount], int]) -> Value:
    return lambda one: f"{get(one):,}"


def _flag(get: Callable[[ModelCount], bool]) -> Value:
    return lambda one: "yes" if get(one) else "no"


def _exact(label: str, get: Callable[[ModelCount], int]) -> Lines:
    """A line of exact bytes, and one of MiB as the book prints them."""
    return [(label, _integer(get)), ("", _mib(get))]


def _mib(get: Callable[[ModelCount], int]) -> Value:
    return lambda one: bytes_text(get(one), "MiB", 2)


def _weights(dtype: str) -> Lines:
    return _exact(dtype, lambda one: one.counts.total * BYTES[dtype])


def _cache(dtype: str) -> Lines:
    a_token = _integer(lambda one: cache_bytes(one.config, 1, dtype))
    full = _exact("  C tokens", lambda o: cache_bytes(o.config, o.config.context_length, dtype))
    return [(f"{dtype}, a token", a_token), *full]


def _of_file(get: Callable[[FileTotals], int]) -> Value:
    return lambda one: f"{get(one.stored):,}" if one.stored else "-"


def _generating(get: Callable[[GenerationMemory], int]) -> Value:
    return lambda one: _estimate(get(one.usage.generation_memory(one.config)))


def _training(get: Callable[[TrainingMemory], int]) -> Value:
    return lambda one: _estimate(get(one.usage.training_memory(one.config)))


def _estimate(size: int) -> str:
    return bytes_text(size, "MiB")


def _bytes_of_weights(one: ModelCount) -> int:
    """Bytes of the parameters; for int8 and int4, of the quantised weights in memory."""
    size = BYTES.get(one.usage.dtype)
    return one.counts.total * size if size else one.usage.generation_memory(one.config).weights


PARTS: Lines = [
    ("token embedding", _integer(lambda one: one.counts.token_embedding)),
    ("position embedding", _integer(lambda one: one.counts.position_embedding)),
    ("blocks", _integer(lambda one: one.counts.blocks)),
    ("  each block", _integer(lambda one: one.counts.block)),
    ("    attention", _integer(lambda one: one.counts.attention)),
    ("    feed-forward", _integer(lambda one: one.counts.feed_forward)),
    ("    norms", _integer(lambda one: one.counts.norms)),
    ("final norm", _integer(lambda one: one.counts.final_norm)),
    ("output head", _integer(lambda one: one.counts.own_head)),
    ("total", _integer(lambda one: one.counts.total)),
]
TIED_AND_UNTIED: Lines = [
    ("tied", _integer(lambda one: one.counts.tied)),
    ("untied", _integer(lambda one: one.counts.untied)),
]


def _short_sections(usage: Usage) -> dict[str, Lines]:
    """The sections without --details."""
    length = "full context" if usage.tokens is None else plural(usage.tokens, "token")
    return {
        "Parameters": [*PARTS, *((f"  if {label}", value) for label, value in TIED_AND_UNTIED)],
        "Memory": [
            (f"weights, {usage.dtype}", _mib(_bytes_of_weights)),
            (f"KV cache, {length}", _generating(lambda need: need.cache)),
            ("to generate", _generating(lambda need: need.total)),
            ("to train", _training(lambda need: need.total)),
        ],
    }


SECTIONS: dict[str, Lines] = {
    "Config": [
        ("V vocab_size", _integer(lambda one: one.config.vocab_size)),
        ("C context_length", _integer(lambda one: one.config.context_length)),
        ("E emb_dim", _integer(lambda one: one.config.emb_dim)),
        ("L n_layers", _integer(lambda one: one.config.n_layers)),
        ("n_heads", lambda one: f"{one.config.n_heads:,}" if one.knows_heads else "not in file"),
        ("qkv_bias", _flag(lambda one: one.config.qkv_bias)),
        ("tie_weights", _flag(lambda one: one.config.tie_weights)),
    ],
    "Parameters": PARTS,
    "Totals people quote": [
        *TIED_AND_UNTIED,
        ("without positions", _integer(lambda one: one.counts.without_positions)),
        ("without embeddings", _integer(lambda one: one.counts.without_embeddings)),
        ("block matrices", _integer(lambda one: one.counts.matrices)),
        ("with mask buffers", _integer(lambda one: one.counts.with_masks)),
    ],
    "Bytes of the weights": [*_weights("float32"), *_weights("bfloat16")],
    "Bytes of the KV cache": [*_cache("float32"), *_cache("bfloat16")],
    "FLOPs for a token": [
        ("seeing itself", _integer(lambda one: forward_flops(one.config, 1))),
        ("seeing C tokens", _integer(lambda o: forward_flops(o.config, o.config.context_length))),
        ("mean of a context", _integer(lambda one: mean_forward_flops(one.config))),
        ("to train on it", _integer(lambda one: training_flops(one.config))),
    ],
    "Memory to generate": [
        ("texts at once", lambda one: f"{one.usage.texts:,}"),
        ("tokens of each", lambda one: f"{one.usage.length(one.config):,}"),
        ("weights as", lambda one: one.usage.dtype),
        ("  weights", _generating(lambda need: need.weights)),
        ("  KV cache", _generating(lambda need: need.cache)),
        ("  activations", _generating(lambda need: need.activations)),
        ("  logits", _generating(lambda need: need.logits)),
        ("sum", _generating(lambda need: need.total)),
        ("while loading", _generating(lambda need: need.loading)),
    ],
    "Memory to train": [
        ("weights in float32", _training(lambda need: need.weights)),
        ("  gradients", _training(lambda need: need.gradients)),
        ("  AdamW's averages", _training(lambda need: need.optimizer)),
        ("  activations", _training(lambda need: need.activations)),
        ("  loss", _training(lambda need: need.loss)),
        ("sum", _training(lambda need: need.total)),
    ],
}
STORED: Lines = [
    ("bytes", _of_file(lambda sums: sums.size)),
    ("tensors", _of_file(lambda sums: sums.tensors)),
    ("elements", _of_file(lambda sums: sums.elements)),
    ("  parameters", _of_file(lambda sums: sums.parameters)),
    ("    own output head", _of_file(lambda sums: sums.head)),
    ("  mask buffers", _of_file(lambda sums: sums.masks)),
    ("  unexpected", _of_file(lambda sums: sums.unexpected)),
    ("dtypes", lambda one: "+".join(one.stored.dtypes) if one.stored else "-"),
]

SCALES = ("  scales and zeros", _of_file(lambda sums: sums.scales))

WHY = (
    "tied: the output head is the token embedding and counts once. total is this or untied, as "
    "tie_weights says.",
    "untied: a head of its own adds V E. torchinfo 1.8 gives this for tied models too, because it "
    "counts the shared tensor at each use.",
    "without positions: total less C E, as nanoGPT reports it.",
    "without embeddings: the blocks and the final norm, as transformers gives it for tied models "
    "with exclude_embeddings.",
    "block matrices: 12 L E^2, or L (4 E^2 + 2 E n_inner), without biases and norms. "
    "TransformerLens calls it n_params, and scaling laws N.",
    "with mask buffers: total and the L C^2 elements of the book's causal masks. They are stored "
    "but never trained; accelerate's estimate counts them.",
    "bytes: total by 4 (float32) or 2 (bfloat16, float16). The KV cache takes 2 L E numbers a "
    "token, for one sequence.",
    "FLOPs: forward, 2 (block matrices + V E) and 4 L E for each token seen; a multiply and an "
    "add are two (Kaplan et al. 2020, table 1). Training is three times the mean.",
    "memory to generate: what this program keeps on a CPU, prompts included, beside about "
    f"{PROCESS_BYTES >> 20} MiB of Python and its modules. The cache is float32 with any weights; "
    "positions stay float32 with int8 and int4. --batch, --context and --dtype change it.",
    "memory to train: float32, as many rows as --batch says. AdamW keeps two numbers a parameter; "
    "activations grow with rows x tokens and, where there is dropout, with the square of tokens.",
)
WHY_STORED = (
    "in the files: elements are parameters, mask buffers and unexpected tensors, and scales and "
    "zeros of quantised weights. Files may also hold a head that a tied model shares, and leave "
    "out biases that are zero."
)


TIED = (
    "124M or 163M? An output head tied to the token embedding (OpenAI's GPT-2) counts once; one of "
    "its own (the book's model) adds vocab_size x emb_dim."
)


def show(models: Sequence[ModelCount], fits: Sequence[str] = (), *, details: bool = False) -> None:
    """Print the models side by side, in several tables where the terminal is narrow.

    `fits` are the `sentences` on what --fit found.
    """
    report = Report()
    wrong = [f"{shown(one.name)}: {text}" for one in models for text in one.problems]
    if fits:
        report.title("The largest that fits")
        report.bullets(fits)
        report.blank_line()
    sections = _all_sections(models) if details else _short_sections(models[0].usage)
    for number, group in enumerate(_groups(models, sections, report.width)):
        space = [Row(("",))] if number else []
        report.rows([*space, *_rows(group, sections)], right=range(1, len(group) + 1))
    if details:
        report.heading("Why the totals differ")
        report.bullets([*WHY, WHY_STORED] if "In the files" in sections else WHY)
    else:
        report.blank_line()
        report.paragraph(TIED)
    if wrong:
        report.heading("The files and the config do not agree")
        report.bullets(wrong, WRONG)
    if not details:
        report.more_details("config, exact bytes, FLOPs, and why others count differently")


def _all_sections(models: Sequence[ModelCount]) -> dict[str, Lines]:
    """The sections with --details; totals of files if a model has some."""
    sections = SECTIONS | {"Config": [*SECTIONS["Config"], *_optional_keys(models)]}
    if any(one.stored for one in models):
        quantized = any(one.stored and one.stored.scales for one in models)
        sections["In the files"] = [*STORED[:5], *([SCALES] if quantized else []), *STORED[5:]]
    return sections


def _optional_keys(models: Sequence[ModelCount]) -> Iterator[tuple[str, Value]]:
    """Optional keys that at least one model's config sets."""
    for key in OPTIONAL_KEYS:
        if key not in {"tokenizer", "tie_weights"} and any(
            key in one.config.to_dict() for one in models
        ):
            yield key, partial(_setting, key)


def _setting(key: str, one: ModelCount) -> str:
    return value_text(getattr(one.config, key))


def value_text(value: object) -> str:
    """A config's value as a config file spells it; integers with commas."""
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else shown(value)


def _groups(
    models: Sequence[ModelCount], sections: dict[str, Lines], width: int | None
) -> Iterator[list[ModelCount]]:
    """Split the models into tables: as many in each as fit next to the labels, at least one."""
    label = max(cell_len(name) for lines in sections.values() for name, _ in lines) + 2
    group: list[ModelCount] = []
    used = label
    for one in models:
        needs = len(GAP) + _column_width(one, sections)
        if group and width is not None and used + needs > width:
            yield group
            group, used = [], label
        group.append(one)
        used += needs
    yield group


def _column_width(one: ModelCount, sections: dict[str, Lines]) -> int:
    name = min(cell_len(shown(one.name)), MAX_NAME_COLUMNS)
    return max(name, *(cell_len(value(one)) for lines in sections.values() for _, value in lines))


def _rows(models: Sequence[ModelCount], sections: dict[str, Lines]) -> Iterator[Row]:
    """The names above their columns, folded to the column's width; then the sections."""
    names = [list(folded(shown(one.name), _column_width(one, sections))) for one in models]
    *upper_lines, last_line = zip_longest(*names, fillvalue="")
    for line in upper_lines:
        yield Row(("", *line), style=TITLE)
    for number, (title, lines) in enumerate(sections.items()):
        if number:
            yield Row(("",))
        yield Row((title, *last_line) if not number else (title,), style=HEADING)
        for label, value in lines:
            style = TITLE if label in TOTALS else ""
            yield body_row(label, *(value(one) for one in models), style=style)


def sentences(fit: Fit, *, train: bool) -> Iterator[str]:
    """What --fit found, in sentences."""
    config, purpose = fit.config, "to train" if train else "to generate"
    yield (
        f"like {shown(fit.like)}: emb_dim {config.emb_dim:,}, n_layers {config.n_layers:,}, "
        f"n_heads {config.n_heads:,}, context_length {config.context_length:,}; "
        f"{count(config).total:,} parameters, {bytes_text(fit.needs)} {purpose}."
    )
    if not train and fit.loading > fit.budget:
        yield f"While it is loaded, it takes {bytes_text(fit.loading)} for a moment, which is more."
    if fit.presets:
        sizes = [f"{name} {bytes_text(n)} ({_verdict(n, fit)})" for name, n in fit.presets]
        yield f"The book's sizes, used the same way: {', '.join(sizes)}."


def fit_document(fit: Fit, *, train: bool) -> dict[str, Any]:
    """What --json has as "fits": the largest config, and the bytes that the book's sizes need."""
    return {
        "like": fit.like,
        "budget_bytes": fit.budget,
        "purpose": "train" if train else "write",
        "config": fit.config.to_dict(),
        "bytes": fit.needs,
        "loading_bytes": fit.loading,
        "presets": [
            {"name": name, "bytes": needs, "fits": needs <= fit.budget}
            for name, needs in fit.presets
        ],
    }


def _verdict(needs: int, fit: Fit) -> str:
    return "fits" if needs <= fit.budget else "too large"


def document(one: ModelCount) -> dict[str, Any]:
    """The object that --json prints for one target: counts are integers, memory is in bytes."""
    counts = one.counts
    return {
        "name": one.name,
        "changed": dict(one.changed),
        "config": config_document(one.config, knows_heads=one.knows_heads),
        "parameters": {
            "total": counts.total,
            "token_embedding": counts.token_embedding,
            "position_embedding": counts.position_embedding,
            "blocks": counts.blocks,
            "block": counts.block,
            "attention": counts.attention,
            "feed_forward": counts.feed_forward,
            "norms": counts.norms,
            "final_norm": counts.final_norm,
            "output_head": counts.own_head,
        },
        "quoted": {
            "tied": counts.tied,
            "untied": counts.untied,
            "without_positions": counts.without_positions,
            "without_embeddings": counts.without_embeddings,
            "block_matrices": counts.matrices,
            "with_masks": counts.with_masks,
        },
        **_costs(one.config, counts),
        "memory": _memory(one),
        "stored": asdict(one.stored) if one.stored else None,
        "problems": list(one.problems),
    }


def _memory(one: ModelCount) -> dict[str, Any]:
    """Bytes to generate and to train, as `gptcli.model.memory_estimate` defines them."""
    generate, train = one.usage.generation_memory(one.config), one.usage.training_memory(one.config)
    return {
        "texts": one.usage.texts,
        "tokens": one.usage.length(one.config),
        "dtype": one.usage.dtype,
        "write": asdict(generate) | {"total": generate.total},
        "train": asdict(train) | {"total": train.total},
    }


def config_document(config: GPTConfig, *, knows_heads: bool) -> dict[str, Any]:
    """A config for --json; n_heads and drop_rate are null where there is no config file."""
    values = config.to_dict() | {"tie_weights": config.tie_weights}
    return values if knows_heads else values | {"n_heads": None, "drop_rate": None}


def _costs(config: GPTConfig, counts: Counts) -> dict[str, Any]:
    full = config.context_length
    return {
        "weight_bytes": {dtype: counts.total * size for dtype, size in BYTES.items()},
        "cache_bytes_per_token": {dtype: cache_bytes(config, 1, dtype) for dtype in BYTES},
        "cache_bytes_full": {dtype: cache_bytes(config, full, dtype) for dtype in BYTES},
        "flops_per_token": {
            "first": forward_flops(config, 1),
            "last": forward_flops(config, full),
            "mean": mean_forward_flops(config),
            "training": training_flops(config),
        },
    }
