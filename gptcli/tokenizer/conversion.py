"""Write a tokenizer as the files that Hugging Face's libraries and llama.cpp read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.tokenizer.byte_letters import BYTE_OF_LETTER
from gptcli.tokenizer.characters import CharacterTokenizer
from gptcli.tokenizer.encodings import PATTERN, TiktokenTokenizer
from gptcli.tokenizer.export import json_bytes
from gptcli.tokenizer.huggingface import HuggingFaceTokenizer
from gptcli.tokenizer.special_tokens import GENERATION_CONFIG, TOKENIZER_CONFIG
from gptcli.tokenizer.tokenizer import Tokenizer

_LETTERS = {byte: letter for letter, byte in BYTE_OF_LETTER.items()}


@dataclass(frozen=True, slots=True)
class BpeVocabulary:
    """A byte-level BPE as a GGUF file describes it.

    Attributes:
        tokens: by id, in the letters of byte-level BPE.
        special: ids of special tokens.
        merges: "left right" in the same letters, best first.
        eos_id: of the token that ends a text, None without one.
        bos_id: of the token before every prompt, None without one.
    """

    tokens: list[str]
    special: frozenset[int]
    merges: list[str]
    eos_id: int | None
    bos_id: int | None


def huggingface_files(tokenizer: Tokenizer, context_length: int) -> dict[str, bytes]:
    """Name → contents of the files that transformers' `AutoTokenizer` and `generate` read.

    The ids are the same as here.
    """
    library = to_library(tokenizer)
    end = None if tokenizer.eos_id is None else library.id_to_token(tokenizer.eos_id)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    files = {"tokenizer.json": library.to_str(pretty=True).encode()}
    if end is not None:
        settings |= {"bos_token": end, "eos_token": end, "unk_token": end}
        ids = sorted(tokenizer.eos_ids)
        files[GENERATION_CONFIG] = json_bytes({"eos_token_id": ids if len(ids) > 1 else ids[0]})
    files[TOKENIZER_CONFIG] = json_bytes(settings)
    return files


def to_library(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer as an object of the `tokenizers` library."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return tokenizer.library
    if isinstance(tokenizer, TiktokenTokenizer):
        return _from_tiktoken(tokenizer)
    assert isinstance(tokenizer, CharacterTokenizer)
    library = tokenizers.Tokenizer(models.BPE(vocab=dict(tokenizer.ids), merges=[]))
    library.decoder = decoders.Fuse()
    return library


def bpe_vocabulary(tokenizer: Tokenizer) -> BpeVocabulary:
    """The vocabulary of a tokenizer, for a GGUF file.

    Raises:
        UsageError: the tokenizer is not a byte-level BPE that splits text as GPT-2 does.
    """
    document = json.loads(to_library(tokenizer).to_str())  # a tokenizer.json
    model, split = document["model"], document["pre_tokenizer"] or {}
    if model["type"] != "BPE" or split.get("type") != "ByteLevel" or not split.get("use_regex"):
        problem = f"gguf needs a tokenizer like GPT-2's ({shown(tokenizer.name)} is another kind)"
        raise UsageError("format", problem)
    added = {token["id"]: token for token in document["added_tokens"]}
    tokens = {id: token for token, id in model["vocab"].items()}
    tokens |= {id: token["content"] for id, token in added.items()}
    return BpeVocabulary(
        tokens=[tokens.get(id, f"[PAD{id}]") for id in range(max(tokens) + 1)],
        special=frozenset(id for id, token in added.items() if token["special"]),
        merges=[m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        eos_id=tokenizer.eos_id,
        bos_id=next(iter(tokenizer.encode_prompt("")), None),
    )


def add_to_gguf(gguf: Any, writer: Any, vocabulary: BpeVocabulary, vocab_size: int) -> None:
    """Add a vocabulary, padded to `vocab_size`, to a GGUF file that is being written."""
    count, kinds = len(vocabulary.tokens), gguf.TokenType
    padding = range(count, vocab_size)
    types = [kinds.CONTROL if id in vocabulary.special else kinds.NORMAL for id in range(count)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*vocabulary.tokens, *(f"[PAD{id}]" for id in padding)])
    writer.add_token_types([*types, *(kinds.UNUSED for _ in padding)])
    writer.add_token_merges(vocabulary.merges)
    if vocabulary.eos_id is not None:
        writer.add_eos_token_id(vocabulary.eos_id)
    writer.add_add_bos_token(vocabulary.bos_id is not None)
    if vocabulary.bos_id is not None:
        writer.add_bos_token_id(vocabulary.bos_id)


def merges_of(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """For each token of two bytes or more, by rank, the two tokens that it is merged from.

    They are the last two parts when byte pair encoding merges the token's bytes.
    """
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
            best = pairs.index(min(pairs))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def _from_tiktoken(tokenizer: TiktokenTokenizer) -> tokenizers.Tokenizer:
    ranks = tokenizer.ranks
    vocabulary = {_to_letters(token): rank for token, rank in ranks.items()}
    vocabulary |= {token: tokenizer.id_of(token) or 0 for token in tokenizer.special_tokens}
    merges = [(_to_letters(left), _to_letters(right)) for left, right in merges_of(ranks)]
    library = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    if tokenizer.pattern == PATTERN:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(tokenizer.pattern), "isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    library.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in tokenizer.special_tokens]
    library.add_special_tokens(special)
    if tokenizer.bos_id is not None:
        begin = library.id_to_token(tokenizer.bos_id)
        template = processors.TemplateProcessing(f"{begin} $A", None, [(begin, tokenizer.bos_id)])
        library.post_processor = template
    return library


def _to_letters(token: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in token)
