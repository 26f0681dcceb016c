"""Read the rows of a CSV or Parquet file as JSON lines: a prompt, and an id if it has that column.

Rows are numbered from 1, without the CSV's header. Python reads CSV, plain or gzip; pyarrow, which
is an extra, reads Parquet.
"""

import csv
import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from importlib import import_module
from pathlib import PurePath
from typing import Any

from gptcli.batch.io.inputs import InputStream, is_url
from gptcli.batch.io.lines import MAX_LINE, Line, TruncatedInputError, line_of
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import listed, shown

Row = tuple[Any, Any] | None  # prompt and id; None: the next is not here yet
SUFFIXES = (".csv", ".parquet")
_GZIPPED = ".gz"
_ID = "id"
_LINE_END = re.compile(r"\r\n|\r|\n")
# Characters of a CSV's line, which may have many columns: a gzip of a few MB can hold one of GBs.
_MAX_CSV_LINE = 4 * MAX_LINE


def is_table(name: str) -> bool:
    """Whether a path or URL names a table."""
    return _suffix(name) in SUFFIXES


def input_lines(name: str, source: InputStream, column: str | None) -> Iterator[Line | None]:
    """The lines of an input; with a `column`, the rows of a table."""
    return source.lines() if column is None else rows(name, source, column)


def rows(name: str, source: InputStream, column: str) -> Iterator[Line | None]:
    """Each row as a line of JSON; `name` says which kind of table it is. None: not here yet.

    Raises:
        InputError: no such column, or the file is not what its name says.
        UsageError: Parquet, and pyarrow is not installed.
        RunError: the file cannot be read to its end.
    """
    read = _csv if _suffix(name) == ".csv" else _parquet
    number = 0
    try:
        for row in read(source, column):
            if row is None:
                yield None
                continue
            number, (prompt, id) = number + 1, row
            record = {"prompt": prompt} if id is None else {_ID: id, "prompt": prompt}
            yield line_of(number, json.dumps(record, default=str).encode())
    except TruncatedInputError as problem:
        raise problem.after(f"row {number}", source.name) from None


def _suffix(name: str) -> str:
    """The suffix of a table's name, in lower case and without `.gz`, which the bytes tell."""
    path = re.split("[?#]", name)[0] if is_url(name) else name
    return PurePath(path.lower().removesuffix(_GZIPPED)).suffix


class _NotYetError(Exception):
    """The next line of a CSV is not here yet."""


class _RowLines:
    """The lines of a CSV for `csv.reader`, which can read a row again after `_NotYetError`.

    The reader forgets the lines of a row that it could not finish, so they are kept here.
    """

    def __init__(self, lines: Iterator[str | None]) -> None:
        self._lines = lines
        self._row: list[str] = []
        self._at = 0

    def __iter__(self) -> "_RowLines":
        return self

    def __next__(self) -> str:
        if self._at == len(self._row):
            if (line := next(self._lines)) is None:
                self._at = 0
                raise _NotYetError
            self._row.append(line)
        self._at += 1
        return self._row[self._at - 1]

    def forget(self) -> None:
        """Drop the lines of a finished row."""
        self._row, self._at = [], 0


def _csv(source: InputStream, column: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE)
    try:
        found = _csv_rows(source)
        names = next((row for row in found if row is not None), [])
        _require(source, column, names)
        prompt, id = names.index(column), names.index(_ID) if _ID in names else None
        for row in found:
            if row is None:
                yield None
            elif row:  # a blank line is no row
                yield _cell(row, prompt), None if id is None else _cell(row, id)
    except csv.Error as error:
        raise InputError(source.name, f"not CSV ({shown(error)})") from None


def _csv_rows(source: InputStream) -> Iterator[list[str] | None]:
    lines = _RowLines(_text_lines(source.content()))
    reader = csv.reader(lines)
    while True:
        try:
            row = next(reader)
        except _NotYetError:
            yield None
        except StopIteration:
            return
        else:
            lines.forget()
            yield row


def _text_lines(pieces: Iterator[bytes | None]) -> Iterator[str | None]:
    """Bytes → lines with their line ends, which in CSV are CR, LF or CR LF.

    Bytes that are not UTF-8 become lone surrogates, which fail their own record only. A line that
    could fill the memory is refused.
    """
    decoder = getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
    begun: list[str] = []  # parts of a line whose end has not come yet
    size = 0  # their characters
    held = ""  # a final CR: it may be half of a CR LF
    for piece in pieces:
        if piece is None:
            yield None
            continue
        text = held + decoder.decode(piece)
        held = "\r" if text.endswith("\r") else ""
        text, start = text.removesuffix(held), 0
        for end in _LINE_END.finditer(text):
            yield "".join([*begun, text[start : end.end()]])
            begun, size, start = [], 0, end.end()
        begun.append(text[start:])
        size += len(text) - start
        if size > _MAX_CSV_LINE:
            raise csv.Error(f"a line is longer than {_MAX_CSV_LINE:,} characters")
    last, more = "".join([*begun, held]), decoder.decode(b"", final=True)
    yield from filter(None, (last, more) if held else (last + more,))


def _cell(row: list[str], index: int) -> str | None:
    return row[index] if index < len(row) else None


def _parquet(source: InputStream, column: str) -> Iterator[Row]:
    if source.size is None:
        raise InputError(source.name, "a pipe (expected a file: Parquet is read from its end)")
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
            source.name, f'no column "{shown(column)}" (found: {found})', "Name it with `column`"
        )
