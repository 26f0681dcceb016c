"""An input by its URL: on S3, Google Cloud Storage, HDFS or whatever pyarrow can open.

Read where it is, never copied to this machine. pyarrow is an extra and is imported for a URL alone.
Knows no lines.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gptcli.batch.io.sources import Source, open_source
from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.core.escape import shown

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_NOWHERE = (-1, -1)  # the device and inode of no file here


def is_url(name: str) -> bool:
    """Whether a name is a URL: `s3://bucket/key`."""
    return _URL.match(name) is not None


def open_input(name: str) -> AbstractContextManager[Source]:
    """An input as a command is given it: a file, a URL, or "-" for standard input.

    Raises:
        GptcliError: as `open_url` and `gptcli.batch.io.sources.open_source`.
    """
    if is_url(name):
        return open_url(name)
    return open_source(None if name == "-" else Path(name))


@contextmanager
def open_url(url: str) -> Iterator[Source]:
    """A remote file, its bytes as they are stored.

    Raises:
        UsageError: pyarrow is not installed, or does not know this kind of URL.
        InputError: there is no such file.
        RunError: the other side does not answer, or refuses.
    """
    name = _without_secrets(url)
    fs: Any = _pyarrow(name)
    with _refusals(name):
        try:
            filesystem, path = fs.FileSystem.from_uri(url)
        except ValueError as error:
            raise UsageError(name, f"not a URL that can be read ({_brief(error)})") from None
    with open_in(filesystem, path, name) as source:
        yield source


@contextmanager
def open_in(filesystem: Any, path: str, name: str) -> Iterator[Source]:
    """A file of a pyarrow filesystem; `name` is what messages call it.

    Raises:
        InputError: there is no such file.
        RunError: it cannot be opened.
    """
    with _refusals(name):
        info = filesystem.get_file_info(path)
        if not info.is_file:
            found = "not there" if info.type.name == "NotFound" else "not a file (directory)"
            raise InputError(name, found)
        stream = filesystem.open_input_stream(path, compression=None)  # gunzipped by Source
    with stream:
        yield Source(
            stream.read,
            name,
            size=info.size,
            identity=_identity(filesystem, path),
            reopen=partial(filesystem.open_input_file, path),
        )


def _identity(filesystem: Any, path: str) -> tuple[int, int]:
    """Of a file of this machine, so that no output can be written over it."""
    if filesystem.type_name != "local":
        return _NOWHERE
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _pyarrow(name: str) -> Any:
    try:
        return import_module("pyarrow.fs")
    except ImportError:
        hint = "Run \"pip install 'gptcli[parquet]'\", or copy the file to this machine"
        raise UsageError(name, "a URL needs pyarrow, which is not installed", hint) from None


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, NotImplementedError) as error:
        hint = "Is the name right, and may this machine read it?"
        raise RunError(name, f"cannot be opened ({_brief(error)})", hint) from None


def _brief(error: Exception) -> str:
    return shown(" ".join(str(error).split()), 200)


def _without_secrets(url: str) -> str:
    """A URL without the keys, passwords and options that it may carry."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return shown(url.partition("://")[0] + "://")
    host = parts.netloc.rpartition("@")[2]
    return shown(f"{parts.scheme}://{host}{parts.path}", 200)
