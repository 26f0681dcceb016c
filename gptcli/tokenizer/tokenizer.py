"""The tokenizer interface, and the loading of a model's tokenizer.

Text that spells a special token is encoded as ordinary text, because prompts may come from
strangers; `special=True` encodes it as the token.
"""

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.tokenizer.special_tokens import (
    TOKENIZER_CONFIG,
    EosTokens,
    read_eos_tokens,
    read_json_object,
)

MAX_PROMPT_BYTES = 1 << 20

# Vocabulary sizes of GPT-2: its own 50,257 tokens, perhaps padded to a multiple of 64 or 128.
GPT2_SIZES = range(50257, 50304 + 1)

MERGES = ("merges.txt", "vocab.bpe")
VOCABULARIES = ("vocab.json", "encoder.json")  # the partner of each merges file, in that order
CHARACTER_VOCABULARY = "meta.json"
GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
_TOKENIZER_FILES = ("tokenizer.tiktoken", "tokenizer.json", *MERGES, CHARACTER_VOCABULARY)

# Files of tokenizers in formats that are not supported.
_UNREADABLE = re.compile(
    r".*\.model|.*\.vocab|bpe\.codes|vocab\.txt|vocab\.json|encoder\.json"
    r"|(.*(vocab|token|encoder).*|meta)\.(pkl|pickle)",
    re.IGNORECASE,
)
_SAVE_HINT = 'Save it as tokenizer.json (AutoTokenizer.from_pretrained(...).save_pretrained("DIR"))'

REPLACEMENT = "\ufffd"  # the text of an id without a token


# Where a long text may be split: after a letter, before one blank and a letter, or before
# punctuation. Every pre-tokenizer ends a token there, whatever follows. The letters (Latin,
# Cyrillic, Hebrew, Arabic, Hindi, kana, Chinese and Korean) are letters in every library's tables.
_LETTER = (
    r"[A-Za-z\u0410-\u044f\u05d0-\u05ea\u0621-\u063a\u0915-\u0939\u3041-\u3096\u30a1-\u30fa"
    r"\u4e00-\u9fa5\uac00-\ud7a3]"
)
_MARKS = r",.;:!?\u3001\u3002\uff0c"
_SPLIT = re.compile(rf"(?<={_LETTER})(?=[ \n]{_LETTER}|[{_MARKS}])")
SPLIT_CHARACTERS = frozenset(" \n,.;:!?\u3001\u3002\uff0c")  # a token with one could span a split
_CHUNK = 1 << 17  # characters
_BATCH = 4  # chunks that are encoded side by side


class IncrementalDecoder(Protocol):
    """Decode a stream of ids token by token; the pieces joined are the text decoded at once."""

    def feed(self, id: int) -> str:
        """The text that the next token completes, often empty."""

    def finish(self) -> str:
        """The text that was held back: U+FFFD for an incomplete character, otherwise empty."""


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        name: a tiktoken encoding, or the name of the file it was read from, without folders.
        origin: where it came from, for messages.
        n_vocab: one more than the highest id with a token.
        eos_id: the first of `eos_ids`, None for a tokenizer without one.
        eos_ids: every token that ends a text.
        notices: remarks for the user on the files that were read, a line each.
    """

    name: str
    origin: str
    n_vocab: int
    eos_id: int | None = None
    eos_ids: frozenset[int] = frozenset()
    notices: tuple[str, ...] = ()

    _vocab_size: int | None = None  # of the model, once it is known

    @abstractmethod
    def _encode(self, text: str, special: bool, prompt: bool) -> list[int]:
        """Text → ids; with `prompt`, also the tokens that every prompt begins or ends with."""

    @abstractmethod
    def id_of(self, token: str) -> int | None:
        """The id of a token as vocabulary files spell it; None without such a token."""

    @abstractmethod
    def token_bytes(self, id: int) -> bytes:
        """The bytes that one token adds to a text; those of U+FFFD for an id without a token."""

    @property
    @abstractmethod
    def special_tokens(self) -> Sequence[str]:
        """The tokens that text is encoded as only with `special=True`."""

    def encode_prompt(
        self, text: str, limit: int | None = MAX_PROMPT_BYTES, *, special: bool = False
    ) -> list[int]:
        """The ids of a prompt: as `encode`, after a BOS token where the tokenizer adds one.

        Raises:
            UsageError: as `encode`; or the model's vocabulary lacks one of the tokens.
        """
        _check_text(text, limit)
        ids = self._encode(text, special, prompt=True)
        if self._vocab_size is not None and max(ids, default=0) >= self._vocab_size:
            found = f"id {max(ids):,}, expected below {self._vocab_size:,}"
            raise UsageError("prompt", f"has a token that the model's vocabulary lacks ({found})")
        return ids

    def encode(
        self, text: str, limit: int | None = MAX_PROMPT_BYTES, *, special: bool = False
    ) -> list[int]:
        """Text → ids.

        Args:
            text: any Unicode text.
            limit: maximum size in UTF-8 bytes; None allows any size.
            special: whether special tokens that the text spells are encoded as these tokens.

        Raises:
            UsageError: the text is too large, or is not valid Unicode (lone surrogates).
        """
        _check_text(text, limit)
        return self._encode(text, special, prompt=False)

    def encode_stream(self, pieces: Iterable[str], *, special: bool = False) -> Iterator[list[int]]:
        """A text of any size, in pieces of any size → the ids of `encode_prompt`, in order.

        Splits the text where every pre-tokenizer does, so that only a few MiB are in memory. Where
        a tokenizer's rules allow no split, the whole text is held in memory.

        Args:
            pieces: valid Unicode.
            special: as `encode`.
        """
        before, after = self._prompt_affixes()
        if before:
            yield before
        chunks = _chunks(pieces) if self._can_split(special) else iter(["".join(pieces)])
        while batch := list(islice(chunks, _BATCH)):
            yield from self._encode_batch(batch, special)
        if after:
            yield after

    def _prompt_affixes(self) -> tuple[list[int], list[int]]:
        """The ids that every prompt begins and ends with."""
        return [], []

    def _can_split(self, special: bool) -> bool:
        """Whether a text may be encoded in parts that were split at `_SPLIT`."""
        return False

    def _encode_batch(self, texts: list[str], special: bool) -> list[list[int]]:
        """Texts → ids, in parallel where the library can."""
        return [self._encode(text, special, prompt=False) for text in texts]

    def find_special_token(self, text: str) -> str | None:
        """The first special token that a text spells, None without one."""
        found = self._spelling.search(text) if self._spelling else None
        return found.group() if found else None

    @property
    def min_vocab_size(self) -> int:
        """The smallest vocab_size of a model that this tokenizer can be used with."""
        return self.n_vocab

    def limit_vocabulary(self, vocab_size: int) -> None:
        """Adapt to a model's vocabulary: ids past it are refused in prompts and end no text."""
        self._vocab_size = vocab_size
        if self.eos_id is not None and self.eos_id >= vocab_size:
            self.eos_id, self.eos_ids = None, frozenset()
        self.n_vocab = min(self.n_vocab, vocab_size)

    @cached_property
    def _spelling(self) -> "re.Pattern[str] | None":
        longest_first = sorted(filter(None, self.special_tokens), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def require_known(self, ids: Sequence[int], field: str) -> None:
        """Refuse an id outside the vocabulary.

        Raises:
            UsageError: there is one; it names the field.
        """
        if max(ids, default=0) >= self.n_vocab:
            found = f"{max(ids)}, expected below {self.n_vocab}"
            raise UsageError(field, f"a token id is not in the vocabulary ({found})")

    def decode(self, ids: Iterable[int], after: Sequence[int] = ()) -> str:
        """Ids → text, with U+FFFD where the bytes are not UTF-8. Never fails.

        `after`: the ids before them in the text. With a WordPiece or Unigram vocabulary only the
        first word of a text has no space before it.
        """
        decoder = self.decoder(after)
        return "".join(map(decoder.feed, ids)) + decoder.finish()

    def decoder(self, after: Sequence[int] = ()) -> IncrementalDecoder:
        """A new decoder for one stream of ids that follow the ids of `after`."""
        return ByteDecoder(self)


def _chunks(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in chunks of about `_CHUNK` characters, split at `_SPLIT`."""
    held: list[str] = []
    size, enough = 0, _CHUNK
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size < enough:
            continue
        text = "".join(held)
        cuts = [match.start() for match in _SPLIT.finditer(text, size - enough // 4)]
        if cuts:
            yield text[: cuts[-1]]
            text = text[cuts[-1] :]
        held, size = [text], len(text)
        enough = _CHUNK if cuts else 2 * size  # a text without cuts is not copied for each piece
    yield "".join(held)


def _check_text(text: str, limit: int | None) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X} at character {error.start + 1:,}"
        problem = f"is not valid Unicode (a lone surrogate, {found})"
        raise UsageError("prompt", problem) from None
    if limit is not None and size > limit:
        found = f"{size:,} bytes, expected at most {limit:,}"
        raise UsageError("prompt", f"is too large ({found})")


class ByteDecoder:
    """Decoder for tokens that are bytes: a character is returned once its last byte has come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, id: int) -> str:
        """The text that the next token completes, often empty."""
        return self._decoder.decode(self._token_bytes(id))

    def finish(self) -> str:
        """U+FFFD for an incomplete character, otherwise empty."""
        return self._decoder.decode(b"", final=True)


def load_tokenizer(
    name: str | None = None,
    directory: Path | None = None,
    *,
    vocab_size: int | None = None,
    offline: bool = False,
) -> Tokenizer:
    """Load the tokenizer of a model.

    The first of these that exists: the file called `name` in `directory`, a tokenizer file in
    `directory`, tiktoken's encoding called `name` (from its cache or the network). Without a name
    and without files it is GPT-2's, if the vocabulary has GPT-2's size.

    Args:
        name: `tokenizer` in the model's config.
        directory: the model directory.
        vocab_size: the model's; may be larger than the tokenizer's, which is padding.
        offline: download nothing.

    Raises:
        InputError: a file is malformed or of an unsupported kind, the name is unknown, or the
            tokenizer has more tokens than the model.
        RunError: tiktoken's data is not on this machine and cannot be downloaded.
    """
    path = find_file(name, directory)
    if path is not None:
        tokenizer = _read_file(path, vocab_size)
    else:
        if name is None:
            _check_gpt2_is_a_good_guess(directory, vocab_size)
        tokenizer = _load_encoding(name or "gpt2", directory, offline)
    if vocab_size is not None and tokenizer.min_vocab_size > vocab_size:
        raise _too_large(tokenizer, vocab_size)
    if directory is not None:
        _set_eos(tokenizer, read_eos_tokens(directory, tokenizer.id_of, vocab_size))
    tokenizer.n_vocab = max(tokenizer.n_vocab, 1 + max(tokenizer.eos_ids, default=0))
    if vocab_size is not None:
        tokenizer.limit_vocabulary(vocab_size)
    return tokenizer


def find_file(name: str | None, directory: Path | None) -> Path | None:
    """The file that holds the tokenizer, None for one of tiktoken's encodings.

    Raises:
        InputError: the name is neither a file's nor one of tiktoken's.
    """
    if name is not None and name not in _encoding_names():
        if directory is None or not (Path(name).suffix or (directory / name).exists()):
            raise _unknown_name(name)
        return directory / name
    paths = [directory / own for own in _TOKENIZER_FILES] if directory else []
    return next((path for path in paths if path.exists()), None)


def _read_file(path: Path, vocab_size: int | None) -> Tokenizer:
    """Read a tokenizer file, and its partner if it has one; the file's name tells the format."""
    suffix = path.suffix.lower()
    if suffix == ".tiktoken":
        from gptcli.tokenizer.encodings import read_rank_file, with_bos_token  # noqa: PLC0415  # 0.03 s

        return with_bos_token(read_rank_file(path, vocab_size), path.parent)
    if path.name in VOCABULARIES:
        from gptcli.tokenizer.huggingface import read_merges  # noqa: PLC0415  # 0.02 s

        return read_merges(_partner_file(path, MERGES), path)
    if suffix == ".json":
        return _read_json(path)
    if suffix in {".bpe", ".txt"} and path.name != "vocab.txt":
        from gptcli.tokenizer.huggingface import read_merges  # noqa: PLC0415  # 0.02 s

        return read_merges(path, _partner_file(path, VOCABULARIES))
    if _UNREADABLE.fullmatch(path.name):
        raise _unreadable(path)
    expected = "expected .tiktoken, .bpe, .txt or .json"
    raise InputError(shown(path), f'cannot tell the format from "{shown(suffix)}" ({expected})')


def _read_json(path: Path) -> Tokenizer:
    if path.name == CHARACTER_VOCABULARY:
        from gptcli.tokenizer.characters import read_characters  # noqa: PLC0415  # as the others

        return read_characters(path)
    from gptcli.tokenizer.huggingface import read_tokenizer_json  # noqa: PLC0415  # 0.02 s

    return read_tokenizer_json(path)


def _partner_file(path: Path, names: Sequence[str]) -> Path:
    """The other file of a pair: vocab.bpe with encoder.json, merges.txt with vocab.json."""
    ordered = names if path.name in {MERGES[0], VOCABULARIES[0]} else names[::-1]
    paths = [path.with_name(name) for name in ordered]
    return next((path for path in paths if path.exists()), paths[0])


def _load_encoding(name: str, directory: Path | None, offline: bool) -> Tokenizer:
    from gptcli.tokenizer.encodings import named_tokenizer, with_bos_token  # noqa: PLC0415  # 0.03 s

    return with_bos_token(named_tokenizer(name, offline=offline), directory)


def _encoding_names() -> list[str]:
    from gptcli.tokenizer.encodings import encoding_names  # noqa: PLC0415  # 0.03 s

    return encoding_names()


def _set_eos(tokenizer: Tokenizer, ends: EosTokens) -> None:
    """Use the files' EOS tokens; where they name none the tokenizer keeps its own."""
    if ends.is_named:
        tokenizer.eos_id = ends.ids[0] if ends.ids else None
        tokenizer.eos_ids = frozenset(ends.ids)
    tokenizer.notices = (*tokenizer.notices, *ends.notices)


def _check_gpt2_is_a_good_guess(directory: Path | None, vocab_size: int | None) -> None:
    """Refuse to guess GPT-2's tokenizer where the files or the vocabulary tell of another."""
    if directory is not None:
        _refuse_unreadable(directory)
    if vocab_size is not None and vocab_size not in GPT2_SIZES:
        raise _no_tokenizer(directory, vocab_size)


def _refuse_unreadable(directory: Path) -> None:
    """Refuse a directory with a tokenizer of an unsupported kind: its ids would be others."""
    names = sorted(entry.name for entry in directory.iterdir())
    for name in names:
        if _UNREADABLE.fullmatch(name):
            raise _unreadable(directory / name)
    kind = read_json_object(directory / TOKENIZER_CONFIG).get("tokenizer_class")
    if kind is not None and kind not in GPT2_CLASSES:
        problem = f"names a tokenizer whose files are not there (tokenizer_class {shown(kind)})"
        raise InputError(shown(directory / TOKENIZER_CONFIG), problem, _SAVE_HINT)


def _unreadable(path: Path) -> InputError:
    if path.name in VOCABULARIES:
        other = MERGES[VOCABULARIES.index(path.name)]
        return InputError(shown(path), f"has no {other} beside it, which belongs to it", _SAVE_HINT)
    if path.suffix.lower() in {".pkl", ".pickle"}:
        hint = _SAVE_HINT
        if path.stem == "meta":
            hint = f"Write its stoi and itos to {CHARACTER_VOCABULARY}, as JSON"
        return InputError(shown(path), "a pickle is never read, as it may run code", hint)
    return InputError(shown(path), "a tokenizer of a kind that is not supported", _SAVE_HINT)


def _no_tokenizer(directory: Path | None, vocab_size: int | None) -> InputError:
    where = f"{shown(directory)}: " if directory else ""
    problem = (
        f"{where}the model has no tokenizer, and its vocabulary is not GPT-2's "
        f"(vocab_size {vocab_size}, expected {GPT2_SIZES[0]} to {GPT2_SIZES[-1]})"
    )
    hint = "Put its tokenizer.json beside the config, or name tiktoken's there (tokenizer: gpt2)"
    return InputError("tokenizer", problem, hint)


def _too_large(tokenizer: Tokenizer, vocab_size: int) -> InputError:
    found = (
        f"ids up to {tokenizer.n_vocab - 1:,}, expected below the model's vocab_size {vocab_size}"
    )
    problem = f"{tokenizer.origin} has more tokens than the model ({found})"
    hint = "Put the tokenizer that the model was trained with beside its config, or name it there"
    return InputError(f"tokenizer {shown(tokenizer.name)}", problem, hint)


def _unknown_name(name: str) -> InputError:
    names = _encoding_names()
    near = get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"tiktoken knows {', '.join(names)}"
    problem = "neither a tiktoken name nor a file beside the config"
    return InputError(f"tokenizer {shown(name)}", problem, hint)
