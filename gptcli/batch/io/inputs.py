"""Open a batch's input: a file, a pipe, standard input or a URL, plain or gzip.

URLs (S3, Google Cloud Storage, HDFS, whatever pyarrow can open) are streamed, never copied to this
machine. pyarrow is an extra and imported for URLs alone.
"""

import os
import re
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gptcli.batch.io.lines import Line, decompressed, split_lines
from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.core.escape import shown

STDIN = "standard input"
_CHUNK = 1 << 16
_POLL_SECONDS = 0.2  # between two calls of `poll` while a pipe has no data
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_NO_FILE = (-1, -1)  # device and inode of an input on another machine


class InputStream:
    """An open input.

    Attributes:
        name: what messages call it.
        size: bytes of a file, None for a pipe.
        identity: device and inode of a file of this machine.
        position: bytes read so far, before decompression.
        poll: called while a pipe has no data; may raise to end the wait.
        is_busy: whether the caller has other work; `lines` then yields None instead of waiting.
        reopen: opens the same bytes as a file that can be read in any order.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        name: str,
        *,
        size: int | None,
        identity: tuple[int, int],
        reopen: Callable[[], Any],
        is_ready: Callable[[float], object] = lambda _seconds: True,
    ) -> None:
        """Over `read`, which returns at most so many bytes and b"" at the end.

        `is_ready` waits at most so many seconds and says whether `read` will not block.
        """
        self._read, self._is_ready = read, is_ready
        self.name, self.size, self.identity = name, size, identity
        self.position, self.reopen = 0, reopen
        self.poll: Callable[[], object] = lambda: None
        self.is_busy: Callable[[], bool] = lambda: False

    @classmethod
    def of(cls, fd: int, name: str) -> "InputStream":
        """An open file or pipe."""
        status = os.fstat(fd)
        identity, read = (status.st_dev, status.st_ino), partial(os.read, fd)

        def reopen() -> Any:
            return os.fdopen(os.dup(fd), "rb")

        if stat.S_ISREG(status.st_mode):
            return cls(read, name, size=status.st_size, identity=identity, reopen=reopen)

        def is_ready(seconds: float) -> object:
            return select.select([fd], [], [], seconds)[0]

        return cls(read, name, size=None, identity=identity, reopen=reopen, is_ready=is_ready)

    def read(self, most: int = _CHUNK) -> bytes:
        """The next bytes before decompression, at most `most`; b"" at the end.

        Raises:
            RunError: the input cannot be read.
        """
        try:
            data = self._read(most)
        except OSError as error:
            why = shown(error.strerror or str(error), 200)
            raise RunError(self.name, f"cannot be read ({why})") from None
        self.position += len(data)
        return data

    def lines(self) -> Iterator[Line | None]:
        """Every line, blank ones too; None where the next is not here yet and `is_busy`.

        Raises:
            RunError: the input cannot be read, or is a damaged gzip file; after all complete
                lines.
        """
        return split_lines(decompressed(self._chunks()), self.name)

    def content(self) -> Iterator[bytes | None]:
        """The bytes after decompression, in pieces of at most 1 MiB.

        None where the next is not here yet and `is_busy`.

        Raises:
            RunError: the input cannot be read.
            TruncatedInputError: a damaged gzip file; after all that is good of it.
        """
        return (piece for piece in decompressed(self._chunks()) if piece != b"")

    def _chunks(self) -> Iterator[bytes | None]:
        while True:
            yield from self._wait()
            if not (data := self.read()):
                return
            yield data

    def _wait(self) -> Iterator[None]:
        while not self._is_ready(0 if self.is_busy() else _POLL_SECONDS):
            self.poll()
            if self.is_busy():
                yield None


def open_input(name: str) -> AbstractContextManager[InputStream]:
    """Open an input: a file, a URL, or "-" for standard input.

    Raises:
        GptcliError: as `open_url` and `open_file`.
    """
    if is_url(name):
        return open_url(name)
    return open_file(None if name == "-" else Path(name))


@contextmanager
def open_file(path: Path | None) -> Iterator[InputStream]:
    """Open a file or a pipe; None is standard input.

    Raises:
        InputError: it is not there, or is a directory.
    """
    if path is None:
        yield InputStream.of(0, STDIN)
        return
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a usable file name"
        raise InputError(shown(path), f"cannot be read ({why})") from None
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise InputError(shown(path), "not a file (directory)")
        yield InputStream.of(fd, shown(path))
    finally:
        os.close(fd)


def is_url(name: str) -> bool:
    """Whether a name is a URL: `s3://bucket/key`."""
    return _URL.match(name) is not None


@contextmanager
def open_url(url: str) -> Iterator[InputStream]:
    """Open a remote file.

    Raises:
        UsageError: pyarrow is not installed, or does not know this kind of URL.
        InputError: there is no such file.
        RunError: the server does not answer, or refuses access.
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
def open_in(filesystem: Any, path: str, name: str) -> Iterator[InputStream]:
    """Open a file of a pyarrow filesystem; messages call it `name`.

    Raises:
        InputError: there is no such file.
        RunError: it cannot be opened.
    """
    with _refusals(name):
        info = filesystem.get_file_info(path)
        if not info.is_file:
            found = "not there" if info.type.name == "NotFound" else "not a file (directory)"
            raise InputError(name, found)
        stream = filesystem.open_input_stream(path, compression=None)  # `lines` does it
    with stream:
        yield InputStream(
            stream.read,
            name,
            size=info.size,
            identity=_identity(filesystem, path),
            reopen=partial(filesystem.open_input_file, path),
        )


def _identity(filesystem: Any, path: str) -> tuple[int, int]:
    """Device and inode of a local file, so that no output is written over it."""
    if filesystem.type_name != "local":
        return _NO_FILE
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
        hint = "Check the name, and that this machine may read it"
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
