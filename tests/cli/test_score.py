"""`gptcli score` as a user runs it."""

import io
import json
import sys
from pathlib import Path

import pages
import pytest
from tiny_directory import write_tiny

from gptcli import cli
from gptcli.cli.render import console

needs_stories = pytest.mark.skipif(
    bool(pages.missing(frozenset({"stories"}))), reason="needs the built-in model"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """`run("-")` → exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.run(["score", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    console.reset()


@needs_stories
@pytest.mark.slow
def test_the_built_in_model_has_the_figure_of_its_card(run, shared: Path) -> None:
    texts = shared / "data" / "tinystories" / "valid.txt.gz"
    if not texts.exists():
        pytest.skip("needs ../shared/data/tinystories")
    code, out, _ = run(texts, "--fold-quotes", "--json")
    (found,) = json.loads(out)["results"]
    assert code == 0
    assert (found["documents"], found["bytes"]) == (179, 140556)
    assert found["bits_per_byte"] == pytest.approx(0.610293, abs=1e-4)


def test_files_and_texts_are_scored_by_themselves_under_each_model(
    run, model: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one two\n<|endoftext|>\nthree\n")
    code, out, err = run(path, "--text", "four", "-m", model, "-m", f"{model}@bfloat16", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["schema"] == "gptcli.score/1"
    found = document["results"]
    assert [(f["text"], f["documents"], f["bytes"]) for f in found] == [
        ("a.txt", 2, 12),
        ("a.txt", 2, 12),
        ("text", 1, 4),
        ("text", 1, 4),
    ]
    assert [f["model"].endswith("@bfloat16") for f in found] == [False, True] * 2
    assert {*found[0]} == {
        *("model", "text", "documents", "tokens", "bytes", "nats_per_token", "stderr"),
        *("perplexity", "bits_per_byte", "compared_with_first"),
    }
    assert found[0]["compared_with_first"] is None
    compared = found[1]["compared_with_first"]
    assert {*compared} == {
        *("nats_per_token", "stderr", "bits_per_byte", "bits_per_byte_stderr"),
        *("kl", "same_choice"),
    }
    difference = found[1]["nats_per_token"] - found[0]["nats_per_token"]
    assert compared["nats_per_token"] == pytest.approx(difference, abs=1e-5)


def test_lines_for_each_document_add_up(run, model: str, monkeypatch) -> None:
    data = b"one\n<|endoftext|>\ntwo three\n<|endoftext|>\n"
    for form in ("--per-document", "--json"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code, out, _ = run(form, "-m", model)
        assert code == 0
        if form == "--per-document":
            lines = [json.loads(line) for line in out.splitlines()]
    whole = json.loads(out)["results"][0]
    assert [line["document"] for line in lines] == [1, 2]
    assert [line["bytes"] for line in lines] == [3, 9]
    assert sum(line["tokens"] for line in lines) == whole["tokens"]
    nats = sum(line["nats"] for line in lines)
    assert nats / whole["tokens"] == pytest.approx(whole["nats_per_token"], rel=1e-6)


def test_a_table_has_a_row_for_each_model(run, model: str) -> None:
    code, out, _ = run("--text", "one two", "-m", model, "-m", model)
    assert code == 0
    title, head, first, second, *_ = out.splitlines()
    assert title == "text: 1 document, 7 bytes"
    names = "tokens nats/token perplexity bits/byte difference KL same choice"
    assert head.split() == names.split()
    assert first.split()[1] == second.split()[1] == "6"  # its tokenizer has no end of text
    assert second.endswith("100.0%")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--text", ""], 2, "--text: must not be empty"),
        (
            ["--text", "a", "--stride", "33"],
            2,
            "--stride: must be at most the context (32), got 33",
        ),
        (["--text", "a", "--stride", "0"], 2, "--stride: must be an integer >= 1, got 0"),
        (["--text", "a", "--json", "--per-document"], 2, "--per-document: cannot be used together"),
        (["no-such-file"], 3, "no-such-file: no such file"),
        (["--text", "ab", "--no-ends"], 0, ""),
    ],
)
def test_mistakes(run, model: str, arguments: list[str], code: int, words: str) -> None:
    found, _, err = run(*arguments, "-m", model)
    assert found == code
    assert words in err


def test_nothing_to_read_is_said(run, model: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert run("-m", model)[::2] == (3, "gptcli: error: standard input: has no text\n")
    monkeypatch.setattr(sys, "stdin", None)
    assert run("-m", model)[0] == 2
