"""Models of the Hugging Face Hub: find them in the local cache, or download them.

huggingface_hub downloads and owns the cache. A cached model is used without a network request. Only
safetensors, config and tokenizer files are downloaded.
"""

import errno
import os
import re
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any

from gptcli.checkpoint.header import shards_of
from gptcli.core.errors import InputError, RunError
from gptcli.core.escape import shown

Progress = Callable[[str, int, int], object]
"""Called with a file's name, the bytes received so far, and its size in bytes (0 if unknown)."""

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
# Small files that a repository may lack.
OPTIONAL = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
OLD_TOKENIZERS = (
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tokenizer.model",
)  # fmt: skip
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
ANSWER_SECONDS = 10.0

_TRUE = {"1", "ON", "YES", "TRUE"}


def is_offline(flag: bool = False) -> bool:
    """Whether to use no network: the flag, or the environment variable HF_HUB_OFFLINE."""
    return flag or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def is_repo(name: str) -> bool:
    """Whether a name is `owner/name` and the working directory has no folder called `owner`."""
    return _REPO.fullmatch(name) is not None and not Path(name.partition("/")[0]).exists()


def cached(repo: str) -> Path | None:
    """The cached directory of a repository, None unless it has config and weights. No network."""
    snapshot = _snapshot(repo)
    if snapshot is None or not (snapshot / CONFIG).exists():
        return None
    return snapshot if _has_weights(snapshot) else None


def _has_weights(snapshot: Path) -> bool:
    if (snapshot / WEIGHTS).exists():
        return True
    try:
        shards = shards_of(snapshot / INDEX)
    except InputError:  # a malformed index: reported when the weights are read
        return True
    return bool(shards) and all((snapshot / shard).exists() for shard in shards)


def fetch(repo: str, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """The model directory of a repository, from the cache or else from the Hub.

    Raises:
        RunError: it is not in the cache, and cannot be downloaded or must not be (offline).
    """
    found = cached(repo)
    if found and (offline or all(_is_settled(found, name) for name in _optional(found))):
        return found
    if is_offline(offline):
        if found:
            return found
        raise RunError(shown(repo), "is not on this machine, and working offline", _ADVICE)
    try:
        return _download(repo, progress)
    except Exception as error:  # noqa: BLE001  # error types differ between HTTP libraries
        if found:
            return found
        raise _as_run_error(repo, error) from None


_ADVICE = "Run it once with a network, or name a directory that holds the model"


def _snapshot(repo: str) -> Path | None:
    """The cached snapshot of a repository's main branch, by the documented layout of the cache."""
    from huggingface_hub import constants  # noqa: PLC0415  # 0.03 s that few commands need

    home = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    try:
        commit = (home / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return home / "snapshots" / commit if commit.isalnum() else None


def _optional(snapshot: Path) -> tuple[str, ...]:
    """The small files to download; older tokenizer files only without a tokenizer.json."""
    return OPTIONAL if (snapshot / TOKENIZER).exists() else OPTIONAL + OLD_TOKENIZERS


def _is_settled(snapshot: Path, name: str) -> bool:
    """Whether the file is cached, or known to be missing on the Hub."""
    absent = snapshot.parent.parent / ".no_exist" / snapshot.name / name
    return (snapshot / name).exists() or absent.exists()


def _download(repo: str, progress: Progress | None) -> Path:
    """Download the files of one commit; interrupted downloads are resumed."""
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415  # as below

    logging = import_module("huggingface_hub.utils.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # problems become our own errors
    try:
        snapshot = _file(repo, CONFIG, "main", progress).parent

        def has(name: str) -> bool:
            try:
                _file(repo, name, snapshot.name, progress)
            except EntryNotFoundError:
                return False
            return True

        if not has(TOKENIZER):
            list(map(has, OLD_TOKENIZERS))
        list(map(has, OPTIONAL[1:]))
        if has(WEIGHTS):
            return snapshot
        for shard in shards_of(_file(repo, INDEX, snapshot.name, progress)):
            _file(repo, shard, snapshot.name, progress)
        return snapshot
    finally:
        logging.set_verbosity(level)


def _file(repo: str, name: str, revision: str, progress: Progress | None) -> Path:
    # Takes 0.3 s to import, and reads environment variables then.
    from huggingface_hub import (  # noqa: PLC0415
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
    )

    if revision == "main":  # fails after one timeout; the download would retry many times
        get_hf_file_metadata(hf_hub_url(repo, name), timeout=ANSWER_SECONDS)
    options: dict[str, Any] = {}
    if "tqdm_class" in signature(hf_hub_download).parameters:  # older clients show their own bar
        options["tqdm_class"] = _tqdm_class(name, progress)
    return Path(hf_hub_download(repo, name, revision=revision, **options))


def _tqdm_class(name: str, progress: Progress | None) -> type:
    """A tqdm class that draws nothing and calls `progress` instead."""
    tqdm: Any = import_module("huggingface_hub.utils").tqdm

    class Reporting(tqdm):  # type: ignore[misc]  # tqdm has no types
        monitor_interval = 0  # no thread of its own

        def __init__(self, *args: Any, **options: Any) -> None:
            own = {"disable": progress is None, "file": StringIO()}
            super().__init__(*args, **{**options, **own})

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            if progress is not None:
                progress(name, int(self.n), int(self.total or 0))

    return Reporting


def _as_run_error(repo: str, error: Exception) -> RunError:
    """A download error as a RunError, with advice for the common causes."""
    from huggingface_hub import errors  # noqa: PLC0415

    where, status = shown(repo), getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, InputError):
        return RunError(where, error.problem, error.hint)
    if isinstance(error, errors.GatedRepoError | errors.RepositoryNotFoundError):
        problem = "there is no such model on the Hub, or it is not public, and no such path here"
        return RunError(where, problem, "Log in with `hf auth login` if it is yours to use")
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return RunError(where, f"has no {CONFIG} or no {WEIGHTS} on the Hub")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return RunError(where, "the disk is full", "Free space; the download then goes on")
    if status is not None:
        return RunError(where, f"the Hub answered with status {status}", _ADVICE)
    kind = type(error).__name__
    return RunError(where, f"is not on this machine and cannot be downloaded ({kind})", _ADVICE)
