"""The files of a tokenizer, for a model directory that is to be complete by itself.

Knows no model and no text.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from gptcli.core.files import read_bounded
from gptcli.tokenizer.rankfile import rank_lines
from gptcli.tokenizer.tokenizer import find_file, read_vocabulary
from gptcli.tokenizer.vocabulary import (
    END_OF_TEXT,
    MAX_BYTES,
    MERGES,
    SETTINGS,
    VOCABULARIES,
    Vocabulary,
    named_token,
)

_BESIDE = (*MERGES, *VOCABULARIES)  # what a file may be read with


def files_of(
    name: str | None, directory: Path | None, vocab_size: int, rank_file: str
) -> tuple[str, dict[str, bytes]]:
    """Name and place of a tokenizer → what a config is to call it, and the files beside that.

    It becomes `rank_file` where ranks say all of it, otherwise its own files are copied. A name
    that only tiktoken's own data explains stays, and needs no file.

    Raises:
        InputError: a file is not what it should be, or the name means nothing.
    """
    name = name or "gpt2"
    path = find_file(name, directory)
    settings = _read([directory / SETTINGS]) if directory else {}
    if path is None:
        return name, settings
    vocabulary = read_vocabulary(path, vocab_size)
    if _is_plain(vocabulary):
        return rank_file, {rank_file: rank_lines(vocabulary.ranks), **settings}
    return path.name, _read([path, *map(path.with_name, _BESIDE)]) | settings


def beginning(settings: bytes | None) -> bytes:
    """A `tokenizer_config.json` of a model whose texts begin after the end of another."""
    said = json.loads(settings) if settings else {}
    end = named_token(said, "eos_token")
    changed = said | {"add_bos_token": True, "bos_token": end, "eos_token": end}
    return (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()


def _read(paths: Iterable[Path]) -> dict[str, bytes]:
    """The contents of those that there are."""
    return {path.name: read_bounded(path, MAX_BYTES) for path in paths if path.exists()}


def _is_plain(vocabulary: Vocabulary) -> bool:
    """Whether ranks are the ids of all tokens but the end of text, which comes after them."""
    end = max(vocabulary.ranks.values()) + 1
    others = {end: END_OF_TEXT.encode()}
    plain = vocabulary.ids is None and not vocabulary.prefix_space
    return plain and vocabulary.others == others and vocabulary.eos_id == end
