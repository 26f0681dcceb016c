"""README.md and docs/*.md tell the truth: their commands run and print what they say."""

import re
from pathlib import Path

import pages
import pytest

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in pages.PAGES}
README = TEXTS["README.md"]
BLOCKS = [
    pytest.param(block, id=f"{name} {block.name[:60]}")
    for name, text in TEXTS.items()
    for block in pages.parse(text)
]
PYTHON = [
    pytest.param(code, id=f"{name} {number}")
    for name, text in TEXTS.items()
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
]
INVOCATIONS = sorted(
    {tuple(arguments) for text in TEXTS.values() for arguments in pages.invocations(text)}
)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_commands_print_what_the_page_says(
    block: pages.Block, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if lacking := pages.missing(block.needs):
        pytest.skip(f"needs {', '.join(sorted(lacking))}")
    environment = {}
    if "gpt2-bpe" in block.needs:
        environment["TIKTOKEN_CACHE_DIR"] = str(request.getfixturevalue("tiktoken_cache"))
    results = pages.run(block, tmp_path, environment)
    assert not block.problem(results)
    for command, (_, output) in zip(block.commands, results, strict=True):
        assert command.prints(output), f"$ {command.line}\n{output}"


@pytest.mark.parametrize("arguments", INVOCATIONS, ids=" ".join)
def test_commands_that_are_not_run_have_real_options(arguments: tuple[str, ...]) -> None:
    """Those in `sh` blocks need a cluster, a download or hours; they parse all the same."""
    from gptcli.cli.app import command_line

    name, *rest = arguments
    command_line().get_command(None, name).make_context(name, rest)


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_runs(code: str) -> None:
    if "load()" in code and pages.missing(frozenset({"stories"})):
        pytest.skip("needs stories")
    exec(code, {})  # the page's own lines


def test_there_are_commands_to_run() -> None:
    assert len(BLOCKS) > 5
    assert len(INVOCATIONS) > 20


def test_every_command_is_in_the_table() -> None:
    from gptcli.cli.app import command_line

    group = command_line()
    for name in group.list_commands(None):
        assert f"\n| `{name}" in README, f"the table of commands lacks {name}"


def test_a_wildcard_stands_for_lines_or_a_part_of_one() -> None:
    command = pages.Command("x", "a ... b\n...\nend\n")
    assert command.prints("a 1 b\n2\n3\nend\n")
    assert command.prints("a  b\nend\n")
    assert not command.prints("a 1 c\nend\n")
    assert not command.prints("a 1 b\n2\n")


def test_a_number_may_be_off_by_one_in_its_last_place() -> None:
    command = pages.Command("x", "1.25 and 300\n")
    assert command.prints("1.25 and 300\n")
    assert command.prints("1.26 and 300\n")
    assert not command.prints("1.27 and 300\n")
    assert not command.prints("1.3 and 300\n")
    assert not command.prints("1.25 and 301\n")


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in pages.PAGES:
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == []
