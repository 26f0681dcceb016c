"""Tokenizers by tiktoken: its named encodings, and rank files.

tiktoken itself would wait for ever for a server that does not answer, and asks one even when the
user works offline; here a download has a time limit and can be forbidden.

A rank file has a line for each token: the token in base64 and its rank, which is its id. The end
of text has no line; it is the id after the last rank, as in GPT-2's own.
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
    SETTINGS,
    named_token,
    read_json_object,
)
from gptcli.tokenizer.tokenizer import NEAR_CUTS, NO_TOKEN, Tokenizer

# GPT-2's pattern, with possessive repeats where they match the same and cannot backtrack.
PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

CONNECT_SECONDS = 8.0
READ_SECONDS = 20.0
MAX_ID = 1 << 24
MAX_TOKEN_BYTES = 1024
_OTHER_PATTERNS = ("p50k", "cl100k", "o200k")  # names of rank files that need more than ranks
_ADVICE = (
    "Put vocab.bpe and encoder.json (or tokenizer.json) beside the config, or set "
    "TIKTOKEN_CACHE_DIR to a folder that holds tiktoken's downloads"
)
_lock = Lock()


class TiktokenTokenizer(Tokenizer):
    """A byte-level BPE that tiktoken computes.

    Attributes:
        bos_id: what every prompt begins with, None where it begins with its own first token.
    """

    def __init__(self, encoding: tiktoken.Encoding, origin: str = "") -> None:
        self.name = encoding.name
        self.origin = origin or f"tiktoken's {encoding.name}"
        self.bos_id: int | None = None
        self._encoding = encoding
        self.n_vocab = encoding.max_token_value + 1
        self.eos_id = self.id_of(END_OF_TEXT)
        self.eos_ids = frozenset() if self.eos_id is None else frozenset({self.eos_id})

    def begin_with(self, token: str) -> None:
        """Let every prompt begin with this special token.

        Raises:
            InputError: there is none of that name.
        """
        self.bos_id = self.id_of(token)
        if self.bos_id is None:
            raise InputError(SETTINGS, f'bos_token: no special token is called "{shown(token)}"')

    @property
    def ranks(self) -> Mapping[bytes, int]:
        """The id of each token that is not special, by its bytes."""
        return self._encoding._mergeable_ranks  # tiktoken has no public name for it

    @property
    def pattern(self) -> str:
        """The regular expression that splits a text before it is merged."""
        return self._encoding._pat_str

    @property
    def special_tokens(self) -> Sequence[str]:
        """The encoding's own."""
        return sorted(self._encoding.special_tokens_set)

    def id_of(self, token: str) -> int | None:
        """The id of a special token."""
        if token in self._encoding.special_tokens_set:
            return self._encoding.encode_single_token(token)
        return None

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token; for an id without one, as a padded vocabulary has, U+FFFD's."""
        try:
            return self._encoding.decode_single_token_bytes(id)
        except (KeyError, OverflowError):
            return NO_TOKEN.encode()

    def _around(self) -> tuple[list[int], list[int]]:
        return [] if self.bos_id is None else [self.bos_id], []

    def _can_cut(self, special: bool) -> bool:
        return not special or NEAR_CUTS.isdisjoint("".join(self.special_tokens))

    def _encode_batch(self, texts: list[str], special: bool) -> list[list[int]]:
        encode = partial(self._encode, special=special, prompt=False)
        with ThreadPoolExecutor(len(texts)) as threads:  # tiktoken lets go of Python's lock
            return list(threads.map(encode, texts))

    def _encode(self, text: str, special: bool, prompt: bool) -> list[int]:
        before = [self.bos_id] if prompt and self.bos_id is not None else []
        try:
            if special:
                return before + self._encoding.encode(text, allowed_special="all")
            return before + self._encoding.encode_ordinary(text)
        except BaseException as error:
            # A panic inside tiktoken is no Exception, and its class cannot be imported.
            if type(error).__name__ != "PanicException" and not isinstance(error, ValueError):
                raise
            raise UsageError("prompt", "tiktoken cannot split this text into tokens") from None


def encoding_names() -> list[str]:
    """What the installed tiktoken knows by name."""
    return tiktoken.list_encoding_names()


def named_tokenizer(name: str, *, offline: bool = False) -> TiktokenTokenizer:
    """The tokenizer of one of `encoding_names()`.

    Raises:
        RunError: it is in no cache, and cannot be had from the network.
    """
    return TiktokenTokenizer(_named_encoding(name, offline=offline))


def beginning(tokenizer: TiktokenTokenizer, directory: Path | None) -> TiktokenTokenizer:
    """The tokenizer, with prompts that begin as the directory's settings say.

    Raises:
        InputError: they name a token that there is not.
    """
    settings = read_json_object(directory / SETTINGS) if directory else {}
    if settings.get("add_bos_token") is True:
        tokenizer.begin_with(named_token(settings, "bos_token"))
    return tokenizer


def of_ranks(name: str, ranks: Mapping[bytes, int], eos_id: int | None = None) -> TiktokenTokenizer:
    """The tokenizer of ranks, which are the ids, split by GPT-2's pattern."""
    special = {} if eos_id is None else {END_OF_TEXT: eos_id}
    return TiktokenTokenizer(
        tiktoken.Encoding(
            name, pat_str=PATTERN, mergeable_ranks=dict(ranks), special_tokens=special
        ),
        origin=name,
    )


def read_rank_file(path: Path, vocab_size: int | None = None) -> TiktokenTokenizer:
    """The tokenizer of a `.tiktoken` file.

    It has an end of text if the model's vocabulary has room for one.

    Raises:
        InputError: names the file, and the line that is wrong.
    """
    if path.name.startswith(_OTHER_PATTERNS):
        hint = f'Write "tokenizer: {path.stem}"; tiktoken then supplies all of it'
        raise InputError(shown(path), "has ranks alone, and not its way to split text", hint)
    ranks = read_ranks(path)
    end = max(ranks.values()) + 1
    return of_ranks(path.name, ranks, None if end == vocab_size else end)


def read_ranks(path: Path) -> dict[bytes, int]:
    """The bytes of each token in a rank file → its rank.

    Raises:
        InputError: names the file, and the line that is wrong.
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
    """Merges of letters, first to last → the rank of each token: the bytes first, then the merges.

    Raises:
        ValueError: a letter stands for no byte.
    """
    ranks = {bytes([byte]): rank for rank, byte in enumerate(BYTE_OF_LETTER.values())}
    for left, right in merges:
        token = bytes_of(left + right)
        if token is None:
            raise ValueError(f"{left} {right}")
        ranks.setdefault(token, len(ranks))  # two merges may make one token
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
    except (ValueError, AssertionError):  # a page of a portal in between, a download cut short
        why = "what was downloaded is not its data"
    raise RunError(f"tokenizer {name}", why, _ADVICE)


class _UnreachableError(Exception):
    """A download that is forbidden, or that nobody answers."""


@contextmanager
def _limited_downloads(offline: bool) -> Iterator[None]:
    """While it lasts, tiktoken's downloads go through here; its cache stays its own matter."""

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
    """While it lasts, tiktoken makes GPT-2's ranks from its merges alone.

    It would make them from the vocabulary too and compare the two, which takes twice as long.
    tiktoken checks the digest of the merges, so there is nothing left to compare.
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
    """The bytes at an address. A thread asks, because looking up a name knows no time limit."""
    answers: Queue[Any] = Queue()

    def ask() -> None:
        try:
            requests = import_module("requests")  # tiktoken's way to the network; slow to load
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
