"""Option fields: dataclass fields that declare their help and limits.

    top_k: Annotated[int | None, Option("Keep the K best tokens.", short="-k", ge=1)] = None

The dataclass validates itself with `check(self)`, and `gptcli.cli.command` makes a command line
option of the same declaration. Errors name the field (`top_k`), the command line the option
(`--top-k`).
"""

import math
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from gptcli.core.errors import UsageError
from gptcli.core.escape import described, shown
from gptcli.core.suggest import did_you_mean, nearest

_Made = TypeVar("_Made")

SEEDS = 2**64  # seeds are 64-bit unsigned integers


@dataclass(frozen=True, slots=True)
class Option:
    """Help and limits of an option, beside the type and default of its field.

    Attributes:
        help: one sentence.
        panel: the group in the help that lists it.
        short: further names, such as `-k`.
        metavar: name of the value in the help.
        name: of the option without dashes, if it is not the field's name.
        ge, gt, le, lt: limits of a number.
        parse: makes the value (of a list, one item) of the text; raises UsageError.
        default: the default as the help shows it, if it is not the field's default.
        suffixes: of the files that shell completion lists.
    """

    help: str
    panel: str | None = None
    short: str | tuple[str, ...] = ()
    metavar: str | None = None
    name: str | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    parse: Callable[[str], Any] | None = None
    default: str | None = None
    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Argument(Option):
    """A positional argument of a command; the command line's errors name its metavar."""


@dataclass(frozen=True, slots=True)
class OptionField:
    """An option with its name, type and default.

    Attributes:
        name: of the field.
        option: its declaration.
        kind: bool, int, float, str or Path; object if `option.parse` makes the value.
        choices: of a Literal; empty for other types.
        is_optional: whether it may be None.
        is_list: whether it is a tuple of values.
        default: MISSING if a value is required.
    """

    name: str
    option: Option
    kind: type
    choices: tuple[str, ...]
    is_optional: bool
    is_list: bool
    default: Any

    @classmethod
    def of(cls, name: str, annotation: Any, default: Any) -> "OptionField | None":
        """The option that an annotation declares; None for one without an `Option`."""
        plain, *marks = get_args(annotation) if _is_annotated(annotation) else (annotation,)
        option = next((mark for mark in marks if isinstance(mark, Option)), None)
        if option is None:
            return None
        plain, is_optional = _without_none(plain)
        is_list = get_origin(plain) is tuple
        if is_list:
            plain = get_args(plain)[0]
        choices = get_args(plain) if get_origin(plain) is Literal else ()
        kind = str if choices else plain
        if option.parse is not None or kind not in _TYPE_WORDS:
            kind = object
        return cls(name, option, kind, choices, is_optional, is_list, default)

    @property
    def words(self) -> str:
        """What a value must be: `an integer >= 1`."""
        if self.choices:
            return " or ".join(self.choices)
        option = self.option
        limits = [("> ", option.gt), (">= ", option.ge), ("< ", option.lt), ("<= ", option.le)]
        ends = [sign + _number(limit) for sign, limit in limits if limit is not None]
        is_open = option.le is None and option.lt is None
        words = "a finite number" if self.kind is float and is_open else _TYPE_WORDS[self.kind]
        return f"{words} {' and '.join(ends)}" if ends else words

    def check(self, value: object) -> None:
        """Check the type and limits of a value.

        Raises:
            UsageError: it is of another type or out of range.
        """
        if value is None and self.is_optional:
            return
        items: Any = value if self.is_list else (value,)
        if not isinstance(items, list | tuple):
            raise UsageError(self.name, f"must be a list, got {described(value)}")
        if self.kind is object:
            return
        for item in items:
            if not self._holds(item):
                raise UsageError(self.name, f"must be {self.words}, got {self._found(item)}")

    def _found(self, value: object) -> str:
        if self.choices and isinstance(value, str):
            return f'"{shown(value, 60)}"'
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return shown(value) if is_number else described(value)

    def _holds(self, value: Any) -> bool:
        right: Any = (int, float) if self.kind is float else self.kind
        if not isinstance(value, right) or isinstance(value, bool) is not (self.kind is bool):
            return False
        if self.choices:
            return value in self.choices
        return self.kind not in {int, float} or self._is_within(value)

    def _is_within(self, number: float) -> bool:
        option = self.option
        return (
            math.isfinite(number)
            and (option.gt is None or number > option.gt)
            and (option.ge is None or number >= option.ge)
            and (option.le is None or number <= option.le)
            and (option.lt is None or number < option.lt)
        )


def check(instance: Any) -> None:
    """Check every option field of a dataclass instance; called by its `__post_init__`.

    Raises:
        UsageError: a value is of the wrong type or out of range; `where` is the field's name.
    """
    cls: Any = type(instance)
    for field in option_fields(cls):
        field.check(getattr(instance, field.name))


def check_value(name: str, annotation: Any, value: object) -> None:
    """Check one argument of a function against its annotation.

    Raises:
        UsageError: as `check`; `where` is `name`.
    """
    field = OptionField.of(name, annotation, MISSING)
    assert field is not None, f"{name} is no option"
    field.check(value)


def make(cls: type[_Made], **values: Any) -> _Made:
    """`cls(**values)`, with an error that suggests the nearest field for an unknown one.

    Raises:
        UsageError: as `check`; or a field does not exist.
    """
    known: Any = cls
    names = [field.name for field in fields(known)]
    for name in values:
        if name not in names:
            raise UsageError(name, "no such field", did_you_mean(nearest(name, names)))
    return cls(**values)


@cache
def option_fields(cls: Any) -> tuple[OptionField, ...]:
    """The fields of a dataclass that declare an option, in order."""
    return tuple(_option_fields(cls))


def _option_fields(cls: Any) -> Iterator[OptionField]:
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if (found := OptionField.of(field.name, hints[field.name], default)) is not None:
            yield found


_TYPE_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "a path",
}


def _is_annotated(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) not in {Union, types.UnionType}:
        return annotation, False
    others = [part for part in get_args(annotation) if part is not type(None)]
    return (others[0] if len(others) == 1 else object), len(others) < len(get_args(annotation))


def _number(limit: float) -> str:
    return "2^64" if limit == SEEDS else f"{limit:g}" if abs(limit) < 1e4 else f"{limit:,.0f}"
