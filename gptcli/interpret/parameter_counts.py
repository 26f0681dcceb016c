"""Parameter counts of a TARGET, with --what-if, --fit and memory estimates."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gptcli.checkpoint.presets import BUILT_IN, PRESETS, preset_config
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.core.suggest import did_you_mean, nearest
from gptcli.interpret.model_files import read_model_files
from gptcli.interpret.weight_summary import FileTotals, file_totals
from gptcli.model.config import KEYS, GPTConfig
from gptcli.model.memory_estimate import (
    GenerationMemory,
    TrainingMemory,
    generation_memory,
    largest_model,
    scaled_to_heads,
    training_memory,
)
from gptcli.model.parameters import Counts, count

Value = bool | int | float | str | None
_KEYS = tuple(key for key in KEYS if key != "tokenizer")
_WORDS = {"true": True, "false": False, "none": None, "null": None}


@dataclass(frozen=True, slots=True)
class Usage:
    """What memory is estimated for.

    Attributes:
        dtype: of the weights.
        texts: the batch size.
        tokens: length of each sequence; None is the context.
    """

    dtype: str = "float32"
    texts: int = 1
    tokens: int | None = None

    def length(self, config: GPTConfig) -> int:
        """Tokens of each sequence."""
        return config.context_length if self.tokens is None else self.tokens

    def generation_memory(self, config: GPTConfig) -> GenerationMemory:
        """Memory to generate."""
        return generation_memory(config, self.dtype, self.texts, self.length(config))

    def training_memory(self, config: GPTConfig) -> TrainingMemory:
        """Memory to train."""
        return training_memory(config, self.texts, self.length(config))


@dataclass(frozen=True, slots=True)
class ModelCount:
    """The parameters of one target.

    Attributes:
        config: of the config file, else the one that the weights imply.
        knows_heads: whether a config file gives n_heads and drop_rate, which weights cannot imply.
        stored: totals of the weight files; None for a config alone.
        problems: how the files do not fit the config, a sentence each.
        changed: the keys that --what-if changed.
        usage: what memory is estimated for.
    """

    name: str
    config: GPTConfig
    knows_heads: bool
    counts: Counts
    stored: FileTotals | None
    problems: tuple[str, ...]
    changed: Mapping[str, object] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)

    def with_values(self, values: Mapping[str, Value]) -> "ModelCount":
        """The count with other config values, without the files.

        Raises:
            UsageError: the values are impossible.
        """
        name = f"{self.name} {' '.join(f'{key}={_plain(value)}' for key, value in values.items())}"
        return replace(
            self.with_config(config_with(self.config, values)), name=name, changed=values
        )

    def with_config(self, config: GPTConfig) -> "ModelCount":
        """The count of another config for the same usage."""
        return replace(self, config=config, counts=count(config), stored=None, problems=())


def count_parameters(name: str | None, config: Path | None, weights: Path | None) -> ModelCount:
    """Count the parameters of a TARGET; nothing is downloaded.

    Raises:
        UsageError, InputError: from resolving the name, or from a file.
    """
    files = read_model_files(name, config, weights)
    if files.weights and files.weights.error:
        raise files.weights.error
    assert files.config is not None, "a target without a config has weights that imply one"
    sums, wrong = None, []
    if files.weights and files.weights.layout:
        sums = file_totals(files.weights.headers, files.weights.layout)
        wrong = files.weights.problems
    counts = count(files.config)
    return ModelCount(
        files.target.name, files.config, files.knows_heads, counts, sums, tuple(wrong)
    )


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Fit:
    """The largest model with a target's proportions that fits a memory budget.

    Attributes:
        like: the target's name.
        budget: bytes.
        config: of the largest model.
        needs: bytes that it needs.
        loading: peak bytes while it is loaded.
        presets: name and needed bytes of each of the book's sizes.
    """

    like: str
    budget: int
    config: GPTConfig
    needs: int
    loading: int
    presets: tuple[tuple[str, int], ...]


def parse_what_if(text: str) -> dict[str, Value]:
    """`emb_dim=1024,n_layers=24` → config keys and values.

    Raises:
        UsageError: not KEY=VALUE with a key of the config.
    """
    found: dict[str, Value] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in _KEYS:
            raise _unknown(part, key)
        found[key] = _value(value)
    return found


def _unknown(part: str, key: str) -> UsageError:
    hint = did_you_mean(nearest(key, _KEYS)) or f"Keys are {', '.join(_KEYS)}"
    return UsageError("what_if", f'expected key=value of a config, got "{shown(part)}"', hint)


def _value(text: str) -> Value:
    """A value as a config file has it; GPTConfig checks it."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):  # also raised for an integer of too many digits
            return kind(text)
    return text


def config_with(config: GPTConfig, values: Mapping[str, Value]) -> GPTConfig:
    """The config with other values; if emb_dim changes and n_heads does not, head_dim stays.

    Raises:
        UsageError: the values are impossible.
    """
    replaced = dict(values)
    emb_dim = values.get("emb_dim", config.emb_dim)
    is_multiple = isinstance(emb_dim, int) and emb_dim % config.head_dim == 0
    if is_multiple and "n_heads" not in values:
        replaced["n_heads"] = max(1, int(emb_dim) // config.head_dim)  # type: ignore[arg-type]
    try:
        return replace(config, **replaced)  # type: ignore[arg-type]
    except InputError as error:
        raise UsageError("what_if", error.problem) from None


def largest_fit(name: str, config: GPTConfig, usage: Usage, budget: int, *, train: bool) -> Fit:
    """The largest model with a config's proportions that fits `budget` bytes.

    Raises:
        UsageError: not even the smallest fits.
    """

    def cost(one: GPTConfig) -> int:
        return usage.training_memory(one).total if train else usage.generation_memory(one).total

    like = with_context(config, usage.tokens)
    found = largest_model(like, cost, budget)
    if found is None:
        needs = cost(scaled_to_heads(like, 1))
        problem = (
            f"nothing like {shown(name)} is as small as this (the smallest needs {needs:,} bytes)"
        )
        raise UsageError("fit", problem)
    presets = tuple((n, cost(with_context(c, usage.tokens))) for n, c in _sizes())
    return Fit(name, budget, found, cost(found), usage.generation_memory(found).loading, presets)


def _sizes() -> Iterable[tuple[str, GPTConfig]]:
    presets = (p for p in PRESETS.values() if p.repo is None and p.name != BUILT_IN)
    return [(preset.name, preset_config(preset)) for preset in presets]


def with_context(config: GPTConfig, tokens: int | None) -> GPTConfig:
    """The config with a context of at least `tokens`."""
    if tokens is None or tokens <= config.context_length:
        return config
    return replace(config, context_length=tokens)
