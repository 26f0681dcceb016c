"""Tokenizers run by tiktoken: its named encodings, and rank files (`.tiktoken`).

tiktoken's own downloads have no time limit and ignore offline mode. Here a download has a time
limit and can be forbidden.

A rank file has a line for each token: the token in base64 and its rank, which is its id. The end of
text has no line; its id is the one after the last rank, as in GPT-2.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Any

import tiktoken
import tiktoken.load

from gptcli.checkpoint.hub import is_offline
from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.core.escape import listed, shown
from gptcli.core.files import read_bounded
from gptcli.tokenizer.byte_letters import BYTE_OF_LETTER, bytes_of
from gptcli.tokenizer.special_tokens import (
    END_OF_TEXT,
    MAX_BYTES,
    TOKENIZER_CONFIG,
    read_json_object,
    special_token,
)
from gptcli.tokenizer.tokenizer import REPLACEMENT, SPLIT_CHARACTERS, Tokenizer

# GPT-2's pattern, with possessive quantifiers where these match the same: they never backtrack.
PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

CONNECT_SECONDS = 8.0
READ_SECONDS = 20.0
MAX_ID = 1 << 24
MAX_TOKEN_BYTES = 1024
_OTHER_PATTERNS = ("p50k", "cl100k", "o200k")  # rank files of encodings with another pattern
_ADVICE = (
    "Put vocab.bpe and encoder.json (or tokenizer.json) beside the config, or set "
    "TIKTOKEN_CACHE_DIR to a folder that holds tiktoken's downloads"
)
_lock = Lock()


class TiktokenTokenizer(Tokenizer):
    """A byte-level BPE, run by tiktoken.

    Attributes:
        bos_id: of the token before every prompt, None without one.
    """

    def __init__(self, encoding: tiktoken.Encoding, origin: str = "") -> None:
        self.name = encoding.name
        self.origin = origin or f"tiktoken's {encoding.name}"
        self.bos_id: int | None = None
        self._encoding = encoding
        self.n_vocab = encoding.max_token_value + 1
        self.eos_id = self.id_of(END_OF_TEXT)
        self.eos_ids = frozenset() if self.eos_id is None else frozenset({self.eos_id})

    def set_bos_token(self, token: str) -> None:
        """Put this special token before every prompt.

        Raises:
            InputError: there is no such special token.
        """
        self.bos_id = self.id_of(token)
        if self.bos_id is None:
            raise InputError(
                TOKENIZER_CONFIG, f'bos_token: no special token is called "{shown(token)}"'
            )

    @property
    def ranks(self) -> Mapping[bytes, int]:
        """The id of each token that is not special, by its bytes."""
        return self._encoding._mergeable_ranks  # tiktoken has no public name for it

    @property
    def pattern(self) -> str:
        """The regular expression that splits a text before bytes are merged."""
        return self._encoding._pat_str

    @property
    def special_tokens(self) -> Sequence[str]:
        """The encoding's special tokens, sorted."""
        return sorted(self._encoding.special_tokens_set)

    def id_of(self, token: str) -> int | None:
        """The id of a special token."""
        if token in self._encoding.special_tokens_set:
            return self._encoding.encode_single_token(token)
        return None

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token; those of U+FFFD for an id without one (a padded vocabulary)."""
        try:
            return self._encoding.decode_single_token_bytes(id)
        except (KeyError, OverflowError):
            return REPLACEMENT.encode()

    def _prompt_affixes(self) -> tuple[list[int], list[int]]:
        return [] if self.bos_id is None else [self.bos_id], []

    def _can_split(self, special: bool) -> bool:
        return not special or SPLIT_CHARACTERS.isdisjoint("".join(self.special_tokens))

    def _encode_batch(self, texts: list[str], special: bool) -> list[list[int]]:
        encode = partial(self._encode, special=special, prompt=False)
        with ThreadPoolExecutor(len(texts)) as threads:  # tiktoken releases the GIL
            return list(threads.map(encode, texts))

    def _encode(self, text: str, special: bool, prompt: bool) -> list[int]:
        before = [self.bos_id] if prompt and self.bos_id is not None else []
        try:
            if special:
                return before + self._encoding.encode(text, allowed_special="all")
            return before + self._encoding.encode_ordinary(text)
        except BaseException as error:
            # A panic in tiktoken's Rust code is a BaseException whose class cannot be imported.
            if type(error).__name__ != "PanicException" and not isinstance(error, ValueError):
                raise
            raise UsageError("prompt", "tiktoken cannot split this text into tokens") from None


def encoding_names() -> list[str]:
    """The names of the installed tiktoken's encodings."""
    return tiktoken.list_encoding_names()


def named_tokenizer(name: str, *, offline: bool = False) -> TiktokenTokenizer:
    """The tokenizer of one of `encoding_names()`.

    Raises:
        RunError: it is not in tiktoken's cache, and cannot be downloaded.
    """
    return TiktokenTokenizer(_named_encoding(name, offline=offline))


def with_bos_token(tokenizer: TiktokenTokenizer, directory: Path | None) -> TiktokenTokenizer:
    """The tokenizer, with the BOS token that the directory's tokenizer_config.json asks for.

    Raises:
        InputError: there is no such special token.
    """
    settings = read_json_object(directory / TOKENIZER_CONFIG) if directory else {}
    if settings.get("add_bos_token") is True:
        tokenizer.set_bos_token(special_token(settings, "bos_token"))
    return tokenizer


def from_ranks(
    name: str, ranks: Mapping[bytes, int], eos_id: int | None = None
) -> TiktokenTokenizer:
    """A tokenizer with these ranks as ids, and GPT-2's pattern."""
    special = {} if eos_id is None else {END_OF_TEXT: eos_id}
    return TiktokenTokenizer(
        tiktoken.Encoding(
            name, pat_str=PATTERN, mergeable_ranks=dict(ranks), special_tokens=special
        ),
        origin=name,
    )


def read_rank_file(path: Path, vocab_size: int | None = None) -> TiktokenTokenizer:
    """The tokenizer of a `.tiktoken` file.

    It has an end of text unless the ranks fill the model's vocabulary.

    Raises:
        InputError: the file is malformed; the message names the line.
    """
    if path.name.startswith(_OTHER_PATTERNS):
        hint = f'Write "tokenizer: {path.stem}"; tiktoken then supplies both'
        raise InputError(shown(path), "has ranks without the pattern that splits text", hint)
    ranks = read_ranks(path)
    end = max(ranks.values()) + 1
    return from_ranks(path.name, ranks, None if end == vocab_size else end)


def read_ranks(path: Path) -> dict[bytes, int]:
    """The rank of each token in a rank file, by the token's bytes.

    Raises:
        InputError: the file is malformed; the message names the line.
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
            raise InputError(shown(path), f"line {number:,}: a token that an earlier line has")
        ranks[token] = rank
    missing = [f"0x{byte:02x}" for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        found = f"{len(missing)} of the 256 bytes have no rank ({listed(missing)})"
        raise InputError(shown(path), found)
    if len(set(ranks.values())) < len(ranks):
        raise InputError(shown(path), "two tokens have the same rank")
    return ranks


def rank_lines(ranks: Mapping[bytes, int]) -> bytes:
    """The contents of a rank file."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)


def ranks_of_merges(merges: Sequence[tuple[str, str]]) -> dict[bytes, int]:
    """Merges in byte letters, in order → ranks by bytes: the 256 bytes first, then the merges.

    Raises:
        ValueError: a letter stands for no byte.
    """
    ranks = {bytes([byte]): rank for rank, byte in enumerate(BYTE_OF_LETTER.values())}
    for left, right in merges:
        token = bytes_of(left + right)
        if token is None:
            raise ValueError(f"{left} {right}")
        ranks.setdefault(token, len(ranks))  # two merges may make the same token
    return ranks


def _rank_line(line: bytes) -> tuple[bytes, int]:
    fields = line.split()
    if len(fields) != 2:
        raise ValueError(f"expected a token in base64 and its rank, found {len(fields)} fields")
    try:
        token = base64.b64decode(fields[0], validate=True)
    except binascii.Error:
        raise ValueError("the token is not base64") from None
    if not 0 < len(token) <= MAX_TOKEN_BYTES:
        raise ValueError(f"a token of {len(token):,} bytes (expected 1 to {MAX_TOKEN_BYTES:,})")
    if not fields[1].isdigit() or len(fields[1]) > 8 or int(fields[1]) >= MAX_ID:
        found = shown(fields[1].decode(errors="backslashreplace"))
        raise ValueError(f'expected a rank below {MAX_ID:,}, found "{found}"')
    return token, int(fields[1])


def _named_encoding(name: str, *, offline: bool = False) -> tiktoken.Encoding:
    try:
        with _limited_downloads(is_offline(offline)), _ranks_from_merges():
            return tiktoken.get_encoding(name)
    except _UnreachableError as error:
        why = str(error)
    except OSError as error:  # requests' errors too
        why = f"cannot be downloaded or cached ({type(error).__name__})"
    except (ValueError, AssertionError):  # a captive portal's page, a download cut short
        why = "the download is damaged"
    raise RunError(f"tokenizer {name}", why, _ADVICE)


class _UnreachableError(Exception):
    """A download while offline, or one without an answer."""


@contextmanager
def _limited_downloads(offline: bool) -> Iterator[None]:
    """Context in which tiktoken downloads with `_download`, or not at all; it still caches."""

    def read(blobpath: str) -> bytes:  # tiktoken's name for it
        if "://" not in blobpath:
            return original(blobpath)
        if offline:
            raise _UnreachableError("is not on this machine, and working offline")
        return _download(blobpath)

    with _lock:
        original = tiktoken.load.read_file
        tiktoken.load.read_file = read
        try:
            yield
        finally:
            tiktoken.load.read_file = original


@contextmanager
def _ranks_from_merges() -> Iterator[None]:
    """Context in which tiktoken makes GPT-2's ranks from the merges file alone.

    By itself it reads the vocabulary file too and compares the two, which takes twice as long. It
    has checked the digest of the merges by then, so the comparison adds nothing.
    """

    def ranks(vocab_bpe_file: str, *_: str, vocab_bpe_hash: str, **__: str) -> dict[bytes, int]:
        text = tiktoken.load.read_file_cached(vocab_bpe_file, vocab_bpe_hash).decode()
        pairs = (line.split(" ") for line in text.split("\n")[1:-1])
        return ranks_of_merges([(left, right) for left, right in pairs])

    module: Any = import_module("tiktoken_ext.openai_public")
    original = module.data_gym_to_mergeable_bpe_ranks
    module.data_gym_to_mergeable_bpe_ranks = ranks
    try:
        yield
    finally:
        module.data_gym_to_mergeable_bpe_ranks = original


def _download(address: str) -> bytes:
    """The bytes at a URL. The request runs in a thread: a DNS lookup has no timeout of its own."""
    answers: Queue[Any] = Queue()

    def ask() -> None:
        try:
            requests = import_module("requests")  # tiktoken's HTTP client; slow to import
            limits = (CONNECT_SECONDS, READ_SECONDS)
            answers.put(requests.get(address, timeout=limits, stream=True))
        except OSError as error:  # all of requests' own errors are
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=CONNECT_SECONDS)
    except Empty:
        why = f"no answer from the network in {CONNECT_SECONDS:.0f} s"
        raise _UnreachableError(f"is not on this machine, and {why}") from None
    if isinstance(answer, OSError):
        raise _UnreachableError("is not on this machine, and the network cannot be reached")
    answer.raise_for_status()
    return answer.content
