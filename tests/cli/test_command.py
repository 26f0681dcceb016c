"""Option dataclasses as commands: names, values, objects and where a value came from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from gptcli.cli.command import CommandFunction, Only, Without, was_given
from gptcli.core.errors import UsageError
from gptcli.core.options import Argument, Option, check


def doubled(text: str) -> int:
    if not text.isdecimal():
        raise UsageError("sizes", "is no number")
    return 2 * int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    share: Annotated[float, Option("A share.", short="-s", ge=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    output: Annotated[Path, Option("A file.", short=("-o", "--out"))]
    kind: Annotated[Literal["one", "two"] | None, Option("A choice.")] = None
    check_ids: Annotated[bool, Option("Compare.", name="id-check")] = True
    sizes: Annotated[tuple[int, ...], Option("Sizes.", parse=doubled)] = ()
    hidden: int = 7

    def __post_init__(self) -> None:
        check(self)
        if self.inner.share == 1 and self.kind:
            raise UsageError("kind", "goes with `share=0.5`")


def run(function: Any, *arguments: str) -> Any:
    opened = CommandFunction(function)
    app = typer.Typer(add_completion=False)
    app.command("thing")(opened)
    command: Any = typer.main.get_command(app)
    opened.adjust(command)
    return command.main(
        list(arguments), "thing", standalone_mode=False, auto_envvar_prefix="TEST_THING"
    )


def take(
    context: typer.Context, outer: Outer, name: Annotated[str, Argument("A name.", metavar="NAME")]
) -> Any:
    return outer, name, was_given(context, "share")


def test_the_command_gets_the_objects() -> None:
    outer, name, given = run(
        take, "x", "-o", "f", "--share", "0.25", "--sizes", "2", "--sizes", "3", "--no-id-check"
    )
    assert outer == Outer(inner=Inner(share=0.25), output=Path("f"), sizes=(4, 6), check_ids=False)
    assert (name, given) == ("x", True)


def test_defaults_are_those_of_the_fields() -> None:
    assert run(take, "x", "--out", "f") == (Outer(output=Path("f")), "x", False)


def test_the_environment_gives_what_the_command_line_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_THING_SHARE", "1")
    monkeypatch.setenv("TEST_THING_SIZES", "1\n2")
    monkeypatch.setenv("TEST_THING_ID_CHECK", "off")
    outer, _, given = run(take, "x", "-o", "f")
    assert (outer.inner.share, outer.sizes, outer.check_ids, given) == (1.0, (2, 4), False, True)
    assert run(take, "x", "-o", "f", "-s", "0")[0].inner.share == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "f"], 'NAME: is missing. See "thing --help"'),
        (["x"], '--output: is missing. See "thing --help"'),
        (["x", "-o", "f", "-s", "half"], '--share: must be a number >= 0 and <= 1, got "half"'),
        (["x", "-o", "f", "-s", "2"], "--share: must be a number >= 0 and <= 1, got 2.0"),
        (["x", "-o", "f", "--kind", "3"], '--kind: must be one or two, got "3"'),
        (["x", "-o", "f", "--sizes", "a"], "--sizes: is no number"),
        (["x", "-o", "f", "-s", "1", "--kind", "one"], "--kind: goes with --share 0.5"),
    ],
)
def test_errors_spell_the_options(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(take, *arguments)
    assert str(caught.value) == message


def test_errors_name_the_variable_that_a_value_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_THING_SHARE", "1")
    for kind, message in (
        ("one", "--kind: goes with TEST_THING_SHARE=0.5"),
        ("", '--kind: must be one or two, got ""'),
    ):
        with pytest.raises(UsageError) as caught:
            run(take, "x", "-o", "f", "--kind", kind)
        assert str(caught.value) == message
    monkeypatch.setenv("TEST_THING_SHARE", "half")
    with pytest.raises(UsageError, match=r"^TEST_THING_SHARE: must be a number"):
        run(take, "x", "-o", "f")


def test_a_command_can_leave_options_out() -> None:
    def some(outer: Annotated[Outer, Only("output", "kind")]) -> Outer:
        return outer

    def most(outer: Annotated[Outer, Without("inner")]) -> Outer:
        return outer

    assert set(CommandFunction(some).fields) == {"output", "kind"}
    assert set(CommandFunction(most).fields) == {"output", "kind", "id_check", "sizes"}
    assert run(some, "-o", "f", "--kind", "two") == Outer(output=Path("f"), kind="two")


def test_two_options_of_one_name_are_refused() -> None:
    def twice(a: Inner, b: Inner) -> None:
        raise AssertionError(a, b)

    with pytest.raises(AssertionError, match="declared twice"):
        CommandFunction(twice)
