"""Train a byte-level BPE with the `tokenizers` library and write it as a tiktoken rank file.

Knows no model. A rank file is what `gptcli.tokenizer.vocabulary.read_ranks` reads: a token in
base64 and its rank a line; the end of text has no line and is the id after the last rank.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping

from gptcli.core.errors import RunError
from gptcli.tokenizer.bpe import ranks_of_merges

BYTES = 256
MAX_PIECE = 1 << 16  # the library's own word table needs no longer texts than this


def train_ranks(documents: Iterable[str], vocab_size: int) -> dict[bytes, int]:
    """Documents → the bytes of each token and its rank, at most `vocab_size` - 1 of them.

    The id left over is the end of text's. Little text has fewer pairs to merge and gives fewer
    tokens. The same documents give the same ranks.

    Raises:
        RunError: the `tokenizers` library is missing.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: PLC0415
    except ImportError:
        hint = 'Install it with: pip install "gptcli[train]"'
        raise RunError("train", "the tokenizers library is not installed", hint) from None
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


def rank_lines(ranks: Mapping[bytes, int]) -> bytes:
    """The contents of a `.tiktoken` file."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)


def _short(documents: Iterable[str]) -> Iterator[str]:
    """Long documents by lines: the split into words is slow on very long texts."""
    for document in documents:
        if len(document) <= MAX_PIECE:
            yield document
        else:
            yield from document.splitlines(keepends=True)
