"""The rows of a CSV or Parquet file as lines of JSON: a prompt, and an id where there is a column.

Rows are numbered from 1, the CSV's header apart. CSV is read by Python, Parquet by pyarrow where
it is installed. Knows no model and no torch.
"""

import csv
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from gptcli.errors import InputError, UsageError
from gptcli.escape import listed, shown
from gptcli.lines import MAX_LINE, Line, Source, made_line

SUFFIXES = (".csv", ".parquet")
_ID = "id"


def is_table(path: Path | None) -> bool:
    """Whether the name is that of a table."""
    return path is not None and path.suffix.lower() in SUFFIXES


def input_lines(path: Path | None, source: Source, column: str | None) -> Iterator[Line | None]:
    """The lines of an input in any form: a table if there is a column, else lines."""
    if path is not None and column is not None:
        return rows(path, column)
    return source.lines()


def rows(path: Path, column: str) -> Iterator[Line]:
    """Each row as a line.

    Raises:
        InputError: no such column, or the file is not what its name says.
        UsageError: Parquet, and pyarrow is not installed.
    """
    read = _csv if path.suffix.lower() == ".csv" else _parquet
    for number, (prompt, id) in enumerate(read(path, column), 1):
        record = {"prompt": prompt} if id is None else {_ID: id, "prompt": prompt}
        yield made_line(number, json.dumps(record, default=str).encode())


def _csv(path: Path, column: str) -> Iterator[tuple[Any, Any]]:
    csv.field_size_limit(MAX_LINE)
    try:
        # What is not UTF-8 becomes lone surrogates, which fail their own record only.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            names = next(reader, [])
            _require(path, column, names)
            prompt, id = names.index(column), names.index(_ID) if _ID in names else None
            for row in reader:
                if row:  # a blank line is no row
                    yield _cell(row, prompt), None if id is None else _cell(row, id)
    except OSError as error:
        raise InputError(shown(path), f"cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise InputError(shown(path), f"not CSV ({shown(error)})") from None


def _cell(row: list[str], index: int) -> str | None:
    return row[index] if index < len(row) else None


def _parquet(path: Path, column: str) -> Iterator[tuple[Any, Any]]:
    try:
        parquet: Any = import_module("pyarrow.parquet")
        refusals = (OSError, import_module("pyarrow").ArrowException)
    except ImportError:
        hint = "Run \"pip install 'gptcli[parquet]'\", or convert the file to JSON Lines or CSV"
        raise UsageError(
            shown(path), "Parquet needs pyarrow, which is not installed", hint
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _require(path, column, names)
            wanted = [column, _ID] if _ID in names and column != _ID else [column]
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for row in batch.to_pylist():
                    yield row[column], row.get(_ID)
    except refusals as error:
        raise InputError(shown(path), f"cannot be read ({shown(error)})") from None


def _require(path: Path, column: str, names: list[str]) -> None:
    if column not in names:
        found = listed(names) or "none"
        raise InputError(
            shown(path), f'no column "{shown(column)}" (found: {found})', "Name it with --column"
        )
