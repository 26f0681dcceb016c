"""Read special and end-of-text tokens from a model directory's files.

Transformers writes this in up to four places, and which of them are there depends on its version:
`tokenizer_config.json` and `special_tokens_map.json` name tokens, `generation_config.json` and
`config.json` give ids.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.core.errors import InputError
from gptcli.core.escape import described, shown
from gptcli.core.files import decode_utf8, read_bounded, strict_json

SETTINGS = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
GENERATION, CONFIG = "generation_config.json", "config.json"
END_OF_TEXT = "<|endoftext|>"
MAX_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class EndTokens:
    """The tokens that end a text, as a directory's files name them.

    Attributes:
        named: whether a file names one, other than an id that the model does not have: such an
            id is often only the default of transformers' GPT-2.
        ids: of those that the model can write, the tokenizer's own first.
        notices: on those that it cannot, a line each.
    """

    named: bool = False
    ids: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()


def end_tokens(
    directory: Path, id_of: Callable[[str], int | None], vocab_size: int | None
) -> EndTokens:
    """Every end token that a file of the directory names, by text or by id, alone or in a list.

    Raises:
        InputError: a file is no JSON, or its `eos_token_id` is no id.
    """
    found: dict[int, str] = {}  # id → where it is named first
    notices: list[str] = []
    for file in (SETTINGS, SPECIAL_TOKENS_MAP):
        for token in _texts(read_json_object(directory / file).get("eos_token")):
            id = id_of(token)
            if id is None:
                notices.append(f'{file}: eos_token "{shown(token)}" is no token: it ends no text')
            else:
                found.setdefault(id, f'{file}: eos_token "{shown(token)}", id {id:,},')
    named = bool(found or notices)
    for file in (GENERATION, CONFIG):
        for id in _ids(directory / file, "eos_token_id"):
            found.setdefault(id, f"{file}: eos_token_id {id:,}")
    outside = [id for id in found if vocab_size is not None and id >= vocab_size]
    size = f"the vocabulary (vocab_size {vocab_size})"
    notices += [f"{found[id]} is outside {size}: it ends no text" for id in outside]
    for id in _ids(directory / CONFIG, "pad_token_id"):
        if vocab_size is not None and id >= vocab_size and id not in found:
            notices.append(f"{CONFIG}: pad_token_id {id:,} is outside {size}: it is not used")
    ids = tuple(id for id in found if id not in outside)
    return EndTokens(named or bool(ids), ids, tuple(notices))


def end_ids(directory: Path) -> list[int]:
    """The ids that end a text by the model's files, those of its tokenizer apart.

    Raises:
        InputError: as `end_tokens`.
    """
    found = [id for file in (GENERATION, CONFIG) for id in _ids(directory / file, "eos_token_id")]
    return list(dict.fromkeys(found))


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file's one object; an empty one where there is no such file.

    Raises:
        InputError: it is no JSON, or no object.
    """
    if not path.exists():
        return {}
    value = strict_json(decode_utf8(read_bounded(path, MAX_BYTES), path), path)
    if not isinstance(value, dict):
        raise InputError(shown(path), f"expected one mapping, found {described(value)}")
    return value


def text_of(value: object) -> str | None:
    """A special token's text; files write it alone, or with its properties."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def named_token(settings: Mapping[str, Any], key: str) -> str:
    """The text of `bos_token` or `eos_token`; GPT-2's end of text where it is not said."""
    return text_of(settings.get(key)) or END_OF_TEXT


def _texts(value: object) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if text := text_of(item):
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
