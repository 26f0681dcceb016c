"""GPTConfig: a model's hyperparameters, read from YAML or JSON.

A file has the book's keys, or is the config of a Hugging Face GPT-2 or of nanoGPT
(`gptcli.model.hf_config`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from gptcli.core.errors import MAX_PROBLEMS, InputError, join_problems
from gptcli.core.escape import described, shown
from gptcli.core.files import decode_utf8, read_bounded, strict_json
from gptcli.core.strict_yaml import parse_yaml
from gptcli.core.suggest import nearest
from gptcli.model.hf_config import (
    from_huggingface,
    from_nanogpt,
    is_huggingface,
    is_nanogpt,
    to_huggingface,
    unsupported,
)

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 1 << 20

_BOOLEANS = (
    "qkv_bias",
    "tie_weights",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "bias",
)
_RATES = ("drop_rate_emb", "drop_rate_attn", "drop_rate_shortcut")

ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu", "quick_gelu")
"""The activations that the network supports, by transformers' names."""
_ALIASES = {  # transformers' other names of the same functions (up to rounding)
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_python": "gelu",
    "swish": "silu",
}


class DropRates(NamedTuple):
    """Dropout rates: of embeddings, of attention weights, and of what a block adds to its input."""

    emb: float
    attn: float
    shortcut: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """The seven keys of the book's configuration, and optional ones with GPT-2's defaults.

    Attributes:
        vocab_size: tokens of the vocabulary, rows of the token embedding.
        context_length: maximum number of tokens, rows of the position embedding.
        emb_dim: width of an embedding.
        n_heads: attention heads; divides emb_dim.
        n_layers: transformer blocks.
        drop_rate: dropout while training, in [0, 1).
        qkv_bias: whether query, key and value have a bias.
        tokenizer: a tiktoken encoding, or a file beside the config; None looks for files there.
        tie_weights: whether the output head is the token embedding.
        drop_rate_emb, drop_rate_attn, drop_rate_shortcut: each replaces drop_rate in one place (the
            book's exercise 4.3).
        activation: of the feed-forward network, by transformers' names. Parameters are counted for
            any name; only `ACTIVATIONS` can be run.
        n_inner: width of the feed-forward network's hidden layer; None is 4 emb_dim.
        layer_norm_epsilon: added to the variance in a LayerNorm.
        scale_attn_weights: whether attention scores are divided by sqrt(head_dim).
        scale_attn_by_inverse_layer_idx: whether block i, from 0, also divides them by i + 1.
        bias: whether the other linear layers and the norms have biases, which nanoGPT can lack.

    Raises:
        InputError: values that no model can have, all of them in one message.
    """

    vocab_size: int
    context_length: int
    emb_dim: int
    n_heads: int
    n_layers: int
    drop_rate: float = 0.1
    qkv_bias: bool = False
    tokenizer: str | None = None
    tie_weights: bool = False
    drop_rate_emb: float | None = None
    drop_rate_attn: float | None = None
    drop_rate_shortcut: float | None = None
    activation: str = "gelu_new"
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        if problems := _value_problems({f.name: getattr(self, f.name) for f in fields(self)}):
            raise InputError("GPTConfig", join_problems(problems))
        # Equal models must have equal configs.
        activation = _ALIASES.get(self.activation, self.activation)
        object.__setattr__(self, "activation", activation)
        if self.n_inner == 4 * self.emb_dim:
            object.__setattr__(self, "n_inner", None)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.emb_dim // self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the feed-forward network's hidden layer."""
        return 4 * self.emb_dim if self.n_inner is None else self.n_inner

    @property
    def drop_rates(self) -> DropRates:
        """The three dropout rates; where one is None it is drop_rate."""
        own = (self.drop_rate_emb, self.drop_rate_attn, self.drop_rate_shortcut)
        return DropRates(*(self.drop_rate if rate is None else rate for rate in own))

    def with_drop_rate(self, rate: float) -> "GPTConfig":
        """A copy with the same dropout everywhere."""
        none: dict[str, Any] = dict.fromkeys(_RATES)
        return replace(self, drop_rate=rate, **none)

    def attention_scale(self, layer: int) -> float:
        """Factor on the attention scores of block `layer`, counted from 0."""
        scale = 1 / sqrt(self.head_dim) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    def require_computable(self, where: object = "GPTConfig") -> None:
        """Raise `InputError` for `where` if the model cannot be run, only counted."""
        if self.activation not in ACTIVATIONS:
            expected = f"expected {', '.join(ACTIVATIONS[:-1])} or {ACTIVATIONS[-1]}"
            problem = f'the activation "{shown(self.activation)}" is not supported ({expected})'
            raise InputError(shown(where), problem, "count-params and inspect still work")

    def to_huggingface(self) -> dict[str, Any]:
        """A `config.json` that transformers reads as this model.

        Hugging Face has no key for `bias`: a model without biases must be saved with zero ones.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return to_huggingface(values, self.drop_rates)

    def to_dict(self) -> dict[str, Any]:
        """The book's keys in the book's order; an optional one only where it is not the default."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        usual = {f.name: f.default for f in fields(self) if f.name in OPTIONAL_KEYS}
        return {k: v for k, v in values.items() if k not in usual or v != usual[k]}


KEYS = tuple(f.name for f in fields(GPTConfig))
# Other programs' names of these keys.
_MEANT = {
    "n_embd": "emb_dim",
    "hidden_size": "emb_dim",
    "d_model": "emb_dim",
    "n_head": "n_heads",
    "num_heads": "n_heads",
    "n_layer": "n_layers",
    "num_layers": "n_layers",
    "block_size": "context_length",
    "n_ctx": "context_length",
    "n_positions": "context_length",
    "dropout": "drop_rate",
    "tie_word_embeddings": "tie_weights",
}
OPTIONAL_KEYS = KEYS[KEYS.index("tokenizer") :]


def read_config(path: Path) -> GPTConfig:
    """The config in a .yaml, .yml or .json file of at most 1 MiB.

    Raises:
        InputError: every problem of the file in one message.
    """
    suffix = path.suffix.lower()
    if suffix not in CONFIG_SUFFIXES:
        problem = f'cannot tell the format from "{shown(suffix)}"' if suffix else "has no suffix"
        raise InputError(shown(path), f"{problem} (expected .yaml, .yml or .json)")
    text = decode_utf8(read_bounded(path, MAX_BYTES), path)
    read = strict_json if suffix == ".json" else parse_yaml
    return parse_config(read(text, path), path)


def parse_config(mapping: object, source: object) -> GPTConfig:
    """The config that a parsed file holds, by the book's keys or by Hugging Face's.

    Raises:
        InputError: names `source`, and every key that is unknown, missing or has a wrong value.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(shown(source), f"expected one mapping of keys, found {described(mapping)}")
    problems: list[str] = []
    names: Mapping[str, str] = {}  # what the file calls a key of ours
    values = dict(mapping)
    if is_nanogpt(mapping):
        values, names = from_nanogpt(mapping)
    elif is_huggingface(mapping):
        problems = unsupported(mapping)
        if problems and "model_type" in problems[0]:  # another architecture
            raise InputError(shown(source), join_problems(problems))
        values, names = from_huggingface(mapping)
    if values.get("drop_rate_shortcut") is not None and not {*_RATES} - values.keys():
        values.setdefault("drop_rate", values["drop_rate_shortcut"])  # never read then
    problems += _key_problems(values, names) + _value_problems(values, names)
    if problems:
        raise InputError(shown(source), join_problems(problems))
    return GPTConfig(**{key: _normalised(key, value) for key, value in values.items()})


def _normalised(key: str, value: Any) -> Any:
    """Dropout rates as floats, even where the file has integers."""
    return float(value) if "drop_rate" in key and value is not None else value


def _key_problems(values: Mapping[str, object], names: Mapping[str, str]) -> list[str]:
    """Unknown keys, each with the nearest real one; then missing keys, without these real ones."""
    problems: list[str] = []
    meant: set[str] = set()
    real = {names.get(key, key): key for key in KEYS}
    for key in values:
        if key not in KEYS:
            near = nearest(str(key), real, _MEANT) if len(problems) < MAX_PROBLEMS else None
            if near is not None:
                meant.add(real[near])
            hint = "" if near is None else f' (did you mean "{near}"?)'
            problems.append(f'unknown key "{shown(key)}"{hint}')
    for key in KEYS:
        if key not in values and key not in meant and key not in OPTIONAL_KEYS:
            problems.append(f'missing key "{names.get(key, key)}"')
    return problems


def _value_problems(
    values: Mapping[str, object], names: Mapping[str, str] | None = None
) -> list[str]:
    """Problems of the values present, in the order of the keys."""
    names = names or {}
    problems = []
    for key in KEYS:
        if key in values and (expected := _expected(key, values[key])):
            name = names.get(key, key)
            problems.append(f"{name}: expected {expected}, found {described(values[key])}")
    emb_dim, n_heads = values.get("emb_dim"), values.get("n_heads")
    both = not _expected("emb_dim", emb_dim) and not _expected("n_heads", n_heads)
    if both and emb_dim % n_heads:  # type: ignore[operator]  # both are integers above 0
        wide, heads = names.get("emb_dim", "emb_dim"), names.get("n_heads", "n_heads")
        problems.append(f"{wide} {emb_dim} is not divisible by {heads} {n_heads}")
    return problems


def _expected(key: str, value: object) -> str:
    """What is expected of `key` if `value` is invalid; empty if it is valid."""
    if value is None and key in _MAY_BE_NONE:
        return ""
    if key in _INTEGERS:
        largest = _INTEGERS[key]
        if type(value) is not int:  # True is an int to isinstance
            return "an integer"
        return "" if 1 <= value <= largest else f"an integer from 1 to {largest:,}"
    expected, holds = _RULES[key]
    return "" if holds(value) else expected


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)


def _is_file_name(value: object) -> bool:
    """Whether it names a file in the config's own directory."""
    if not isinstance(value, str) or not 0 < len(value) <= 255 or value in {".", ".."}:
        return False
    return not any(letter in "/\\\0" for letter in value)


_MAY_BE_NONE = {*_RATES, "n_inner", "tokenizer"}
_INTEGERS = {  # key → its largest value
    "vocab_size": 1 << 24,
    "context_length": 1 << 24,
    "emb_dim": 1 << 20,
    "n_heads": 1 << 20,
    "n_layers": 100_000,
    "n_inner": 1 << 22,
}
_RULES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "drop_rate": ("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1),
    "layer_norm_epsilon": ("a number in (0, 1)", lambda v: _is_number(v) and 0 < v < 1),
    "activation": ("a function's name", lambda v: isinstance(v, str) and 0 < len(v) <= 64),
    "tokenizer": ("a tiktoken name or a file name without folders", _is_file_name),
}
_RULES |= dict.fromkeys(_RATES, _RULES["drop_rate"])
_RULES |= {key: ("true or false", lambda v: isinstance(v, bool)) for key in _BOOLEANS}
