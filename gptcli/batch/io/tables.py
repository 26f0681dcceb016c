"""The rows of a CSV or Parquet file as lines of JSON: a prompt, and an id where there is a column.

Rows are numbered from 1, the CSV's header apart. CSV, plain or gzipped, is read by Python,
Parquet by pyarrow where it is installed. Knows no model and no torch.
"""

import csv
import json
import re
from collections.abc import Iterator
from importlib import import_module
from io import BufferedReader, RawIOBase, TextIOWrapper
from pathlib import PurePath
from typing import Any

from gptcli.batch.io.inputs import InputStream, is_url
from gptcli.batch.io.lines import MAX_LINE, EndsEarlyError, Line, made_line
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import listed, shown

SUFFIXES = (".csv", ".parquet")
_GZIPPED = ".gz"
_ID = "id"
# Characters of a CSV's line, which may have many columns: a gzip of a few MB can hold one of GBs.
_LONGEST = 4 * MAX_LINE


def is_table(name: str) -> bool:
    """Whether the name, a path or a URL, is that of a table."""
    return _suffix(name) in SUFFIXES


def input_lines(name: str, source: InputStream, column: str | None) -> Iterator[Line | None]:
    """The lines of an input in any form: a table if there is a column, else lines."""
    return source.lines() if column is None else rows(name, source, column)


def rows(name: str, source: InputStream, column: str) -> Iterator[Line]:
    """Each row as a line; `name` says which kind of table it is.

    Raises:
        InputError: no such column, or the file is not what its name says.
        UsageError: Parquet, and pyarrow is not installed.
        RunError: the file cannot be read to its end.
    """
    read = _csv if _suffix(name) == ".csv" else _parquet
    number = 0
    try:
        for number, (prompt, id) in enumerate(read(source, column), 1):
            record = {"prompt": prompt} if id is None else {_ID: id, "prompt": prompt}
            yield made_line(number, json.dumps(record, default=str).encode())
    except EndsEarlyError as problem:
        raise problem.after(f"row {number}", source.name) from None


def _suffix(name: str) -> str:
    """That of the table: of `a.csv.gz`, whose bytes say themselves that they are gzip, `.csv`."""
    path = re.split("[?#]", name)[0] if is_url(name) else name
    return PurePath(path.lower().removesuffix(_GZIPPED)).suffix


class _Raw(RawIOBase):
    """Pieces of any size as Python's text files want their bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill some of a buffer."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _csv(source: InputStream, column: str) -> Iterator[tuple[Any, Any]]:
    csv.field_size_limit(MAX_LINE)
    # What is not UTF-8 becomes lone surrogates, which fail their own record only.
    file = TextIOWrapper(
        BufferedReader(_Raw(source.plain())),
        encoding="utf-8-sig",
        errors="surrogateescape",
        newline="",
    )
    try:
        reader = csv.reader(_bounded(file))
        names = next(reader, [])
        _require(source, column, names)
        prompt, id = names.index(column), names.index(_ID) if _ID in names else None
        for row in reader:
            if row:  # a blank line is no row
                yield _cell(row, prompt), None if id is None else _cell(row, id)
    except csv.Error as error:
        raise InputError(source.name, f"not CSV ({shown(error)})") from None


def _bounded(file: TextIOWrapper) -> Iterator[str]:
    """The lines of a file, with their ends; none that would take all memory."""
    while line := file.readline(_LONGEST + 1):
        if len(line) > _LONGEST and line[-1] not in "\r\n":
            raise csv.Error(f"a line is longer than {_LONGEST:,} characters")
        yield line


def _cell(row: list[str], index: int) -> str | None:
    return row[index] if index < len(row) else None


def _parquet(source: InputStream, column: str) -> Iterator[tuple[Any, Any]]:
    try:
        parquet: Any = import_module("pyarrow.parquet")
        refusals = (OSError, import_module("pyarrow").ArrowException)
    except ImportError:
        hint = "Run \"pip install 'gptcli[parquet]'\", or convert the file to JSON Lines or CSV"
        raise UsageError(
            source.name, "Parquet needs pyarrow, which is not installed", hint
        ) from None
    try:
        with source.reopen() as stored, parquet.ParquetFile(stored) as file:
            names = file.schema_arrow.names
            _require(source, column, names)
            wanted = [column, _ID] if _ID in names and column != _ID else [column]
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for row in batch.to_pylist():
                    yield row[column], row.get(_ID)
    except refusals as error:
        raise InputError(source.name, f"cannot be read ({shown(error)})") from None


def _require(source: InputStream, column: str, names: list[str]) -> None:
    if column not in names:
        found = listed(names) or "none"
        raise InputError(
            source.name, f'no column "{shown(column)}" (found: {found})', "Name it with --column"
        )
