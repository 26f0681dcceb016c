"""Collect a tokenizer's files for a self-contained model directory."""

import json
from collections.abc import Mapping
from pathlib import Path

from gptcli.core.files import read_bounded
from gptcli.tokenizer.special_tokens import (
    GENERATION,
    MAX_BYTES,
    SETTINGS,
    SPECIAL_TOKENS_MAP,
    end_ids,
)
from gptcli.tokenizer.tokenizer import MERGES, VOCABULARIES, find_file

_BESIDE = (SETTINGS, SPECIAL_TOKENS_MAP, "added_tokens.json")


def files_of(
    name: str | None, directory: Path | None, rank_file: str
) -> tuple[str, dict[str, bytes]]:
    """Name and place of a tokenizer → what a config is to call it, and the files beside that.

    A rank file is called `rank_file` from then on; others keep their names. A name that only
    tiktoken's own data explains stays, and needs no file.

    Raises:
        InputError: a file is not what it should be, or the name means nothing.
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
    if ids := end_ids(directory):
        files[GENERATION] = json_bytes({"eos_token_id": ids})
    return found, files


def beginning(files: Mapping[str, bytes], token: str) -> dict[str, bytes]:
    """The files of a model whose texts begin with the token that ends them."""
    said = json.loads(files.get(SETTINGS, b"{}"))
    said |= {"add_bos_token": True, "bos_token": token, "eos_token": token}
    changed = {**files, SETTINGS: json_bytes(said)}
    if "tokenizer.json" in files:  # which says by itself how a text begins
        from gptcli.tokenizer.huggingface import begin_with  # noqa: PLC0415  # 0.02 s

        changed["tokenizer.json"] = begin_with(files["tokenizer.json"], token)
    return changed


def _read(directory: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The contents of those that there are."""
    paths = [directory / name for name in names]
    return {path.name: read_bounded(path, MAX_BYTES) for path in paths if path.exists()}


def json_bytes(value: object) -> bytes:
    """A JSON file for people to read too."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
