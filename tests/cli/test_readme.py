"""The README tells the truth: its commands run and print what it says."""

import re
from pathlib import Path

import pytest
import readme

TEXT = readme.README.read_text(encoding="utf-8")
BLOCKS = readme.parse(TEXT)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name[:60])
def test_the_commands_print_what_the_readme_says(
    block: readme.Block, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if lacking := readme.missing(block.needs):
        pytest.skip(f"needs {', '.join(sorted(lacking))}")
    environment = {}
    if "gpt2-bpe" in block.needs:
        environment["TIKTOKEN_CACHE_DIR"] = str(request.getfixturevalue("tiktoken_cache"))
    results = readme.run(block, tmp_path, environment)
    assert not block.problem(results)
    for command, (_, output) in zip(block.commands, results, strict=True):
        assert command.prints(output), f"$ {command.line}\n{output}"


@pytest.mark.parametrize("number", range(2))
def test_the_python_runs(number: int) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)[number]
    if "load()" in code and readme.missing(frozenset({"stories"})):
        pytest.skip("needs stories")
    exec(code, {})  # the README's own lines


def test_there_are_commands_to_run() -> None:
    assert len(BLOCKS) > 5


def test_every_command_is_in_the_table() -> None:
    from gptcli.cli.app import command

    group = command()
    for name in group.list_commands(None):
        assert f"\n| `{name}" in TEXT, f"the table of commands lacks {name}"


def test_a_wildcard_stands_for_lines_or_a_part_of_one() -> None:
    command = readme.Command("x", "a ... b\n...\nend\n")
    assert command.prints("a 1 b\n2\n3\nend\n")
    assert command.prints("a  b\nend\n")
    assert not command.prints("a 1 c\nend\n")
    assert not command.prints("a 1 b\n2\n")


def test_a_number_may_be_off_by_one_in_its_last_place() -> None:
    command = readme.Command("x", "1.25 and 300\n")
    assert command.prints("1.25 and 300\n")
    assert command.prints("1.26 and 300\n")
    assert not command.prints("1.27 and 300\n")
    assert not command.prints("1.3 and 300\n")
    assert not command.prints("1.25 and 301\n")
