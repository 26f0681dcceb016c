"""Read untrusted files, and write files atomically.

Reading: regular files of bounded size, strict JSON; every problem is an `InputError` that names the
file. Writing: temporary file, fsync, rename; a problem is a `RunError`.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.core.escape import shown

try:
    import fcntl
except ImportError:  # not Unix: no lock, so two writers go unnoticed
    fcntl = None  # type: ignore[assignment]

_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_CHUNK = 1 << 20
_KEY_OR_BRACE = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?|[{}]')


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Context with a file descriptor for reading; a FIFO or device is refused without blocking."""
    name = shown(path)
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise InputError(name, _why(error)) from None
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "special file")
            raise InputError(name, f"not a regular file ({kind})")
        yield fd
    finally:
        os.close(fd)


def read_bounded(path: Path, limit: int) -> bytes:
    """All bytes of a regular file of at most `limit` bytes."""
    with open_regular(path) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise InputError(shown(path), f"too large ({size:,} bytes, expected at most {limit:,})")
        return read_exactly(fd, size, 0)


def read_exactly(fd: int, count: int, offset: int) -> bytes:
    """`count` bytes at `offset`; fewer at the end of the file."""
    pieces = []
    while count > 0 and (piece := os.pread(fd, min(count, 1 << 30), offset)):
        pieces.append(piece)
        count -= len(piece)
        offset += len(piece)
    return b"".join(pieces)


def sha256_of(paths: Iterable[Path]) -> str:
    """The sha256 of the concatenated contents of regular files, in hexadecimal."""
    hash = sha256()
    for path in paths:
        with open_regular(path) as fd:
            for start in range(0, os.fstat(fd).st_size, _CHUNK):
                hash.update(read_exactly(fd, _CHUNK, start))
    return hash.hexdigest()


def decode_utf8(data: bytes, path: object) -> str:
    """Decode strict UTF-8 and drop a byte-order mark; an error names the line and the byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise InputError(shown(path), f"line {line}: not UTF-8 (byte 0x{byte:02x})") from None


def _duplicate_key(line: int, key: str) -> str:
    return f'line {line}: duplicate key "{shown(key)}"'


def strict_json(
    text: str, path: object, duplicate: Callable[[int, str], str] = _duplicate_key
) -> Any:
    """Parse JSON, refusing duplicate keys, NaN and deep nesting.

    `duplicate` makes the message for a duplicate key of its line and name.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            raise _RefusedError(duplicate(*next(_duplicates(text))))
        return mapping

    def refuse(constant: str) -> NoReturn:
        raise _RefusedError(f"{constant} is not a JSON number")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}: not JSON ({shown(error.msg)})"
    except RecursionError:
        problem = "nested too deeply"
    except _RefusedError as error:
        problem = str(error)
    except ValueError:  # Python's limit against quadratic parsing time
        problem = "an integer has more than 4,300 digits"
    raise InputError(shown(path), problem)


class _RefusedError(ValueError):
    """JSON that Python accepts and we do not."""


def _duplicates(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of each duplicate key in valid JSON."""
    objects: list[set[str]] = []
    for match in _KEY_OR_BRACE.finditer(text):
        if match.group() == "{":
            objects.append(set())
        elif match.group() == "}":
            objects.pop()
        elif match["colon"]:
            key = json.loads(match["string"])  # "a" and "\u0061" are one key
            if key in objects[-1]:
                yield text.count("\n", 0, match.start()) + 1, key
            objects[-1].add(key)


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.errno == errno.ENXIO:
        return "not a regular file (socket)"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "not a usable file name"


def make_directory(directory: Path) -> None:
    """Create a directory and its parents if they do not exist.

    Raises:
        RunError: it cannot be created.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(shown(directory), f"cannot be created ({why})") from None


def require_empty_directory(output: Path) -> None:
    """Refuse an output directory that exists and is not empty.

    Raises:
        UsageError: it is not empty, or is a file.
        RunError: it cannot be listed.
    """
    try:
        filled = output.exists() and (not output.is_dir() or any(output.iterdir()))
    except OSError as error:
        raise RunError(shown(output), error.strerror or str(error)) from None
    if filled:
        hint = "Remove it, or name another"
        raise UsageError("output", f"{shown(output)} exists and is not empty", hint)


def write_atomically(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a temporary file beside `path`, fsync it and rename it to `path`.

    `content` is the bytes, or a function that writes the file at the path it is called with.

    Raises:
        RunError: the disk is full or the directory cannot be written; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.part")  # fixed, so that killed writers leave one file
    try:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)  # a rename is durable once its directory is
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        why = error.strerror or str(error)
        raise RunError(shown(path), f"cannot write ({why})", "An older file is unchanged") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(fd: int, path: Path) -> None:
    """Lock an open file or directory until it is closed.

    Does nothing on systems and file systems without locks.

    Raises:
        RunError: another process has locked it.
    """
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise RunError(shown(path), "another process is writing it") from None


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Context in which no other process can lock the directory.

    Raises:
        RunError: another process has locked it.
    """
    if os.name != "posix":  # a directory cannot be opened
        yield
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        lock(fd, path)
        yield
    finally:
        os.close(fd)
