"""gptcli tokenize: ids, pieces, counts, and back."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizer_kinds import write_kind
from transformers import AutoTokenizer

from gptcli import cli
from gptcli.cli.render import console

TEXT = "Hello, I am the mRNA dog.\n<A> naïve 東京 <|endoftext|>\n"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config and a tokenizer: no weights are needed."""
    directory = write_kind("added tokens", tmp_path_factory.mktemp("tokenize") / "model")
    sizes = {"n_positions": 8, "n_embd": 4, "n_head": 2, "n_layer": 1, "vocab_size": 600}
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    return directory


@pytest.fixture
def run(model: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`run("text")` → exit code, stdout and stderr."""

    def call(*arguments: object, target: Path | None = model) -> tuple[int, str, str]:
        options = ["-m", str(target / "config.json")] if target else []
        code = cli.run(["tokenize", *map(str, arguments), *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    console.reset()


def ids_of(model: Path, text: str, *, special: bool = False) -> list[int]:
    theirs = AutoTokenizer.from_pretrained(model)
    return list(theirs(text, split_special_tokens=not special).input_ids)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("source", ["argument", "file", "standard input"])
def test_a_pipe_gets_the_ids_of_transformers_on_one_line(
    run: Run, model: Path, tmp_path: Path, monkeypatch, *, source: str, special: bool
) -> None:
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    given = {"argument": [TEXT], "file": ["--file", tmp_path / "text"], "standard input": []}
    code, out, err = run(*given[source], *(["--special"] if special else []))
    assert (code, out) == (0, " ".join(map(str, ids_of(model, TEXT, special=special))) + "\n")
    assert err.count("in a text is read as ordinary text") == (not special)


def test_a_count_is_the_number_of_ids(run: Run, model: Path, tmp_path: Path) -> None:
    text = TEXT * 30_000  # several chunks
    (tmp_path / "text").write_text(text, encoding="utf-8")
    code, out, _ = run("--count", "--file", tmp_path / "text", "--quiet")
    assert (code, int(out)) == (0, len(ids_of(model, text)))
    _, out, _ = run("--count", "--json", "-f", tmp_path / "text")
    sizes = {"tokens": int(json.loads(out)["tokens"]), "bytes": len(text.encode())}
    assert {**json.loads(out), **sizes, "characters": len(text)} == json.loads(out)


def test_json_has_every_token(run: Run, model: Path) -> None:
    code, out, _ = run("naïve 東 mRNA", "--json")
    found = json.loads(out)
    assert (code, found["schema"], found["tokenizer"]) == (0, "gptcli.tokenize/1", "tokenizer.json")
    assert found["ids"] == ids_of(model, "naïve 東 mRNA")
    assert [piece["id"] for piece in found["pieces"]] == found["ids"]
    assert b"".join(bytes.fromhex(p["bytes"]) for p in found["pieces"]).decode() == found["text"]


def test_ids_become_the_text_again(run: Run, monkeypatch) -> None:
    _, ids, _ = run(TEXT, "--special")
    assert run("--decode", ids)[:2] == (0, TEXT)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ids.encode())))
    assert json.loads(run("--decode", "-", "--json")[1])["text"] == TEXT


@pytest.mark.parametrize("color", ["always", "never"])
def test_a_terminal_shows_pieces_and_ids(run: Run, monkeypatch, color: str) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda stream: stream is sys.stdout)
    monkeypatch.setenv("TERM", "xterm-256color")
    code, out, err = run("the mRNA\x1b[31m", "--color", color)
    assert code == 0
    assert "\x1b[31m" not in out
    assert "tokens of tokenizer.json" in err
    assert ("\x1b[" in out) == (color == "always")
    if color == "never":
        assert out.startswith("the| |mRNA|")


def test_the_built_in_models_prompt_begins_with_its_end_of_text(run: Run) -> None:
    _, out, _ = run("Once", target=None)
    assert out.split()[0] == "4095"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["text", "--file", "x"], 2, "--file: cannot be used together with TEXT"),
        (["text", "--decode", "1"], 2, "--decode: cannot be used together with TEXT"),
        (["--count", "--decode", "1"], 2, "--decode: cannot be used together with --count"),
        (["--decode", "1 b"], 2, '--decode: "b" is not a token id'),
        (["--decode", "1 600"], 2, "--decode: a token id is not in the vocabulary (600, expected"),
        (["--file", "gone"], 3, "gone: cannot be read (No such file or directory)"),
        (["--file", "."], 3, ".: cannot be read (Is a directory)"),
        (["ab\udcff"], 2, "not UTF-8"),
    ],
)
def test_what_cannot_be_used_is_named(run: Run, arguments, code: int, message: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("gptcli: error: ")
    assert message in err


@pytest.mark.parametrize(
    ("data", "byte"), [(b"ab\xff", "0xff at 2"), (b"a" * (1 << 18) + b"\xc3", "0xc3 at 262,144")]
)
def test_a_byte_that_is_not_utf8_is_found(run: Run, tmp_path: Path, data: bytes, byte: str) -> None:
    (tmp_path / "text").write_bytes(data)
    code, _, err = run("--count", "-f", tmp_path / "text")
    assert code == 3
    assert f"not UTF-8 (byte {byte})" in err


def test_a_character_across_two_reads_is_whole(run: Run, model: Path, tmp_path: Path) -> None:
    text = "a" * ((1 << 18) - 1) + "é" + " the cat" * 9
    (tmp_path / "text").write_text(text, encoding="utf-8")
    assert int(run("--count", "-f", tmp_path / "text")[1]) == len(ids_of(model, text))
