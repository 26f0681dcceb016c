"""Tokenizer files made for tests by libraries that are not ours."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

TEXTS = [
    "the cat sat on the mat, the cat!",
    "naïve café 東京 🙂🙂 it's the cat's",
    "a  b\n\n c\t d",
] * 3


def write_ranks(path: Path, ranks: Mapping[bytes, int]) -> Path:
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()]
    path.write_bytes(b"".join(lines))
    return path


def byte_ranks(*tokens: bytes) -> dict[bytes, int]:
    """All bytes, then these tokens."""
    return {token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), *tokens])}


def trained(vocab_size: int = 400, specials: Iterable[str] = (), prefix_space: bool = False):
    """A byte-level BPE by the tokenizers library; special tokens take the first ids."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def bpe_of(vocab: Mapping[str, int], merges: Iterable[tuple[str, str]]):
    """The tokenizers library on a vocabulary and merges, one text one piece."""
    tokenizer = tokenizers.Tokenizer(models.BPE(dict(vocab), list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
