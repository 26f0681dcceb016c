"""Read untrusted YAML: one small document without anchors, tags and merge keys.

The parser's events are checked before values are built, so that what is refused has no effect.
Scalars are as in YAML 1.2: numbers as in JSON, booleans `true` and `false`; `yes`, `010`, `1_000`,
`1:30` and dates are text.
"""

import re
from collections.abc import Iterator
from typing import NoReturn

import yaml

from gptcli.core.errors import InputError
from gptcli.core.escape import shown

MAX_DEPTH = 4
MAX_NODES = 200

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CONSTANTS: dict[str, bool | None] = {
    "true": True, "false": False, "null": None, "~": None, "": None,
}  # fmt: skip


def parse_yaml(text: str, source: object) -> object:
    """The one document of `text` as dicts with text keys, lists, text, numbers, booleans, None.

    Raises:
        InputError: not YAML, or YAML beyond the plain subset; names `source` and the line.
    """
    try:
        events = list(_plain_events(yaml.parse(text, Loader=yaml.SafeLoader)))
        return _Builder(events).value() if events else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = f"line {line}: not YAML ({shown(error.problem)})"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"line {line}: not YAML (character {shown(chr(error.character))})"
    except _RefusedError as error:
        problem = str(error)
    except (ValueError, OverflowError):  # PyYAML, of a character escape or a version
        problem = "not YAML (a character escape or a version is out of range)"
    raise InputError(shown(source), problem)


class _RefusedError(Exception):
    """YAML outside the supported subset."""


def _plain_events(
    events: Iterator[yaml.Event],
) -> Iterator[yaml.NodeEvent | yaml.CollectionEndEvent]:
    """The events of the only document; refuses what is unsupported, too deep or too long."""
    depth = nodes = documents = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                _refuse(event, "a second YAML document; expected one")
            if event.tags:
                _refuse(event, "YAML tags are not supported")
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            depth += isinstance(event, yaml.CollectionStartEvent)
            _check_node(event, depth, nodes)
            yield event
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            yield event


def _check_node(event: yaml.NodeEvent, depth: int, nodes: int) -> None:
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        _refuse(event, "YAML anchors and aliases are not supported")
    if getattr(event, "tag", None) is not None:
        _refuse(event, "YAML tags are not supported")
    if depth > MAX_DEPTH:
        _refuse(event, f"nested too deeply (expected at most {MAX_DEPTH} levels)")
    if nodes > MAX_NODES:
        _refuse(event, f"too many values (expected at most {MAX_NODES})")


def _refuse(event: yaml.Event, problem: str) -> NoReturn:
    line = event.start_mark.line + 1 if event.start_mark else 1
    raise _RefusedError(f"line {line}: {problem}")


class _Builder:
    """Build values from checked events, recursing at most MAX_DEPTH deep."""

    def __init__(self, events: list[yaml.NodeEvent | yaml.CollectionEndEvent]) -> None:
        self._events = iter(events)

    def value(self) -> object:
        return self._of(next(self._events))

    def _of(self, event: yaml.Event) -> object:
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping()
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence()
        assert isinstance(event, yaml.ScalarEvent)
        return _scalar(event)

    def _mapping(self) -> dict[str, object]:
        mapping: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = _key(event)
            if key in mapping:
                _refuse(event, f'duplicate key "{shown(key)}"')
            mapping[key] = self.value()
        return mapping

    def _sequence(self) -> list[object]:
        values = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._of(event))
        return values


def _key(event: yaml.Event) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        _refuse(event, "a key is not text")
    if event.value == "<<" and event.implicit[0]:
        _refuse(event, "YAML merge keys are not supported")
    key = _scalar(event)
    if not isinstance(key, str):
        _refuse(event, f"the key {shown(event.value) or 'of no characters'} is not text")
    return key


def _scalar(event: yaml.ScalarEvent) -> object:
    """A plain scalar as in JSON, otherwise as text; quoted and block scalars are text."""
    text = event.value
    if not event.implicit[0]:  # quoted, or a block scalar
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return _integer(event)
    return float(text) if _NUMBER.fullmatch(text) else text


def _integer(event: yaml.ScalarEvent) -> int:
    try:
        return int(event.value)
    except ValueError:  # Python's limit of 4,300 digits, against quadratic parsing time
        _refuse(event, f"an integer of {len(event.value):,} digits")
