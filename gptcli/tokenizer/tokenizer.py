"""Text to ids and back, safe to stream. All text-to-ids work is tiktoken's.

Knows no model, no config file and no terminal. Text that spells a special token is ordinary text.
"""

import codecs
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import tiktoken

from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.tokenizer.encodings import encoding_names, named_encoding
from gptcli.tokenizer.vocabulary import (
    END_OF_TEXT,
    MERGES,
    SETTINGS,
    VOCABULARIES,
    Vocabulary,
    named_token,
    read_json,
    read_merges,
    read_ranks,
    read_settings,
)

MAX_PROMPT_BYTES = 1 << 20

# GPT-2's pattern, with possessive repeats where they match the same and cannot backtrack.
PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

_NO_TOKEN = "\ufffd".encode()
_OF_DIRECTORY = ("tokenizer.tiktoken", "tokenizer.json", *MERGES)
_OTHER_PATTERNS = ("p50k", "cl100k", "o200k")  # names of rank files that need more than ranks


class StreamDecoder:
    """Bytes of tokens, as they come, to text: a character leaves when its last byte has come."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, id: int) -> str:
        """The text that the next token makes whole, often none."""
        return self._decoder.decode(self._token_bytes(id))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that was begun, otherwise nothing."""
        return self._decoder.decode(b"", final=True)


class Tokenizer:
    """A byte-level BPE over tiktoken.

    Attributes:
        name: a tiktoken name, or the file it was read from, without folders.
        n_vocab: the highest id plus 1.
        eos_id: the end of text, None for a tokenizer without one.
        bos_id: what every prompt begins with, None where it begins with its own first token.
    """

    def __init__(self, encoding: tiktoken.Encoding, rest: Vocabulary) -> None:
        """`encoding` turns text into ranks; the ranks in `rest` are not used."""
        self.name, self.eos_id = rest.name, rest.eos_id
        self.bos_id: int | None = None
        self._encoding, self._prefix_space = encoding, rest.prefix_space
        self._ids, self._others = rest.ids, rest.others
        self._ranks = None if rest.ids is None else {id: r for r, id in enumerate(rest.ids)}
        highest = encoding.max_token_value if rest.ids is None else max(rest.ids)
        self.n_vocab = max(highest, *rest.others, 0) + 1

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "Tokenizer":
        """The tokenizer that a file describes."""
        ranks = dict(vocabulary.ranks)
        encoding = tiktoken.Encoding(
            vocabulary.name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        return cls(encoding, vocabulary)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every token that ends a text."""
        return frozenset() if self.eos_id is None else frozenset({self.eos_id})

    def begin_with(self, token: str) -> None:
        """Let every prompt begin with this special token.

        Raises:
            InputError: there is none of that name.
        """
        found = (id for id, data in self._others.items() if data == token.encode())
        default = self.eos_id if token == END_OF_TEXT else None
        self.bos_id = next(found, default)
        if self.bos_id is None:
            raise InputError(SETTINGS, f'bos_token: no special token is called "{shown(token)}"')

    def prompt(self, text: str, limit: int | None = MAX_PROMPT_BYTES) -> list[int]:
        """What a model is to read before it goes on: the text's ids, after `bos_id`.

        Raises:
            UsageError: as `encode`.
        """
        ids = self.encode(text, limit)
        return ids if self.bos_id is None else [self.bos_id, *ids]

    def encode(self, text: str, limit: int | None = MAX_PROMPT_BYTES) -> list[int]:
        """Text of at most `limit` bytes → ids; a special token's spelling has no power.

        Raises:
            UsageError: the text is too large, or is no text (lone surrogates).
        """
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            found = f"U+{ord(text[error.start]):04X} at character {error.start + 1:,}"
            raise UsageError(
                "prompt", f"is not valid Unicode (a lone surrogate, {found})"
            ) from None
        if limit is not None and size > limit:
            found = f"{size:,} bytes, expected at most {limit:,}"
            raise UsageError("prompt", f"is too large ({found})")
        if self._prefix_space and text and not text.startswith(" "):
            text = " " + text
        ranks = self._encode(text)
        return ranks if self._ids is None else [self._ids[rank] for rank in ranks]

    def _encode(self, text: str) -> list[int]:
        try:
            return self._encoding.encode_ordinary(text)
        except BaseException as error:
            # A panic inside tiktoken is no Exception, and its class cannot be imported.
            if type(error).__name__ != "PanicException" and not isinstance(error, ValueError):
                raise
            raise UsageError("prompt", "tiktoken cannot split this text into tokens") from None

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token; for an id without one, as a padded vocabulary has, U+FFFD's."""
        if id in self._others:
            return self._others[id]
        rank = id if self._ranks is None else self._ranks.get(id, -1)
        try:
            return self._encoding.decode_single_token_bytes(rank)
        except (KeyError, OverflowError):
            return _NO_TOKEN

    def decode(self, ids: Iterable[int]) -> str:
        """Ids → text, with U+FFFD where the bytes are not UTF-8. Never fails."""
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def decoder(self) -> StreamDecoder:
        """A new decoder for one stream of ids."""
        return StreamDecoder(self)


def load_tokenizer(
    name: str | None = None,
    directory: Path | None = None,
    *,
    vocab_size: int | None = None,
    offline: bool = False,
) -> Tokenizer:
    """The tokenizer of a model: a file that `name` names in `directory`, else the directory's own
    files, else tiktoken's encoding of that name, from its cache or the network.

    Args:
        vocab_size: the model's, to be checked; a larger one is padding and is fine.

    Raises:
        InputError: a file is not what it should be, or the name means nothing.
        RunError: tiktoken's data is not on this machine and cannot be had.
    """
    name = name or "gpt2"
    path = find_file(name, directory)
    if path is None:
        tokenizer = _named(name, offline)
    else:
        tokenizer = Tokenizer.of(read_vocabulary(path, vocab_size))
    settings = read_settings(directory) if directory else {}
    if settings.get("add_bos_token") is True:
        tokenizer.begin_with(named_token(settings, "bos_token"))
    if vocab_size is not None and vocab_size < tokenizer.n_vocab:
        size = f"vocab_size {vocab_size} is smaller than the tokenizer's {tokenizer.n_vocab}"
        raise InputError(f"tokenizer {shown(tokenizer.name)}", size)
    return tokenizer


def find_file(name: str, directory: Path | None) -> Path | None:
    """The file that holds the tokenizer, None where only tiktoken's own data can.

    Raises:
        InputError: the name is neither a file's nor one that tiktoken knows.
    """
    if name not in encoding_names():
        if directory is None or not (Path(name).suffix or (directory / name).exists()):
            raise _unknown(name)
        return directory / name
    paths = [directory / own for own in _OF_DIRECTORY] if directory else []
    return next((path for path in paths if path.exists() and _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    return path.name not in MERGES or _beside(path, VOCABULARIES) is not None


def _beside(path: Path, names: Sequence[str]) -> Path | None:
    paths = [path.with_name(name) for name in names]
    return next((path for path in paths if path.exists()), None)


def read_vocabulary(path: Path, vocab_size: int | None) -> Vocabulary:
    """What a tokenizer's file says, with those that belong to it; its name tells the format.

    Raises:
        InputError: a file is not what it should be.
    """
    suffix = path.suffix.lower()
    if suffix == ".tiktoken":
        if path.name.startswith(_OTHER_PATTERNS):
            hint = f'Write "tokenizer: {path.stem}"; tiktoken then supplies all of it'
            raise InputError(shown(path), "has ranks alone, and not its way to split text", hint)
        return read_ranks(path, vocab_size)
    if path.name in VOCABULARIES:
        return read_merges(_beside(path, MERGES) or path.with_name(MERGES[0]), path)
    if suffix == ".json":
        return read_json(path)
    if suffix in {".bpe", ".txt"}:
        return read_merges(path, _beside(path, VOCABULARIES) or path.with_name(VOCABULARIES[0]))
    expected = "expected .tiktoken, .bpe, .txt or .json"
    raise InputError(shown(path), f'cannot tell the format from "{shown(suffix)}" ({expected})')


def _named(name: str, offline: bool) -> Tokenizer:
    encoding = named_encoding(name, offline=offline)
    return Tokenizer(encoding, Vocabulary(name, {}, eos_id=encoding.eot_token))


def _unknown(name: str) -> InputError:
    near = get_close_matches(name, encoding_names(), n=1)
    hint = f"Did you mean {near[0]}?" if near else f"tiktoken knows {', '.join(encoding_names())}"
    problem = "neither a tiktoken name nor a file beside the config"
    return InputError(f"tokenizer {shown(name)}", problem, hint)
