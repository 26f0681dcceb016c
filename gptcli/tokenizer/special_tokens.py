"""Read the special tokens that a model directory's files name, above all its EOS tokens.

Transformers writes them to up to four files, depending on its version: `tokenizer_config.json` and
`special_tokens_map.json` name tokens, `generation_config.json` and `config.json` give ids.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.core.errors import InputError
from gptcli.core.escape import described, shown
from gptcli.core.files import decode_utf8, read_bounded, strict_json

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
GENERATION_CONFIG, MODEL_CONFIG = "generation_config.json", "config.json"
END_OF_TEXT = "<|endoftext|>"
MAX_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class EosTokens:
    """The tokens that end a text, by a directory's files.

    Attributes:
        is_named: whether a file names one. An id that the model's vocabulary lacks does not count:
            it is often only the default of transformers' GPT-2.
        ids: those in the model's vocabulary, the tokenizer's own first.
        notices: on those outside of it, a line each.
    """

    is_named: bool = False
    ids: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()


def read_eos_tokens(
    directory: Path, id_of: Callable[[str], int | None], vocab_size: int | None
) -> EosTokens:
    """Every EOS token that a file of the directory names, by text or by id, alone or in a list.

    Raises:
        InputError: a file is not JSON, or its `eos_token_id` is not a token id.
    """
    found: dict[int, str] = {}  # id → where it is named first, for notices
    notices: list[str] = []
    for file in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP):
        for token in _texts(read_json_object(directory / file).get("eos_token")):
            id = id_of(token)
            if id is None:
                problem = f'eos_token "{shown(token)}" is not in the vocabulary: it ends no text'
                notices.append(f"{file}: {problem}")
            else:
                found.setdefault(id, f'{file}: eos_token "{shown(token)}", id {id:,},')
    is_named = bool(found or notices)
    for file in (GENERATION_CONFIG, MODEL_CONFIG):
        for id in _ids(directory / file, "eos_token_id"):
            found.setdefault(id, f"{file}: eos_token_id {id:,}")
    outside = [id for id in found if vocab_size is not None and id >= vocab_size]
    size = f"the vocabulary (vocab_size {vocab_size})"
    notices += [f"{found[id]} is outside {size}: it ends no text" for id in outside]
    for id in _ids(directory / MODEL_CONFIG, "pad_token_id"):
        if vocab_size is not None and id >= vocab_size and id not in found:
            notices.append(f"{MODEL_CONFIG}: pad_token_id {id:,} is outside {size}: it is not used")
    ids = tuple(id for id in found if id not in outside)
    return EosTokens(is_named or bool(ids), ids, tuple(notices))


def model_eos_ids(directory: Path) -> list[int]:
    """The EOS ids in the model's own files, not those of its tokenizer.

    Raises:
        InputError: as `read_eos_tokens`.
    """
    found = [
        id
        for file in (GENERATION_CONFIG, MODEL_CONFIG)
        for id in _ids(directory / file, "eos_token_id")
    ]
    return list(dict.fromkeys(found))


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file.

    Raises:
        InputError: not JSON, or not an object.
    """
    if not path.exists():
        return {}
    value = strict_json(decode_utf8(read_bounded(path, MAX_BYTES), path), path)
    if not isinstance(value, dict):
        raise InputError(shown(path), f"expected one mapping, found {described(value)}")
    return value


def token_text(value: object) -> str | None:
    """The text of a special token, which files write as a string or as an object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def special_token(settings: Mapping[str, Any], key: str) -> str:
    """The text of `bos_token` or `eos_token`; GPT-2's `<|endoftext|>` where it is missing."""
    return token_text(settings.get(key)) or END_OF_TEXT


def _texts(value: object) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if text := token_text(item):
            yield text


def _ids(path: Path, key: str) -> Iterator[int]:
    value = read_json_object(path).get(key)
    for id in value if isinstance(value, list) else [value]:
        if type(id) is int and id >= 0:
            yield id
        elif id is not None and not _is_unset(id):
            expected = "expected a token id or a list of them"
            raise InputError(shown(path), f"{key}: {expected}, found {described(id)}")


def _is_unset(id: object) -> bool:
    """Whether it is -1, which some files write for "none"."""
    return type(id) is int and id == -1
