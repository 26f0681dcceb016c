"""tiktoken's named encodings, from its cache or over the network, which is asked with patience.

tiktoken itself would wait for ever for a server that does not answer, and asks one even when the
user works offline; here a download has a time limit and can be forbidden. Knows no files but
tiktoken's cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Any

import tiktoken
import tiktoken.load

from gptcli.checkpoint.hub import is_offline
from gptcli.core.errors import RunError
from gptcli.tokenizer.bpe import ranks_of_merges

CONNECT_SECONDS = 8.0
READ_SECONDS = 20.0
_ADVICE = (
    "Put vocab.bpe and encoder.json (or tokenizer.json) beside the config, or set "
    "TIKTOKEN_CACHE_DIR to a folder that holds tiktoken's downloads"
)
_lock = Lock()


def encoding_names() -> list[str]:
    """What the installed tiktoken knows by name."""
    return tiktoken.list_encoding_names()


def named_encoding(name: str, *, offline: bool = False) -> tiktoken.Encoding:
    """One of `encoding_names()`.

    Raises:
        RunError: it is in no cache, and cannot be had from the network.
    """
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

    It would make them from the vocabulary too and compare the two, which takes as long as reading
    the weights of a small model. The merges are found to be right by their digest.
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
