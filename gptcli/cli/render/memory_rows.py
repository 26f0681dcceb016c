"""The rows of `count-params` on memory, and the sentences on what fits a budget.

Knows no files: every number is in a `Counted` or a `Fit`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from gptcli.cli.render.counted import Counted
from gptcli.cli.whatif import Fit
from gptcli.core.escape import shown
from gptcli.model.memory_estimate import PROGRAM, Running, Training
from gptcli.model.parameters import count

Value = Callable[[Counted], str]


def _write(get: Callable[[Running], int]) -> Value:
    return lambda one: mib(get(one.use.running(one.config)))


def _train(get: Callable[[Training], int]) -> Value:
    return lambda one: mib(get(one.use.training(one.config)))


def mib(size: int) -> str:
    """An estimate of bytes: one decimal of a MiB."""
    return f"{size / 2**20:,.1f} MiB"


def gigabytes(size: int) -> str:
    """Bytes as budgets are named: 8 GB, 512 MB."""
    return f"{size / 1e9:,.3g} GB" if size >= 1e9 else f"{size / 1e6:,.3g} MB"


MEMORY: dict[str, list[tuple[str, Value]]] = {
    "Memory to write": [
        ("texts at once", lambda one: f"{one.use.texts:,}"),
        ("tokens of each", lambda one: f"{one.use.length(one.config):,}"),
        ("weights as", lambda one: one.use.dtype),
        ("  weights", _write(lambda need: need.weights)),
        ("  copy of a tied head", _write(lambda need: need.head_copy)),
        ("  KV cache", _write(lambda need: need.cache)),
        ("  activations", _write(lambda need: need.activations)),
        ("  logits", _write(lambda need: need.logits)),
        ("all of it", _write(lambda need: need.total)),
        ("while loading", _write(lambda need: need.loading)),
    ],
    "Memory to train": [
        ("weights in float32", _train(lambda need: need.weights)),
        ("  gradients", _train(lambda need: need.gradients)),
        ("  AdamW's averages", _train(lambda need: need.optimizer)),
        ("  activations", _train(lambda need: need.activations)),
        ("  loss", _train(lambda need: need.loss)),
        ("all at once", _train(lambda need: need.total)),
    ],
}
WHY_MEMORY = (
    "memory to write: what this program keeps on a CPU, prompts included, beside about "
    f"{PROGRAM >> 20} MiB of Python and PyTorch. The cache is float32 with any weights; positions "
    "stay float32 with int8 and int4. --batch, --context and --dtype change it.",
    "memory to train: float32, as many rows as --batch says. AdamW keeps two numbers a parameter; "
    "activations grow with rows x tokens and, where there is dropout, with the square of tokens.",
)


def sentences(fit: Fit, *, train: bool) -> Iterator[str]:
    """What fits, in words."""
    config, to = fit.config, "to train" if train else "to write"
    yield (
        f"like {shown(fit.like)}: emb_dim {config.emb_dim:,}, n_layers {config.n_layers:,}, "
        f"n_heads {config.n_heads:,}, context_length {config.context_length:,}; "
        f"{count(config).total:,} parameters, {gigabytes(fit.needs)} {to}."
    )
    if not train and fit.loading > fit.budget:
        yield f"While it is loaded, it takes {gigabytes(fit.loading)} for a moment, which is more."
    if fit.presets:
        sizes = [f"{name} {gigabytes(n)} ({_verdict(n, fit)})" for name, n in fit.presets]
        yield f"The book's sizes, used the same way: {', '.join(sizes)}."


def fit_document(fit: Fit, *, train: bool) -> dict[str, Any]:
    """What --json has in "fits": the largest config, and what each of the book's sizes needs."""
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
