"""Tokenizer files: rank files, merges with a vocabulary, and byte-level `tokenizer.json`.

Each reader gives a `Vocabulary`, which is what tiktoken needs and how its numbers map to the
file's ids. Every problem is an `InputError` that names the file. Knows no tiktoken, no network.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptcli.core.errors import InputError
from gptcli.core.escape import listed, shown
from gptcli.core.files import decode_utf8, read_bounded, strict_json
from gptcli.tokenizer import bpe
from gptcli.tokenizer.hfjson import Parts, bpe_parts

END_OF_TEXT = "<|endoftext|>"
SETTINGS = "tokenizer_config.json"
MAX_BYTES = 1 << 25
MAX_ID = 1 << 24

VOCABULARIES = ("encoder.json", "vocab.json")  # what may lie beside a merges file
MERGES = ("vocab.bpe", "merges.txt")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE.

    Attributes:
        name: for messages and records, without folders.
        ranks: the bytes of each token that text can become → its rank in tiktoken.
        ids: rank → id; None where they are the same.
        others: id → bytes of the tokens that text never becomes, such as the end of text.
        eos_id: the id of the end of text.
        prefix_space: whether a text that begins with no space gets one.
    """

    name: str
    ranks: Mapping[bytes, int]
    ids: Sequence[int] | None = None
    others: Mapping[int, bytes] = field(default_factory=dict)
    eos_id: int | None = None
    prefix_space: bool = False


def read_ranks(path: Path, vocab_size: int | None = None) -> Vocabulary:
    """A `.tiktoken` file: a line is a token in base64 and its rank, which is its id.

    The end of text is the id after the last rank, as in GPT-2's own rank file, if the model's
    vocabulary has room for it.
    """
    ranks: dict[bytes, int] = {}
    lines = read_bounded(path, MAX_BYTES).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            token, rank = _rank_line(line)
        except ValueError as error:
            raise InputError(shown(path), f"line {number:,}: {error}") from None
        if token in ranks:
            raise InputError(shown(path), f"line {number:,}: the token of an earlier line")
        ranks[token] = rank
    _check_ranks(ranks, path)
    eos_id = max(ranks.values()) + 1
    if eos_id == vocab_size:
        return Vocabulary(path.name, ranks)
    return Vocabulary(path.name, ranks, others={eos_id: END_OF_TEXT.encode()}, eos_id=eos_id)


def _rank_line(line: bytes) -> tuple[bytes, int]:
    fields = line.split()
    if len(fields) != 2:
        raise ValueError(f"expected a token in base64 and its rank, found {len(fields)} fields")
    try:
        token = base64.b64decode(fields[0], validate=True)
    except binascii.Error:
        raise ValueError("the token is not base64") from None
    if not 0 < len(token) <= bpe.MAX_TOKEN_BYTES:
        raise ValueError(f"a token of {len(token):,} bytes (expected 1 to {bpe.MAX_TOKEN_BYTES:,})")
    if not fields[1].isdigit() or len(fields[1]) > 8 or int(fields[1]) >= MAX_ID:
        raise ValueError(f"expected a rank below {MAX_ID:,}, found {_quoted(fields[1])}")
    return token, int(fields[1])


def _check_ranks(ranks: Mapping[bytes, int], path: Path) -> None:
    missing = [f"0x{byte:02x}" for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        found = f"{len(missing)} of the 256 bytes have no rank ({listed(missing)})"
        raise InputError(shown(path), found)
    if len(set(ranks.values())) < len(ranks):
        raise InputError(shown(path), "two tokens have the same rank")


def read_merges(path: Path, vocabulary: Path) -> Vocabulary:
    """GPT-2's pair of files: `vocab.bpe` or `merges.txt`, and `encoder.json` or `vocab.json`."""
    lines = decode_utf8(read_bounded(path, MAX_BYTES), path).split("\n")
    first = 1 if lines[0].startswith("#version") else 0
    merges = []
    for number, line in enumerate(lines[first:], first + 1):
        pair = line.split()
        if len(pair) == 2:
            merges.append((pair[0], pair[1]))
        elif pair:
            found = f"line {number:,}: expected two tokens, found {len(pair)}"
            raise InputError(shown(path), found)
    text = decode_utf8(read_bounded(vocabulary, MAX_BYTES), vocabulary)
    ids = strict_json(text, vocabulary)
    if not isinstance(ids, dict):
        raise InputError(shown(vocabulary), "expected one mapping of tokens to ids")
    return _vocabulary(Parts(merges, ids), path)


def read_json(path: Path) -> Vocabulary:
    """A Hugging Face `tokenizer.json` that holds a byte-level BPE as GPT-2's is."""
    text = decode_utf8(read_bounded(path, MAX_BYTES), path)
    return _vocabulary(bpe_parts(strict_json(text, path), path), path)


def read_settings(directory: Path) -> dict[str, Any]:
    """What a `tokenizer_config.json` there says; nothing without one."""
    path = directory / SETTINGS
    if not path.exists():
        return {}
    settings = strict_json(decode_utf8(read_bounded(path, MAX_BYTES), path), path)
    return settings if isinstance(settings, dict) else {}


def named_token(settings: Mapping[str, Any], key: str) -> str:
    """The text of `bos_token` or `eos_token`; GPT-2's end of text where it is not said."""
    name = settings.get(key)
    if isinstance(name, dict):  # older files write the token with its properties
        name = name.get("content")
    return name if isinstance(name, str) else END_OF_TEXT


def _vocabulary(parts: Parts, path: Path) -> Vocabulary:
    """Merges and ids by letters, and tokens by text that were added to them → one vocabulary."""
    try:
        ranks = bpe.ranks_of_merges(parts.merges)
    except bpe.MergeError as error:
        raise InputError(shown(path), str(error)) from None
    by_bytes, others = _split(parts, ranks, path)
    if missing := [_quoted(token) for token in ranks if token not in by_bytes]:
        raise InputError(shown(path), f"{len(missing):,} tokens have no id ({listed(missing)})")
    eos_id = {**parts.ids, **parts.added}.get(named_token(read_settings(path.parent), "eos_token"))
    ids = [by_bytes[token] for token in ranks]
    if bpe.in_order(ids[256:]):  # ids can serve as ranks; those of bytes are never compared
        return Vocabulary(path.name, by_bytes, None, others, eos_id, parts.prefix_space)
    return Vocabulary(path.name, ranks, ids, others, eos_id, parts.prefix_space)


def _split(
    parts: Parts, ranks: Mapping[bytes, int], path: Path
) -> tuple[dict[bytes, int], dict[int, bytes]]:
    """Ids → those of tokens that text can become, by bytes, and the others' bytes by id."""
    by_bytes: dict[bytes, int] = {}
    others: dict[int, bytes] = {
        id: token.encode(errors="replace") for token, id in parts.added.items()
    }
    for letters, id in parts.ids.items():
        if type(id) is not int or not 0 <= id < MAX_ID:
            found = f'the id of "{shown(letters)}": expected an integer from 0 to {MAX_ID - 1:,}'
            raise InputError(shown(path), f"{found}, found {shown(id)}")
        try:
            token = bpe.token_bytes(letters)
        except bpe.MergeError:
            token = letters.encode(errors="replace")
        if token in ranks and letters not in parts.added:
            by_bytes[token] = id
        else:
            others.setdefault(id, token)
    taken = [*by_bytes.values(), *others]
    if len(set(taken)) < len(taken) or len(taken) < len({**parts.ids, **parts.added}):
        raise InputError(shown(path), "two tokens have the same id")
    return by_bytes, others


def _quoted(data: bytes) -> str:
    return f'"{shown(data.decode(errors="backslashreplace"))}"'
