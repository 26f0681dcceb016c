"""--lookup and --draft: the same text, and the share of right guesses in --stats."""

from pathlib import Path

import pytest
from tiny_directory import write_tiny
from tokenizer_files import write_ranks

from gptcli.cli import run


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


def generated(capfd: pytest.CaptureFixture[str], *options: object) -> tuple[int, str, str]:
    argv = ["generate", "abcabcab", "--seed", "1", "-n", "20", "--stats", *map(str, options)]
    code = run(argv)
    out, err = capfd.readouterr()
    return code, out, err


@pytest.mark.parametrize("temperature", [0, 1])
def test_guessing_changes_no_text(
    directory: Path, temperature: int, capfd: pytest.CaptureFixture[str]
) -> None:
    shared = ("-m", directory, "-t", temperature)
    code, plain, _ = generated(capfd, *shared)
    assert code == 0
    for guess in (["--lookup"], ["--draft", directory]):
        code, out, err = generated(capfd, *shared, *guess)
        assert (code, out) == (0, plain)
        assert "drafted: " in err
    assert "(100%)" in err  # a model guesses itself


def test_a_draft_with_another_tokenizer_is_refused(
    directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = write_tiny(tmp_path / "other")
    write_ranks(other / "bytes.tiktoken", {bytes([255 - n]): n for n in range(256)})
    code, out, err = generated(capfd, "-m", directory, "--draft", other)
    assert (code, out) == (2, "")
    assert "--draft" in err
    assert "has another tokenizer" in err


def test_lookup_and_draft_or_beams_do_not_go_together(capfd: pytest.CaptureFixture[str]) -> None:
    for others in (["--draft", "x"], ["--beams", "2"]):
        code, _, err = generated(capfd, "--lookup", *others)
        assert code == 2
        assert "cannot be used together" in err
