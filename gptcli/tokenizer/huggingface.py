"""Hugging Face tokenizers, run by the `tokenizers` library.

Reads `tokenizer.json` of any kind, and the older `vocab.json` with `merges.txt`. The ids are those
of transformers' `AutoTokenizer`, which also reads `tokenizer_config.json`,
`special_tokens_map.json` and `added_tokens.json`.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import described, shown
from gptcli.core.files import decode_utf8, read_bounded, strict_json
from gptcli.tokenizer.byte_letters import bytes_of
from gptcli.tokenizer.special_tokens import (
    END_OF_TEXT,
    MAX_BYTES,
    MODEL_CONFIG,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    read_json_object,
    special_token,
    token_text,
)
from gptcli.tokenizer.tokenizer import (
    GPT2_CLASSES,
    REPLACEMENT,
    SPLIT_CHARACTERS,
    IncrementalDecoder,
    Tokenizer,
)

ADDED_TOKENS = "added_tokens.json"
MAX_ID = 1 << 24
# Classes of transformers whose vocab.json and merges.txt are a byte-level BPE like GPT-2's; the
# last two are generic and do not tell the kind of tokenizer.
_BYTE_LEVEL_CLASSES = (*GPT2_CLASSES, "PreTrainedTokenizerFast", "TokenizersBackend")
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")  # a byte in a vocabulary with byte fallback
# Normalizers and pre-tokenizers that treat each word by itself and split words where GPT-2 does.
_WORDWISE = {
    *("ByteLevel", "BertPreTokenizer", "Whitespace", "Digits", "Sequence"),
    *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"),
}
_COMPONENT = re.compile(r"(\w+)\(")
_WINDOW = 64  # fewest tokens that are decoded again with each new one


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, name: str, library: tokenizers.Tokenizer, ids: Collection[int]) -> None:
        """Takes `library` over and changes its settings; `ids` are those of its vocabulary."""
        library.no_truncation()
        library.no_padding()
        self.name = self.origin = name
        self._library = library
        self._added = library.get_added_tokens_decoder()
        own = set(ids)
        self._outside_vocabulary = {
            id: token.content for id, token in self._added.items() if id not in own
        }
        self._is_bytes = isinstance(library.decoder, decoders.ByteLevel)
        self._has_byte_fallback = "ByteFallback" in repr(library.decoder)
        self._min_vocab_size = 1 + max((id for id in own if id not in self._added), default=-1)
        self.n_vocab = max(self._min_vocab_size, 1 + max(self._added, default=-1))
        self.eos_id = library.token_to_id(END_OF_TEXT)
        self.eos_ids = frozenset() if self.eos_id is None else frozenset({self.eos_id})

    @property
    def library(self) -> tokenizers.Tokenizer:
        """The underlying object of the `tokenizers` library."""
        return self._library

    @property
    def min_vocab_size(self) -> int:
        """Counts no added tokens: a model works without some of them, such as a padding token."""
        return self._min_vocab_size

    @property
    def special_tokens(self) -> Sequence[str]:
        """The added tokens that are marked as special."""
        return [token.content for token in self._added.values() if token.special]

    def id_of(self, token: str) -> int | None:
        """The id of any token."""
        return self._library.token_to_id(token)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that the token adds in the middle of a text; those of U+FFFD for no token."""
        # The library would read a Latin-1 letter of an added token as a byte.
        if id in self._outside_vocabulary:
            return self._outside_vocabulary[id].encode(errors="replace")
        token = self._library.id_to_token(id) if 0 <= id < MAX_ID else None
        if token is None:
            return REPLACEMENT.encode()
        if self._is_bytes:
            data = bytes_of(token)
            return token.encode(errors="replace") if data is None else data
        if byte := self._byte(token):
            return bytes.fromhex(byte)
        alone = self.library_decode([id])
        return (self.library_decode([id, id])[len(alone) :] or alone).encode(errors="replace")

    def decoder(self, after: Sequence[int] = ()) -> IncrementalDecoder:
        """A byte decoder where tokens are bytes, otherwise one that decodes a window of tokens."""
        return super().decoder() if self._is_bytes else SlidingWindowDecoder(self, after)

    def library_decode(self, ids: Sequence[int]) -> str:
        """Decode with the library, which drops ids without a token."""
        return self._library.decode(ids, skip_special_tokens=False)

    def has_token(self, id: int) -> bool:
        """Whether an id has a token."""
        return 0 <= id < MAX_ID and self._library.id_to_token(id) is not None

    def is_byte(self, id: int) -> bool:
        """Whether a token is a byte-fallback token, one byte of a character."""
        return self._byte(self._library.id_to_token(id) or "") is not None

    def _byte(self, token: str) -> str | None:
        match = _BYTE_TOKEN.fullmatch(token) if self._has_byte_fallback else None
        return match[1] if match else None

    def _prompt_affixes(self) -> tuple[list[int], list[int]]:
        found = self._library.encode("a", add_special_tokens=True)
        added = found.special_tokens_mask
        first = added.index(0) if 0 in added else 0
        last = len(added) - added[::-1].index(0) if 0 in added else 0
        return found.ids[:first], found.ids[last:]

    def _can_split(self, special: bool) -> bool:
        matched = [t for t in self._added.values() if special or not t.special]
        if any(t.lstrip or t.rstrip or t.single_word for t in matched):
            return False
        if not SPLIT_CHARACTERS.isdisjoint("".join(t.content for t in matched)):
            return False
        normalizer, splitter = repr(self._library.normalizer), repr(self._library.pre_tokenizer)
        names = {*_COMPONENT.findall(normalizer), *_COMPONENT.findall(splitter)} - _WORDWISE
        plain = "add_prefix_space=True" not in splitter and "use_regex=False" not in splitter
        return not names and plain and self._library.pre_tokenizer is not None

    def _encode_batch(self, texts: list[str], special: bool) -> list[list[int]]:
        self._library.encode_special_tokens = not special
        found = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [one.ids for one in found]

    def _encode(self, text: str, special: bool, prompt: bool) -> list[int]:
        self._library.encode_special_tokens = not special
        try:
            return self._library.encode(text, add_special_tokens=prompt).ids
        except BaseException as error:
            if not _is_library_error(error):
                raise
            problem = f"{self.name} cannot split this text into tokens"
            raise UsageError("prompt", problem) from None


class SlidingWindowDecoder:
    """Decoder for tokens whose text depends on the tokens before: a first word has no space.

    With each new token it decodes the last ones again and returns the text that was added. Byte
    tokens are held back until a token that is not a byte follows: one more byte may make all of
    them invalid UTF-8.
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer, after: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = [id for id in after[-_WINDOW:] if tokenizer.has_token(id)]
        self._emitted = tokenizer.library_decode(self._ids)

    def feed(self, id: int) -> str:
        """The text that the next token completes, often empty."""
        if not self._tokenizer.has_token(id):
            return self.finish() + REPLACEMENT
        self._ids.append(id)
        return "" if self._tokenizer.is_byte(id) else self._new(hold=True)

    def finish(self) -> str:
        """The text that was held back."""
        return self._new(hold=False)

    def _new(self, hold: bool) -> str:
        text = self._tokenizer.library_decode(self._ids)
        if hold:  # an unfinished character of a decoder that joins bytes
            text = text.rstrip(REPLACEMENT)
        new = text[len(self._emitted) :]
        self._emitted += new
        if len(self._ids) > 4 * _WINDOW and self._emitted == text:
            self._ids = self._ids[-_WINDOW:]
            self._emitted = self._tokenizer.library_decode(self._ids)
        return new


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """The settings of a tokenizer in the files beside it, as transformers reads them.

    Attributes:
        is_gpt2: whether transformers would load the files as its GPT-2 tokenizer.
        add_prefix_space: whether that tokenizer puts a space before a text that begins with none.
        values: `tokenizer_config.json`; of older directories, with `special_tokens_map.json` merged
            in.
        added: id → token, of the added tokens in the files.
    """

    is_gpt2: bool
    add_prefix_space: bool
    values: Mapping[str, Any]
    added: Mapping[int, AddedToken]

    @classmethod
    def read(cls, directory: Path) -> "TokenizerConfig":
        """The settings in a directory, or transformers' defaults where a file is missing.

        Raises:
            InputError: a file is not JSON, or has a malformed token.
        """
        values = read_json_object(directory / TOKENIZER_CONFIG)
        kind = values.get("tokenizer_class")
        model = read_json_object(directory / MODEL_CONFIG).get("model_type")
        is_gpt2 = kind in GPT2_CLASSES or (kind is None and model == "gpt2")
        decoder = values.get("added_tokens_decoder")
        if isinstance(decoder, dict):
            path = directory / TOKENIZER_CONFIG
            listed = [(_as_id(id), _added_token(token, path)) for id, token in decoder.items()]
        else:
            path = directory / ADDED_TOKENS
            values |= read_json_object(directory / SPECIAL_TOKENS_MAP)
            special = set(_special_texts(values))
            listed = [
                (id, AddedToken(text, special=text in special, normalized=text not in special))
                for text, id in read_json_object(path).items()
            ]
        added = {_checked_id(token.content, id, path): token for id, token in listed}
        prefix_space = values.get("add_prefix_space") is True
        return cls(is_gpt2, prefix_space, values, dict(sorted(added.items())))

    def add_missing_tokens(self, library: tokenizers.Tokenizer) -> None:
        """Add the tokens that are in the files and not yet in the library's tokenizer."""
        known = {token.content for token in library.get_added_tokens_decoder().values()}
        tokens = [token for token in self.added.values() if token.content not in known]
        known.update(token.content for token in tokens)
        named = [text for text in dict.fromkeys(_special_texts(self.values)) if text not in known]
        tokens += [AddedToken(text, special=True, normalized=False) for text in named]
        has_end = library.token_to_id(END_OF_TEXT) is not None
        if self.is_gpt2 and has_end and END_OF_TEXT not in {*known, *named}:
            tokens.append(AddedToken(END_OF_TEXT, special=True, normalized=False))
        if tokens:
            library.add_tokens(tokens)


def read_tokenizer_json(path: Path) -> HuggingFaceTokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises:
        InputError: not a tokenizer, or one that the library cannot read.
    """
    text = decode_utf8(read_bounded(path, MAX_BYTES), path)
    ids = _vocabulary_ids(strict_json(text, path), path)
    with _library_errors(path):
        library = tokenizers.Tokenizer.from_str(text)
    config = TokenizerConfig.read(path.parent)
    splitter = library.pre_tokenizer
    if isinstance(splitter, pre_tokenizers.ByteLevel):
        if config.is_gpt2:  # transformers then takes it from tokenizer_config.json alone
            splitter.add_prefix_space = config.add_prefix_space
        if library.decoder is None:
            library.decoder = decoders.ByteLevel()
    if isinstance(library.model, models.BPE):
        library.model.dropout = None  # BPE dropout is for training: a text has one encoding
    config.add_missing_tokens(library)
    return HuggingFaceTokenizer(path.name, library, ids)


def read_merges(merges: Path, vocabulary: Path) -> HuggingFaceTokenizer:
    """The tokenizer in GPT-2's pair of files: `merges.txt` and `vocab.json`, or their older names.

    Raises:
        InputError: a file is malformed, or belongs to another kind of tokenizer.
    """
    config = TokenizerConfig.read(merges.parent)
    kind = config.values.get("tokenizer_class")
    if kind is not None and kind not in _BYTE_LEVEL_CLASSES:
        problem = f"{merges.name} is read as GPT-2's, and tokenizer_class is {shown(kind)}"
        hint = "Save it as tokenizer.json, which says how text is split"
        raise InputError(shown(merges.with_name(TOKENIZER_CONFIG)), problem, hint)
    pairs = _read_merges_file(merges)
    text = decode_utf8(read_bounded(vocabulary, MAX_BYTES), vocabulary)
    ids = _checked_ids(strict_json(text, vocabulary), "", vocabulary)
    # An added token that is in the vocabulary too keeps the id that the files give it.
    ids |= {token.content: id for id, token in config.added.items()}
    _check_merges(pairs, ids, "", merges)
    with _library_errors(merges):
        library = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=pairs))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.add_prefix_space)
    library.decoder = decoders.ByteLevel()
    config.add_missing_tokens(library)
    template = _bos_eos_template(library, config, merges.with_name(TOKENIZER_CONFIG))
    if template is not None:
        library.post_processor = template
    return HuggingFaceTokenizer(merges.name, library, ids.values())


def set_bos_token(tokenizer_json: bytes, token: str) -> bytes:
    """A `tokenizer.json` changed to put one of its special tokens before every text."""
    library = tokenizers.Tokenizer.from_str(tokenizer_json.decode())
    id = library.token_to_id(token)
    library.post_processor = processors.TemplateProcessing(f"{token} $A", None, [(token, id)])
    return library.to_str(pretty=True).encode()


@contextmanager
def _library_errors(path: Path) -> Iterator[None]:
    """Raise the library's errors as an InputError that names `path`."""
    try:
        yield
    except BaseException as error:
        if not _is_library_error(error):
            raise
        problem = f"the tokenizers library cannot read it ({shown(error)})"
        raise InputError(shown(path), problem) from None


def _is_library_error(error: BaseException) -> bool:
    """The library raises Exception itself; a panic in its Rust code is a BaseException."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _vocabulary_ids(document: object, path: Path) -> Collection[int]:
    """The ids of the vocabulary in a parsed tokenizer.json.

    Refuses what would make the library panic or end the process.
    """
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict):
        raise InputError(shown(path), 'expected a tokenizer, which has a mapping "model"')
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores
        unknown = model.get("unk_id")
        if not vocabulary or not (unknown is None or unknown in range(len(vocabulary))):
            found = f"found {described(unknown)}, of {len(vocabulary):,} pieces"
            raise InputError(shown(path), f"model.unk_id: expected a piece, {found}")
        return range(len(vocabulary))
    ids = _checked_ids(vocabulary, "model.vocab: ", path)
    if "merges" in model:
        merges, prefix = model["merges"], model.get("continuing_subword_prefix")
        if not isinstance(merges, list):
            found = described(merges)
            raise InputError(shown(path), f"model.merges: expected a list, found {found}")
        if not (prefix is None or isinstance(prefix, str)):
            problem = f"continuing_subword_prefix: expected a text, found {described(prefix)}"
            raise InputError(shown(path), f"model.{problem}")
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        _check_merges(pairs, ids, prefix or "", path)
    return ids.values()


def _checked_ids(value: object, key: str, path: Path) -> dict[str, int]:
    """A parsed mapping of tokens to ids, checked.

    Raises:
        InputError: not such a mapping, or an id is out of range or used twice.
    """
    if not isinstance(value, dict) or not value:
        raise InputError(shown(path), f"{key}expected a mapping of tokens to ids")
    for token, id in value.items():
        _checked_id(token, id, path, key)
    if len(set(value.values())) < len(value):
        raise InputError(shown(path), f"{key}two tokens have the same id")
    return value


def _checked_id(token: str, id: object, path: Path, key: str = "") -> int:
    if type(id) is not int or not 0 <= id < MAX_ID:
        expected = f"expected an integer from 0 to {MAX_ID - 1:,}"
        problem = f'the id of "{shown(token)}": {expected}, found {described(id)}'
        raise InputError(shown(path), f"{key}{problem}")
    return id


def _check_merges(pairs: Sequence[object], ids: Mapping[str, int], prefix: str, path: Path) -> None:
    """Refuse merges of tokens without an id.

    `prefix` is continuing_subword_prefix, with which the second token of each pair begins.
    """
    for number, pair in enumerate(pairs, 1):
        if not _is_pair(pair):
            raise InputError(shown(path), f"merge {number:,}: expected two tokens")
        left, right = pair
        whole = left + right.removeprefix(prefix)
        if left in ids and right in ids and whole in ids and right.startswith(prefix):
            continue
        lacking = [token for token in (left, right, whole) if token not in ids]
        found = f'"{shown(lacking[0])}" has no id' if lacking else f'expected "{shown(prefix)}"'
        raise InputError(shown(path), f"merge {number:,} ({shown(left)} {shown(right)}): {found}")


def _is_pair(value: object) -> TypeGuard[Sequence[str]]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return isinstance(value[0], str) and isinstance(value[1], str)


def _read_merges_file(path: Path) -> list[tuple[str, str]]:
    """The merges of a `merges.txt`, in order."""
    lines = decode_utf8(read_bounded(path, MAX_BYTES), path).split("\n")
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#version") or not line.strip():
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            problem = f"line {number:,}: expected two tokens, found {len(pair)}"
            raise InputError(shown(path), problem)
        pairs.append((pair[0], pair[1]))
    return pairs


def _bos_eos_template(
    library: tokenizers.Tokenizer, config: TokenizerConfig, path: Path
) -> processors.TemplateProcessing | None:
    """The post-processor that `add_bos_token` and `add_eos_token` ask for; None without them."""
    parts, tokens = ["$A"], []
    for key, name, at in (("add_bos_token", "bos_token", 0), ("add_eos_token", "eos_token", 2)):
        if config.values.get(key) is not True:
            continue
        token = special_token(config.values, name)
        id = library.token_to_id(token)
        if id is None:
            problem = f'{name}: no token is called "{shown(token)}", and {key} needs it'
            raise InputError(shown(path), problem)
        parts.insert(at, token)
        tokens.append((token, id))
    return processors.TemplateProcessing(parts, None, tokens) if tokens else None


def _special_texts(values: Mapping[str, Any]) -> Iterator[str]:
    """The texts of the tokens with a role (`*_token`) and of the additional special tokens."""
    extra: list[object] = []
    for key in ("extra_special_tokens", "additional_special_tokens"):
        value = values.get(key)
        extra += value if isinstance(value, list) else []
        extra += value.values() if isinstance(value, dict) else ()
    roles = [value for key, value in values.items() if key.endswith("_token")]
    return filter(None, map(token_text, [*roles, *extra]))


def _as_id(id: str) -> int | str:
    """A key of `added_tokens_decoder` as an integer; as it is where it is not one."""
    return int(id) if id.isascii() and id.isdigit() and len(id) < 10 else id


def _added_token(value: object, path: Path) -> AddedToken:
    text = token_text(value)
    if text is None:
        expected = "expected a text or a mapping with its content"
        raise InputError(shown(path), f"added_tokens_decoder: {expected}, found {described(value)}")
    flags = value if isinstance(value, dict) else {}
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(
        text, **{name: flags[name] for name in names if type(flags.get(name)) is bool}
    )
