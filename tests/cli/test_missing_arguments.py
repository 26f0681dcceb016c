"""No command ends without a word: every required argument missing, every option without a value."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from gptcli import cli
from gptcli.cli.app import COMMANDS, command_line

GROUP = command_line()


def parameters(name: str) -> list[Any]:
    return list(GROUP.get_command(None, name).params)


def given(required: list[Any]) -> list[str]:
    """Each of these parameters with a value."""
    return [
        word for each in required for word in ([each.opts[0], "x"] if _is_option(each) else "x")
    ]


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def invocations() -> Iterator[list[str]]:
    """Command lines that lack something, from the commands themselves."""
    yield []
    for name in COMMANDS:
        required = [each for each in parameters(name) if each.required]
        for count in range(len(required)):
            for some in combinations(required, count):
                yield [name, *given(list(some))]
        for option in filter(_is_option, parameters(name)):
            if not option.is_flag:
                for spelling in option.opts:
                    yield [name, *given(required), spelling]
        yield [name, *given(required), "--no-such-option"]


ALL = list(invocations())


@pytest.mark.parametrize("arguments", ALL, ids=" ".join)
def test_what_lacks_something_is_one_line_and_exit_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("gptcli: error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == "" or not arguments  # the help, where there is no command


def test_every_command_is_tried() -> None:
    assert {arguments[0] for arguments in ALL if arguments} == set(COMMANDS)
    assert len(ALL) > 150


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_environment_variable(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([name, "--help-env"]) == 0
    listed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    for option in filter(_is_option, parameters(name)):
        long = max(option.opts, key=len)
        variable = f"GPTCLI_{name}_{long.removeprefix('--')}".upper().replace("-", "_")
        if long != "--help-env":
            assert listed.pop(variable) == long
    assert not listed


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["generate", "--temp", "1"], "--temperature"),
        (["generate", "--topk", "1"], "--top-k"),
        (["generate", "--top_p", "1"], "--top-p"),
        (["generate", "--max-length", "1"], "--max-new-tokens"),
        (["generate", "--max-tokens", "1"], "--max-new-tokens"),
        (["batch", "--max_tokens", "1"], "--max-new-tokens"),
        (["generate", "--num-beams=2"], "--beams"),
        (["generate", "--no-repeat-ngram-size=2"], "--no-repeat-ngram"),
        (["generate", "--no-ech"], "--no-echo"),
        (["train", "--learning-rate", "1"], "--lr"),
        (["gen", "x"], '"gptcli generate"'),
        (["params"], '"gptcli count-params"'),
        (["finetune", "x"], '"gptcli train"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_the_first_suggestion_is_the_right_one(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err.endswith(f"Did you mean {hint}?\n")
