"""Collect a tokenizer's files for a self-contained model directory."""

import json
from collections.abc import Mapping
from pathlib import Path

from gptcli.core.files import read_bounded
from gptcli.tokenizer.special_tokens import (
    GENERATION_CONFIG,
    MAX_BYTES,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    model_eos_ids,
)
from gptcli.tokenizer.tokenizer import MERGES, VOCABULARIES, find_file

_BESIDE = (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, "added_tokens.json")


def tokenizer_files(
    name: str | None, directory: Path | None, rank_file: str
) -> tuple[str, dict[str, bytes]]:
    """Collect a tokenizer's files for another model directory → its name in the config, the files.

    A rank file is renamed to `rank_file`; others keep their names. One of tiktoken's encodings
    needs no file.

    Raises:
        InputError: a file is malformed, or the name is unknown.
    """
    found, files = name or "gpt2", dict[str, bytes]()
    if directory is None:
        return found, files
    path = find_file(name, directory)
    if path is not None and path.suffix == ".tiktoken":
        found, files = rank_file, {rank_file: read_bounded(path, MAX_BYTES)}
    elif path is not None:
        pair = (*MERGES, *VOCABULARIES) if path.name in {*MERGES, *VOCABULARIES} else ()
        found, files = path.name, _read(path.parent, (path.name, *pair))
    files |= _read(directory, _BESIDE)
    if ids := model_eos_ids(directory):
        files[GENERATION_CONFIG] = json_bytes({"eos_token_id": ids})
    return found, files


def with_bos_token(files: Mapping[str, bytes], token: str) -> dict[str, bytes]:
    """The files, changed so that `token` both begins and ends every text."""
    config = json.loads(files.get(TOKENIZER_CONFIG, b"{}"))
    config |= {"add_bos_token": True, "bos_token": token, "eos_token": token}
    changed = {**files, TOKENIZER_CONFIG: json_bytes(config)}
    if "tokenizer.json" in files:  # it has its own post-processor, and ignores add_bos_token
        from gptcli.tokenizer.huggingface import set_bos_token  # noqa: PLC0415  # 0.02 s

        changed["tokenizer.json"] = set_bos_token(files["tokenizer.json"], token)
    return changed


def _read(directory: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The contents of the files that exist."""
    paths = [directory / name for name in names]
    return {path.name: read_bounded(path, MAX_BYTES) for path in paths if path.exists()}


def json_bytes(value: object) -> bytes:
    """Indented JSON in UTF-8, with a newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
