"""GPTConfig: the shape of a model, and reading it from YAML or JSON.

Knows no weights, no presets and no torch. A file has either the book's keys, spelt exactly so,
or is the `config.json` of a Hugging Face GPT-2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gptcli.core.errors import MAX_PROBLEMS, InputError, one_message
from gptcli.core.escape import described, shown
from gptcli.core.files import decode_utf8, read_bounded, strict_json
from gptcli.core.strict_yaml import parse_yaml
from gptcli.model.hf_config import book_keys, is_huggingface, unsupported

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 1 << 20

_SIZES = {  # the largest value of each; totals are counted in Python's unbounded integers
    "vocab_size": 1 << 24,
    "context_length": 1 << 24,
    "emb_dim": 1 << 20,
    "n_heads": 1 << 20,
    "n_layers": 100_000,
}
_BOOLEANS = ("qkv_bias", "tie_weights")
_OPTIONAL = ("tokenizer", "tie_weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """The seven keys of the book's configuration and two of ours.

    Attributes:
        vocab_size: tokens of the vocabulary, rows of the token embedding.
        context_length: the most tokens the positional embedding can place.
        emb_dim: width of a token's embedding.
        n_heads: attention heads; divides emb_dim.
        n_layers: transformer blocks.
        drop_rate: dropout while training, in [0, 1).
        qkv_bias: whether query, key and value have a bias.
        tokenizer: a tiktoken name, or a file beside the config; None: the files that are there.
        tie_weights: whether the output head is the token embedding.

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

    def __post_init__(self) -> None:
        if problems := _value_problems({f.name: getattr(self, f.name) for f in fields(self)}):
            raise InputError("GPTConfig", one_message(problems))

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.emb_dim // self.n_heads

    def to_dict(self) -> dict[str, Any]:
        """The book's keys in the book's order; an optional one only where it is not the default."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        usual = {f.name: f.default for f in fields(self) if f.name in _OPTIONAL}
        return {k: v for k, v in values.items() if k not in usual or v != usual[k]}


KEYS = tuple(f.name for f in fields(GPTConfig))


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
    names: dict[str, str] = {}  # what the file calls a key of ours
    values = mapping
    if is_huggingface(mapping):
        problems = unsupported(mapping)
        if problems and "model_type" in problems[0]:  # another architecture: its keys say nothing
            raise InputError(shown(source), one_message(problems))
        values, names = book_keys(mapping)
    problems += _key_problems(values, names) + _value_problems(values, names)
    if problems:
        raise InputError(shown(source), one_message(problems))
    return GPTConfig(**{**values, "drop_rate": float(values["drop_rate"])})


def _key_problems(values: Mapping[str, object], names: Mapping[str, str]) -> list[str]:
    """Unknown keys, each with the nearest real one, then missing keys that no unknown one meant."""
    problems: list[str] = []
    meant: set[str] = set()
    for key in values:
        if key not in KEYS:
            near = _nearest(str(key)) if len(problems) < MAX_PROBLEMS else []
            meant.update(near)
            hint = f' (did you mean "{near[0]}"?)' if near else ""
            problems.append(f'unknown key "{shown(key)}"{hint}')
    for key in KEYS:
        if key not in values and key not in meant and key not in _OPTIONAL:
            problems.append(f'missing key "{names.get(key, key)}"')
    return problems


def _nearest(key: str) -> list[str]:
    return get_close_matches(key[:200].lower(), KEYS, n=1)


def _value_problems(
    values: Mapping[str, object], names: Mapping[str, str] | None = None
) -> list[str]:
    """What is wrong with the values that are there, in the order of the keys."""
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
    """What `key` needs where `value` is not that, otherwise nothing."""
    if key in _SIZES:
        if type(value) is not int:  # True is an int to isinstance
            return "an integer"
        fits = 1 <= value <= _SIZES[key]
        return "" if fits else f"an integer from 1 to {_SIZES[key]:,}"
    if key in _BOOLEANS:
        return "" if isinstance(value, bool) else "true or false"
    if key == "drop_rate":
        return "" if _is_rate(value) else "a number in [0, 1)"
    named = value is None or _is_file_name(value)
    return "" if named else "a tiktoken name or a file name without folders"


def _is_rate(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1  # type: ignore[operator]


def _is_file_name(value: object) -> bool:
    """Whether it stays beside the config when joined to its directory."""
    if not isinstance(value, str) or not 0 < len(value) <= 255 or value in {".", ".."}:
        return False
    return not any(letter in "/\\\0" for letter in value)
