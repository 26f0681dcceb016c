"""Option fields: types, limits and the words of their errors."""

from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from gptcli.core.errors import InputError, RunError, UsageError, rename_fields
from gptcli.core.options import SEEDS, Option, check, option_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    flag: Annotated[bool, Option("A flag.")] = False
    count: Annotated[int | None, Option("A count.", ge=1)] = None
    seed: Annotated[int, Option("A seed.", ge=0, lt=SEEDS)] = 0
    share: Annotated[float, Option("A share.", gt=0, le=1)] = 1.0
    factor: Annotated[float, Option("Anything finite.")] = 1.0
    kind: Annotated[Literal["one", "two"], Option("A choice.")] = "one"
    path: Annotated[Path | None, Option("A file.")] = None
    words: Annotated[tuple[str, ...], Option("Texts.")] = ()
    pairs: Annotated[tuple[tuple[int, int], ...], Option("Pairs.", parse=eval)] = ()
    plain: object = None

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flag", True), ("count", 1), ("count", None), ("seed", 2**64 - 1), ("share", 1),
        ("share", 1e-9), ("factor", -3), ("kind", "two"), ("path", Path("a")), ("words", ("a",)),
        ("words", ["a"]), ("pairs", ((1, 2),)), ("plain", 3),
    ],
)  # fmt: skip
def test_values_in_range_are_taken(name: str, value: object) -> None:
    assert getattr(Thing(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("flag", 1, "must be true or false, got 1"),
        ("flag", None, "must be true or false, got nothing"),
        ("count", 0, "must be an integer >= 1, got 0"),
        ("count", 1.0, "must be an integer >= 1, got 1.0"),
        ("count", True, "must be an integer >= 1, got true"),
        ("count", "5", 'must be an integer >= 1, got the text "5"'),
        ("count", [5], "must be an integer >= 1, got a list"),
        ("seed", 2**64, f"must be an integer >= 0 and < 2^64, got {2**64}"),
        ("share", 0, "must be a number > 0 and <= 1, got 0"),
        ("share", nan, "must be a number > 0 and <= 1, got nan"),
        ("factor", inf, "must be a finite number, got inf"),
        ("factor", None, "must be a finite number, got nothing"),
        ("kind", "three", 'must be one or two, got "three"'),
        ("kind", 1, "must be one or two, got 1"),
        ("path", "a", 'must be a path, got the text "a"'),
        ("words", "a", 'must be a list, got the text "a"'),
        ("words", ("a", 2), "must be a text, got 2"),
        ("pairs", 2, "must be a list, got the number 2"),
        ("words", object(), "must be a list, got a value of type object"),
    ],
)
def test_other_values_are_usage_errors_with_the_field_and_what_was_found(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Thing(**{name: value})
    assert str(caught.value) == f"{name}: {message}"


def test_only_fields_that_declare_an_option_are_options() -> None:
    assert [field.name for field in option_fields(Thing)][-1] == "pairs"


def test_spelling_changes_fields_and_nothing_else() -> None:
    names = {"top_p": "--top-p", "dtype": "--dtype", "model": "--model"}
    error = rename_fields(
        UsageError("top_p", "is too much beside `top_p`", "Try `dtype=float32`"), names
    )
    assert str(error) == "--top-p: is too much beside --top-p. Try --dtype float32"
    assert isinstance(error, UsageError)
    file = rename_fields(InputError("model", "has no `nothing`, and top_p"), names)
    assert str(file) == "model: has no `nothing`, and top_p"
    assert str(rename_fields(RunError("`dtype`", "is slow"), names)) == "--dtype: is slow"
