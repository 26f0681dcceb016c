"""Files that are there whole or not at all. Knows no format."""

import os
from contextlib import suppress
from pathlib import Path

from gptcli.core.errors import RunError
from gptcli.core.escape import shown


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, make it durable, then put it in the place of what was there.

    Raises:
        RunError: the disk is full or the directory cannot be written; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.part")  # one name: a killed writer leaves one at most
    try:
        _write(temporary, data)
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        why = error.strerror or str(error)
        raise RunError(
            shown(path), f"cannot write ({why})", "What was there is unchanged"
        ) from None


def _write(path: Path, data: bytes) -> None:
    view = memoryview(data)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        while view:
            view = view[os.write(descriptor, view[: 1 << 30]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    """A rename is durable once its directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
