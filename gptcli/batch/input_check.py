"""Recognise an input that is not JSON Lines, before each of its lines fails as a bad record.

A bad line fails only its own record. A whole input is refused only if its first two lines show that
it is another kind of file; one message then says what was found and what to do.
"""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

from gptcli.batch import openai
from gptcli.batch.io.lines import Line
from gptcli.core.errors import GptcliError, InputError
from gptcli.core.escape import described, listed, shown

_EXPECTED = "expected a JSON object on each line"


def check_first_lines(
    lines: Iterator[Line | None], name: str, *, ahead: bool
) -> Iterator[Line | None]:
    """The same lines, with the first ones checked to be records.

    With `ahead` two lines are read and checked now. Without it the first line is checked when it is
    read: whoever writes to a pipe may wait for an answer before writing more.

    Raises:
        InputError: they are not records; with `ahead`, this call itself raises it.
    """
    if not ahead:
        return _check_when_read(lines, name)
    read: list[Line | None] = []
    try:
        first, second = _next_filled(lines, read), _next_filled(lines, read)
    except GptcliError as problem:  # a truncated input: the lines before are answered first
        return chain(read, _raising(problem))
    _require_records(first, second, name)
    return chain(read, lines)


def hint_of(text: str) -> str:
    """What to do about a record that is not a JSON object; begins with a semicolon, or is empty."""
    text = text.lstrip()
    if text.startswith("["):
        return "; each record is an object on a line of its own"
    return "" if text.startswith("{") or not text else "; plain lines need --text"


def _raising(problem: GptcliError) -> Iterator[Line]:
    yield from ()
    raise problem


def _check_when_read(lines: Iterator[Line | None], name: str) -> Iterator[Line | None]:
    for line in lines:
        if line is not None and not line.is_blank:
            _require_records(line, None, name)
            yield line
            break
        yield line
    yield from lines


def _next_filled(lines: Iterator[Line | None], read: list[Line | None]) -> Line | None:
    """The next line that is not blank; every line on the way is appended to `read`."""
    for line in lines:
        read.append(line)
        if line is not None and not line.is_blank:
            return line
    return None


def _require_records(first: Line | None, second: Line | None, name: str) -> None:
    if first is None:
        return
    if first.data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(name, "UTF-16 (expected UTF-8)", "Convert it: iconv -f UTF-16 -t UTF-8")
    if first.data.startswith(b"PAR1"):
        raise InputError(name, f"a Parquet file ({_EXPECTED})", "Give it a name in .parquet")
    if not (start := _text(first)):
        return
    after = _text(second)
    if start.startswith("["):
        _refuse_array(start, name)
    if start.startswith("{"):
        _refuse_object(start, after, name)
    elif not after.startswith("{"):
        _refuse_values(start, name)


def _refuse_array(start: str, name: str) -> None:
    value = _value(start)
    has_texts = isinstance(value, list) and value and isinstance(value[0], str)
    program = ".[] | {prompt: .}" if has_texts else ".[]"
    raise InputError(name, f"a JSON array ({_EXPECTED})", f"Make lines of it: jq -c '{program}'")


def _refuse_values(start: str, name: str) -> None:
    value = _value(start)
    if isinstance(value, str):
        found = f"lines of JSON, each {described(value)}"
        raise InputError(
            name, f"{found} ({_EXPECTED})", "Make records of them: jq -c '{prompt: .}'"
        )
    found = f'plain text, "{shown(start, 40)}"'
    table = "; a table's name ends in .csv or .parquet" if "," in start else ""
    raise InputError(
        name, f"{found} ({_EXPECTED})", f"Read each line as a prompt with `text`{table}"
    )


def _refuse_object(start: str, after: str, name: str) -> None:
    first, second = _value(start), _value(after)
    if first is None and after and not after.startswith("{") and _is_cut(start):
        found = f"JSON spread over several lines ({_EXPECTED})"
        raise InputError(name, found, "Put each record on one line: jq -c .")
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return
    if all(_is_chat(record) for record in (first, second)):
        found = f'chat messages (expected a text, "prompt", as for {openai.URL})'
        raise InputError(name, found, "A GPT-2 has no chat template: write the prompt out")
    if not any(_has_prompt(record) for record in (first, second)):
        keys = listed([f'"{shown(key, 40)}"' for key in list(first)[:5]]) or "none"
        found = f'its records have no field "prompt" (found: {keys})'
        texts = (key for key, value in first.items() if isinstance(value, str) and key != "id")
        rename = next(texts, None)
        source = f".{rename}" if rename and rename.isidentifier() else "..."
        kept = "id, " if "id" in first else ""
        raise InputError(name, found, f"Rename it: jq -c '{{{kept}prompt: {source}}}'")


def _is_chat(record: dict[str, Any]) -> bool:
    body = record.get("body", record)
    return isinstance(body, dict) and "messages" in body and "prompt" not in body


def _has_prompt(record: dict[str, Any]) -> bool:
    return "prompt" in record or openai.is_request(record)


def _is_cut(text: str) -> bool:
    """Whether the text is the beginning of longer JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text.rstrip())
    except (ValueError, RecursionError):
        pass
    return False


def _text(line: Line | None) -> str:
    """A line as text without surrounding white space; "" if there is none, or it is not UTF-8."""
    try:
        return "" if line is None else line.data.decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""


def _value(text: str) -> Any:
    """The value of JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
