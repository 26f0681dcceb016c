"""Train a byte-level BPE with the `tokenizers` library; the result is ranks for tiktoken."""

import json
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from gptcli.tokenizer.encodings import ranks_of_merges

BYTES = 256
MAX_PIECE = 1 << 16  # characters; longer documents are passed to the library line by line


def train_ranks(documents: Iterable[str], vocab_size: int) -> dict[bytes, int]:
    """Documents → ranks by bytes, at most `vocab_size` - 1 of them.

    The last id is left to the end of text. Little text gives fewer tokens, for lack of pairs to
    merge. The same documents give the same ranks.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size - 1, BYTES),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    bpe.train_from_iterator(_short(documents), trainer)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    return ranks_of_merges([(left, right) for left, right in pairs])


def _short(documents: Iterable[str]) -> Iterator[str]:
    """Long documents line by line: pre-tokenization is slow on very long texts."""
    for document in documents:
        if len(document) <= MAX_PIECE:
            yield document
        else:
            yield from document.splitlines(keepends=True)
