"""Reading an output that is there. Changes nothing; knows no model and no input."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptcli.batch.io.journal import whole_lines
from gptcli.batch.result_lines import HEADER_BEGINS, Done, read_header, read_result
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.core.files import open_regular, read_exactly

_MAX_HEADER = 1 << 24


def recorded_header(path: Path) -> dict[str, Any] | None:
    """The header of an output that is there; None if there is none, or not even a header.

    Raises:
        InputError: it is something else.
    """
    if not os.path.lexists(path) or is_stream(path):
        return None
    with open_regular(path) as fd:
        data = read_exactly(fd, _MAX_HEADER, 0)
    first, newline, _ = data.partition(b"\n")
    if newline:
        return read_header(first, shown(path))
    if not may_be_torn_header(first):
        raise InputError(shown(path), "not an output of gptcli batch")
    return None


@contextmanager
def read_output(path: Path) -> Iterator[tuple[dict[str, Any], Iterator[Done]]]:
    """The header and the records of an output, only read.

    Raises:
        InputError: it is none.
    """
    with open_regular(path) as fd:
        lines = whole_lines(fd)
        first = next(lines, (b"", 0))[0]
        yield read_header(first, shown(path)), results(lines, shown(path), lambda _end: None)


def results(
    lines: Iterator[tuple[bytes, int]], name: str, keep: Callable[[int], object]
) -> Iterator[Done]:
    """The records of an output after its header; `keep` is told where each one ends.

    A last line that is damaged is left out, as a crash may leave one.

    Raises:
        InputError: a line before the last is none of ours.
    """
    number, before = 1, 0
    for data, end in lines:
        number += 1
        result = read_result(data)
        if result is None or result.line <= before:
            if result is None and next(lines, None) is None:
                return
            raise InputError(name, f"line {number} is not a gptcli record in its place")
        before = result.line
        keep(end)
        yield result


def may_be_torn_header(data: bytes) -> bool:
    """Whether a crash may have left this of a header, or nothing at all."""
    return data.startswith(HEADER_BEGINS) or HEADER_BEGINS.startswith(data)


def is_stream(path: Path) -> bool:
    """Whether there is something that is no regular file: a pipe, a terminal, /dev/null."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISDIR(mode):
        raise UsageError("--output", f"{shown(path)} is a directory")
    return not stat.S_ISREG(mode)
