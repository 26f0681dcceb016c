"""Special tokens and token ids in prompts, from the command line and in batch records."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tokenizer_kinds import byte_level

from gptcli import cli
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained

SIZES = {"vocab_size": 382, "context_length": 64, "emb_dim": 8, "n_heads": 2, "n_layers": 1}
REST = ["-n", "2", "--greedy", "--json"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("special")
    library = byte_level()
    library.add_special_tokens(["<A>"])
    library.add_tokens(["mRNA"])
    library.save(str(directory / "tokenizer.json"))
    config = GPTConfig(**SIZES, tie_weights=True)  # type: ignore[arg-type]
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    state = untrained(config, 1).state_dict()
    del state["out_head.weight"]
    save_file(state, directory / "model.safetensors")
    return directory


def generate(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(["generate", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_special_token_is_text_unless_it_is_allowed(model: Path, capsys) -> None:
    code, out, err = generate(capsys, "-m", str(model), *REST, "<A>mRNA<A>")
    assert (code, json.loads(out)["prompt_ids"]) == (0, [28, 33, 30, 381, 28, 33, 30])
    assert (
        err.count("<A> in a prompt is read as ordinary text; --special reads it as a token\n") == 1
    )
    code, out, err = generate(capsys, "-m", str(model), *REST, "--special", "<A>mRNA<A>")
    assert (code, json.loads(out)["prompt_ids"]) == (0, [380, 381, 380])
    assert "ordinary text" not in err


def test_a_prompt_may_be_ids(model: Path, capsys) -> None:
    answers = []
    for prompt in (["--special", "<A>mRNA"], ["--prompt-ids", "380 381"]):
        code, out, _ = generate(capsys, "-m", str(model), *REST, *prompt)
        assert code == 0
        answers.append({key: json.loads(out)[key] for key in ("prompt", "prompt_ids", "ids")})
    assert answers[0] == answers[1]
    assert answers[0]["prompt"] == "<A>mRNA"


@pytest.mark.parametrize("ids", ["1,2,3", "[1, 2, 3]", " 1\n2\t3 "])
def test_ids_are_read_in_every_spelling(model: Path, capsys, ids: str) -> None:
    _, out, _ = generate(capsys, "-m", str(model), *REST, "--prompt-ids", ids)
    assert json.loads(out)["prompt_ids"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-ids", "1 x"], '--prompt-ids: "x" is not a token id'),
        (["--prompt-ids", "1 -2"], '--prompt-ids: "-2" is not a token id'),
        (["--prompt-ids", "[]"], "--prompt-ids: is empty (expected at least one token id)"),
        (["--prompt-ids", "382"], "not in the vocabulary (382, expected below 382)"),
        (["--prompt-ids", "1", "text"], "--prompt-ids: cannot be used together with PROMPT"),
        (
            ["--prompt-ids", "1", "-f", "x"],
            "--prompt-ids: cannot be used together with --prompt-fi",
        ),
    ],
)
def test_ids_that_are_none_are_a_usage_error(
    model: Path, capsys, arguments: list[str], message: str
) -> None:
    code, out, err = generate(capsys, "-m", str(model), *REST, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("gptcli: error: ")
    assert message in err


@pytest.mark.parametrize("option", [[], ["--special"]])
def test_a_record_says_for_itself(model: Path, tmp_path: Path, capsys, option: list[str]) -> None:
    records = [
        {"prompt": "<A>x"},
        {"prompt": "<A>x", "special": True},
        {"prompt": "<A>x", "special": False},
        {"prompt": "<A>y"},
        {"prompt": [380, 88]},
        {"prompt": "x", "special": 1},
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, records)))
    arguments = ["-m", str(model), "-o", str(tmp_path / "out"), "-n", "2", "--seed", "1", *option]
    assert cli.run(["batch", str(source), *arguments]) == 4
    header, *lines = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert header["options"]["special"] == bool(option)
    tokens = [line.get("prompt_tokens") for line in lines]
    assert tokens == [2 if option else 4, 2, 4, 2 if option else 4, 2, None]
    assert "special: expected true or false" in lines[-1]["error"]["message"]
    told = capsys.readouterr().err.count("<A> in a prompt is read as ordinary text")
    assert told == 1  # with --special for the record that says false
