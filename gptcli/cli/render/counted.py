"""One target of `count-params`: what it is, and how --json shows it.

Reads a config and the headers of weight files; knows no terminal.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gptcli.checkpoint.header import read_headers
from gptcli.checkpoint.layouts import recognise
from gptcli.cli.located import located
from gptcli.cli.whatif import Use, changed
from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.interpret.weight_summary import Stored, implied_model, problems, stored
from gptcli.model.config import GPTConfig
from gptcli.model.parameters import (
    BYTES,
    Counts,
    cache_bytes,
    count,
    forward_flops,
    mean_forward_flops,
    training_flops,
)


@dataclass(frozen=True, slots=True)
class Counted:
    """One target. Without a config the weights imply one, and n_heads is not known.

    `changed` is what --what-if changed in the config; `use` is how memory is counted.
    """

    name: str
    config: GPTConfig
    knows_heads: bool
    counts: Counts
    stored: Stored | None
    problems: tuple[str, ...]
    changed: Mapping[str, object] = field(default_factory=dict)
    use: Use = field(default_factory=Use)


def counted(name: str | None, config: Path | None, weights: Path | None) -> Counted:
    """Count what the user named; nothing is downloaded.

    Raises:
        UsageError, InputError: from resolving the name, or from a file.
    """
    target = located(name, config, weights)
    known, sums, wrong = target.config, None, []
    if target.weights:
        headers = read_headers(target.weights)
        layout = recognise(headers)
        known = known or implied_model(headers, layout)
        sums, wrong = stored(headers, layout), problems(headers, layout, known)
    if known is None:
        raise InputError(shown(target.name), "neither a config nor weights in it")
    knows_heads = target.config is not None
    return Counted(target.name, known, knows_heads, count(known), sums, tuple(wrong))


def changed_copy(one: Counted, values: Mapping[str, int | float | bool]) -> Counted:
    """The target with other values in its config, and so no longer that of its files.

    Raises:
        UsageError: no model can have them.
    """
    name = f"{one.name} {' '.join(f'{key}={_plain(value)}' for key, value in values.items())}"
    copy = relative_copy(one, changed(one.config, values))
    return replace(copy, name=name, changed=values)


def relative_copy(one: Counted, config: GPTConfig) -> Counted:
    """Another model that is used in the same way."""
    return replace(one, config=config, counts=count(config), stored=None, problems=())


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def document(one: Counted) -> dict[str, Any]:
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


def _memory(one: Counted) -> dict[str, Any]:
    """Bytes to write and to train; `gptcli.model.memory_estimate` says what each is."""
    write, train = one.use.running(one.config), one.use.training(one.config)
    return {
        "texts": one.use.texts,
        "tokens": one.use.length(one.config),
        "dtype": one.use.dtype,
        "write": asdict(write) | {"total": write.total},
        "train": asdict(train) | {"total": train.total},
    }


def config_document(config: GPTConfig, *, knows_heads: bool) -> dict[str, Any]:
    """A config for --json; what only a config file tells is null where there was none."""
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
