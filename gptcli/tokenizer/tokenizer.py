"""Text to token ids and back, and which tokenizer a model has.

Text that spells a special token is ordinary text, for prompts come from anywhere; a caller who
wants the token itself says `special=True`.
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
    SETTINGS,
    EndTokens,
    end_tokens,
    read_json_object,
)

MAX_PROMPT_BYTES = 1 << 20

# Vocabularies that are GPT-2's: its own 50,257 tokens, perhaps padded to a multiple of 64 or 128.
GPT2_SIZES = range(50257, 50304 + 1)

MERGES = ("merges.txt", "vocab.bpe")
VOCABULARIES = ("vocab.json", "encoder.json")  # what lies beside each of the merges
CHARACTERS = "meta.json"
GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
_OF_DIRECTORY = ("tokenizer.tiktoken", "tokenizer.json", *MERGES, CHARACTERS)

# Files that are a tokenizer, or a part of one, which we cannot read.
_UNREADABLE = re.compile(
    r".*\.model|.*\.vocab|bpe\.codes|vocab\.txt|vocab\.json|encoder\.json"
    r"|(.*(vocab|token|encoder).*|meta)\.(pkl|pickle)",
    re.IGNORECASE,
)
_UNSAVED = 'Save it as tokenizer.json (AutoTokenizer.from_pretrained(...).save_pretrained("DIR"))'

NO_TOKEN = "\ufffd"  # what an id without a token reads as


# Where a text may be cut: after a letter, before one blank and a letter, or before punctuation. All
# splitters end a token there, whatever stands further on. The letters, Latin, Cyrillic, Hebrew,
# Arabic, Hindi, kana, Chinese and Korean, are letters in every library's tables.
_LETTER = (
    r"[A-Za-z\u0410-\u044f\u05d0-\u05ea\u0621-\u063a\u0915-\u0939\u3041-\u3096\u30a1-\u30fa"
    r"\u4e00-\u9fa5\uac00-\ud7a3]"
)
_MARKS = r",.;:!?\u3001\u3002\uff0c"
_CUT = re.compile(rf"(?<={_LETTER})(?=[ \n]{_LETTER}|[{_MARKS}])")
NEAR_CUTS = frozenset(" \n,.;:!?\u3001\u3002\uff0c")  # a token with one of these could span a cut
_CHUNK = 1 << 17  # characters
_AT_A_TIME = 4


class StreamDecoder(Protocol):
    """Ids, as they come, to text. All pieces together are the text decoded at once."""

    def feed(self, id: int) -> str:
        """The text that is certain with the next token, perhaps none."""

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that was begun, otherwise nothing."""


class Tokenizer(ABC):
    """What every kind of tokenizer can do.

    Attributes:
        name: a tiktoken name, or the file it was read from, without folders.
        origin: where it came from, for messages.
        n_vocab: ids from here on have no token and no meaning.
        eos_id: the first of the end tokens, None for a tokenizer without one.
        eos_ids: every token that ends a text.
        notices: what a user should know of the files that were read, a line each.
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
        """Text → ids; those of a prompt with what every prompt has before or after its text."""

    @abstractmethod
    def id_of(self, token: str) -> int | None:
        """The id of a token by its name, as vocabulary files spell it."""

    @abstractmethod
    def token_bytes(self, id: int) -> bytes:
        """The bytes that one token adds to a text; U+FFFD's for an id without a token."""

    @property
    @abstractmethod
    def special_tokens(self) -> Sequence[str]:
        """The tokens that text becomes only with `special=True`."""

    def prompt(
        self, text: str, limit: int | None = MAX_PROMPT_BYTES, *, special: bool = False
    ) -> list[int]:
        """What a model is to read before it goes on: as `encode`, and a beginning of text where
        the model was trained with one.

        Raises:
            UsageError: as `encode`; a token that the model's vocabulary lacks.
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
            limit: the most bytes that are allowed; None allows any number.
            special: special tokens that the text spells become these tokens.

        Raises:
            UsageError: the text is too large, or is no text (lone surrogates).
        """
        _check_text(text, limit)
        return self._encode(text, special, prompt=False)

    def encode_stream(self, pieces: Iterable[str], *, special: bool = False) -> Iterator[list[int]]:
        """A text of any size, in pieces of any size → the ids that `prompt` gives, in order.

        Cuts the text where every splitter does, so what is held at a time is a few MiB; where a
        tokenizer's rules leave no such place, the text is held as a whole.

        Args:
            pieces: valid Unicode.
            special: as `encode`.
        """
        before, after = self._around()
        if before:
            yield before
        chunks = _chunks(pieces) if self._can_cut(special) else iter(["".join(pieces)])
        while batch := list(islice(chunks, _AT_A_TIME)):
            yield from self._encode_batch(batch, special)
        if after:
            yield after

    def _around(self) -> tuple[list[int], list[int]]:
        """What a prompt has before and after the ids of its text."""
        return [], []

    def _can_cut(self, special: bool) -> bool:
        """Whether ids do not change where a text is cut between a word and what follows it."""
        return False

    def _encode_batch(self, texts: list[str], special: bool) -> list[list[int]]:
        """Texts → ids, side by side where the library can."""
        return [self._encode(text, special, prompt=False) for text in texts]

    def spelled_special(self, text: str) -> str | None:
        """The first special token that a text spells out."""
        found = self._spelling.search(text) if self._spelling else None
        return found.group() if found else None

    @property
    def n_required(self) -> int:
        """The smallest vocabulary that a model for this tokenizer can have."""
        return self.n_vocab

    def fit(self, vocab_size: int) -> None:
        """Go with a model of this vocabulary: tokens past it are refused in prompts, and end
        nothing.
        """
        self._vocab_size = vocab_size
        if self.eos_id is not None and self.eos_id >= vocab_size:
            self.eos_id, self.eos_ids = None, frozenset()
        self.n_vocab = min(self.n_vocab, vocab_size)

    @cached_property
    def _spelling(self) -> "re.Pattern[str] | None":
        longest_first = sorted(filter(None, self.special_tokens), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def decode(self, ids: Iterable[int], after: Sequence[int] = ()) -> str:
        """Ids → text, with U+FFFD where the bytes are not UTF-8. Never fails.

        `after`: the ids that stand before them. With a WordPiece or Unigram vocabulary the first
        word of a text has no space before it, and any other has.
        """
        decoder = self.decoder(after)
        return "".join(map(decoder.feed, ids)) + decoder.finish()

    def decoder(self, after: Sequence[int] = ()) -> StreamDecoder:
        """A new decoder for one stream of ids, which follows the ids of `after`."""
        return BytesDecoder(self)


def _chunks(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in pieces that end at cuts, of about `_CHUNK` characters where it has them."""
    held: list[str] = []
    size, enough = 0, _CHUNK
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size < enough:
            continue
        text = "".join(held)
        cuts = [match.start() for match in _CUT.finditer(text, size - enough // 4)]
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


class BytesDecoder:
    """For tokens that are bytes: a character leaves when its last byte has come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, id: int) -> str:
        """The text that the next token makes whole, often none."""
        return self._decoder.decode(self._token_bytes(id))

    def finish(self) -> str:
        """U+FFFD for a character that was begun, otherwise nothing."""
        return self._decoder.decode(b"", final=True)


def load_tokenizer(
    name: str | None = None,
    directory: Path | None = None,
    *,
    vocab_size: int | None = None,
    offline: bool = False,
) -> Tokenizer:
    """The tokenizer of a model.

    It is the file that `name` names in `directory`, else the directory's own files, else
    tiktoken's encoding of that name, from its cache or the network. Without a name and without
    files it is GPT-2's, if the vocabulary has GPT-2's size.

    Args:
        name: what the model's config says.
        directory: where the model's files are.
        vocab_size: the model's; it may be larger than the tokenizer's, which is padding.
        offline: download nothing.

    Raises:
        InputError: a file is not what it should be or cannot be read here, the name means
            nothing, or the model's vocabulary is not this tokenizer's.
        RunError: tiktoken's data is not on this machine and cannot be had.
    """
    path = find_file(name, directory)
    if path is not None:
        tokenizer = _of_file(path, vocab_size)
    else:
        if name is None:
            _refuse_to_guess(directory, vocab_size)
        tokenizer = _named(name or "gpt2", directory, offline)
    if vocab_size is not None and tokenizer.n_required > vocab_size:
        raise _too_large(tokenizer, vocab_size)
    if directory is not None:
        _settle_ends(tokenizer, end_tokens(directory, tokenizer.id_of, vocab_size))
    tokenizer.n_vocab = max(tokenizer.n_vocab, 1 + max(tokenizer.eos_ids, default=0))
    if vocab_size is not None:
        tokenizer.fit(vocab_size)
    return tokenizer


def find_file(name: str | None, directory: Path | None) -> Path | None:
    """The file that holds the tokenizer, None where only tiktoken's own data can.

    Raises:
        InputError: the name is neither a file's nor one that tiktoken knows.
    """
    if name is not None and name not in _encoding_names():
        if directory is None or not (Path(name).suffix or (directory / name).exists()):
            raise _unknown(name)
        return directory / name
    paths = [directory / own for own in _OF_DIRECTORY] if directory else []
    return next((path for path in paths if path.exists()), None)


def _of_file(path: Path, vocab_size: int | None) -> Tokenizer:
    """The tokenizer in a file, and in those that belong to it; its name tells the format."""
    suffix = path.suffix.lower()
    if suffix == ".tiktoken":
        from gptcli.tokenizer.encodings import beginning, read_rank_file  # noqa: PLC0415  # 0.03 s

        return beginning(read_rank_file(path, vocab_size), path.parent)
    if path.name in VOCABULARIES:
        from gptcli.tokenizer.huggingface import read_merges  # noqa: PLC0415  # 0.02 s

        return read_merges(_beside(path, MERGES), path)
    if suffix == ".json":
        return _of_json(path)
    if suffix in {".bpe", ".txt"} and path.name != "vocab.txt":
        from gptcli.tokenizer.huggingface import read_merges  # noqa: PLC0415  # 0.02 s

        return read_merges(path, _beside(path, VOCABULARIES))
    if _UNREADABLE.fullmatch(path.name):
        raise _unreadable(path)
    expected = "expected .tiktoken, .bpe, .txt or .json"
    raise InputError(shown(path), f'cannot tell the format from "{shown(suffix)}" ({expected})')


def _of_json(path: Path) -> Tokenizer:
    if path.name == CHARACTERS:
        from gptcli.tokenizer.characters import read_characters  # noqa: PLC0415  # as the others

        return read_characters(path)
    from gptcli.tokenizer.huggingface import read_tokenizer_json  # noqa: PLC0415  # 0.02 s

    return read_tokenizer_json(path)


def _beside(path: Path, names: Sequence[str]) -> Path:
    """The file that belongs to another; GPT-2's own pair goes together, and so does the newer."""
    ordered = names if path.name in {MERGES[0], VOCABULARIES[0]} else names[::-1]
    paths = [path.with_name(name) for name in ordered]
    return next((path for path in paths if path.exists()), paths[0])


def _named(name: str, directory: Path | None, offline: bool) -> Tokenizer:
    from gptcli.tokenizer.encodings import beginning, named_tokenizer  # noqa: PLC0415  # 0.03 s

    return beginning(named_tokenizer(name, offline=offline), directory)


def _encoding_names() -> list[str]:
    from gptcli.tokenizer.encodings import encoding_names  # noqa: PLC0415  # 0.03 s

    return encoding_names()


def _settle_ends(tokenizer: Tokenizer, ends: EndTokens) -> None:
    """What the files name ends a text; the tokenizer's own end of text where they name nothing."""
    if ends.named:
        tokenizer.eos_id = ends.ids[0] if ends.ids else None
        tokenizer.eos_ids = frozenset(ends.ids)
    tokenizer.notices = (*tokenizer.notices, *ends.notices)


def _refuse_to_guess(directory: Path | None, vocab_size: int | None) -> None:
    """GPT-2's tokenizer is a good guess for a model without one, and a bad one for any other."""
    if directory is not None:
        _refuse_unreadable(directory)
    if vocab_size is not None and vocab_size not in GPT2_SIZES:
        raise _none_named(directory, vocab_size)


def _refuse_unreadable(directory: Path) -> None:
    """Refuse a directory with a tokenizer of a kind that is not read here: its ids are others."""
    names = sorted(entry.name for entry in directory.iterdir())
    for name in names:
        if _UNREADABLE.fullmatch(name):
            raise _unreadable(directory / name)
    kind = read_json_object(directory / SETTINGS).get("tokenizer_class")
    if kind is not None and kind not in GPT2_CLASSES:
        problem = f"names a tokenizer whose files are not there (tokenizer_class {shown(kind)})"
        raise InputError(shown(directory / SETTINGS), problem, _UNSAVED)


def _unreadable(path: Path) -> InputError:
    if path.name in VOCABULARIES:
        other = MERGES[VOCABULARIES.index(path.name)]
        return InputError(shown(path), f"has no {other} beside it, which belongs to it", _UNSAVED)
    if path.suffix.lower() in {".pkl", ".pickle"}:
        hint = _UNSAVED
        if path.stem == "meta":
            hint = f"Write its stoi and itos to {CHARACTERS}, as JSON"
        return InputError(shown(path), "a pickle is never read, as it may run code", hint)
    return InputError(shown(path), "a tokenizer of a kind that is not read here", _UNSAVED)


def _none_named(directory: Path | None, vocab_size: int | None) -> InputError:
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


def _unknown(name: str) -> InputError:
    names = _encoding_names()
    near = get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"tiktoken knows {', '.join(names)}"
    problem = "neither a tiktoken name nor a file beside the config"
    return InputError(f"tokenizer {shown(name)}", problem, hint)
