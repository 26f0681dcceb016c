"""The command in one process: prompts, stopping, forms of output; the text is known beforehand."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emission import write_emission

from gptcli import cli
from gptcli.checkpoint.presets import built_in_directory
from gptcli.cli.render import console
from gptcli.core.escape import shown

TEXT = "he said: stop here, naïve 🙂\nend"
SIZE = len(TEXT.encode())
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_emission(tmp_path_factory.mktemp("emission") / "model", TEXT.encode())


@pytest.fixture
def run(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """`run("A", "-n", "5")` → exit code, stdout and stderr."""
    for name in ("TERMINAL_WIDTH", "_TYPER_FORCE_DISABLE_TERMINAL", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def call(*arguments: object, named: bool = True) -> tuple[int, str, str]:
        options = ["--model", model] if named else []
        code = cli.run(["generate", *map(str, [*arguments, *options])])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    console.reset()


def typed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def as_json(run: Run, *arguments: object) -> dict[str, Any]:
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    value: dict[str, Any] = json.loads(out)
    return value


def test_prompt_and_completion_are_printed_and_one_newline(run: Run) -> None:
    assert run("A", "-n", SIZE) == (0, f"A{TEXT}\n", "")


def test_no_echo_leaves_the_prompt_out(run: Run) -> None:
    assert run("A", "-n", SIZE, "--no-echo") == (0, f"{TEXT}\n", "")


@pytest.mark.parametrize("data", [b"A", b"A\n", b"A\r\n", "\ufeffA".encode()])
@pytest.mark.parametrize("given", [[], ["-"]])
def test_standard_input_is_the_prompt_without_its_last_newline(
    data: bytes, given: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(data, monkeypatch)
    assert run(*given, "-n", 2) == (0, "Ahe\n", "")


def test_only_one_newline_is_dropped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(b"\n\n", monkeypatch)
    assert run("-n", 2, "--no-echo") == (0, "he\n", "")
    typed(b"\n", monkeypatch)
    assert run("-n", 2)[0] == 2


def test_a_prompt_given_leaves_standard_input_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(b"kept", monkeypatch)
    assert run("A", "-n", 1)[1] == "Ah\n"
    assert sys.stdin.read() == "kept"


def test_the_prompt_of_a_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("A\n")
    assert run("--prompt-file", file, "-n", 2) == (0, "Ahe\n", "")


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"a\n\xff", "line 2: not UTF-8 (byte 0xff)"), (b"a" * (2**20 + 1), "too long for a prompt")],
)
def test_a_prompt_file_that_is_no_text_is_exit_3(
    data: bytes, words: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(data)
    code, out, err = run("--prompt-file", file)
    assert (code, out) == (3, "")
    assert words in err


def test_an_unreadable_prompt_file_is_exit_3(run: Run, tmp_path: Path) -> None:
    assert run("-f", tmp_path)[0] == 3
    assert "no such file" in run("-f", tmp_path / "none")[2].lower()


def test_an_argument_that_is_not_utf8_is_exit_2(run: Run) -> None:
    code, _, err = run("a\udcff")
    assert (code, err) == (2, "gptcli: error: PROMPT: not UTF-8 (byte 0xff at 1)\n")


def test_closed_standard_input_is_like_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert "PROMPT: is missing" in run()[2]
    assert "standard input: is closed" in run("-")[2]


def test_a_stop_string_ends_the_text_and_is_not_printed(run: Run) -> None:
    assert run("A", "--no-echo", "--stop", "stop", "--stop", "zzz") == (0, "he said: \n", "")
    assert run("A", "--no-echo", "--stop", "stop", "--keep-stop") == (0, "he said: stop\n", "")


def test_json_says_all_there_is_to_know(run: Run) -> None:
    value = as_json(run, "A", "-n", SIZE, "--seed", 7)
    assert value["completion"] == TEXT
    assert value["text"] == "A" + TEXT
    assert bytes(value["ids"]).decode() == TEXT
    assert (value["prompt"], value["prompt_ids"], value["seed"]) == ("A", [65], 7)
    assert (value["prompt_tokens"], value["new_tokens"]) == (1, SIZE)
    assert (value["finish_reason"], value["stop"]) == ("length", None)
    assert value["seconds"]["decode"] > 0


def test_finish_reasons(run: Run) -> None:
    stopped = as_json(run, "A", "--stop", "stop")
    assert (stopped["finish_reason"], stopped["stop"]) == ("stop", "stop")
    assert as_json(run, "A", "-n", 1000)["finish_reason"] == "context"
    assert as_json(run, "A", "--time-limit", 0)["finish_reason"] == "time"
    slid = as_json(run, "A", "-n", SIZE + 9, "--overflow", "slide")
    assert (slid["finish_reason"], slid["new_tokens"]) == ("length", SIZE + 9)


def test_a_full_context_can_be_an_error_that_keeps_the_text(run: Run) -> None:
    code, out, err = run("A", "-n", 1000, "--overflow", "error")
    assert code == 1
    assert out.startswith("A" + TEXT)
    assert err.startswith("gptcli: error: context: full after")


def test_a_prompt_longer_than_the_context_is_refused(run: Run) -> None:
    code, out, err = run("A" * 99)
    assert (code, out) == (2, "")
    assert "too long (99 tokens" in err


def test_logprobs_and_alternatives(run: Run) -> None:
    value = as_json(run, "A", "-n", 2, "--logprobs", "--top", 3)
    first = value["logprobs"][0]
    assert (first["id"], first["text"]) == (ord("h"), "h")
    assert first["logprob"] == pytest.approx(0, abs=1e-6)
    assert first["top"][0]["id"] == ord("h")
    assert len(first["top"]) == 3
    assert "logprobs" not in as_json(run, "A", "-n", 2)


def test_samples_are_one_text_each(run: Run) -> None:
    code, out, err = run("A", "-n", 2, "--num-samples", 2)
    assert (code, out) == (0, "Ahe\nAhe\n")
    assert err == "sample 1 of 2\nsample 2 of 2\n"
    lines = run("A", "-n", 2, "--num-samples", 2, "--json", "--seed", 3)[1].splitlines()
    assert [json.loads(line)["sample"] for line in lines] == [0, 1]


def test_a_seed_repeats_a_text_and_its_absence_does_not(run: Run, tmp_path: Path) -> None:
    unsure = write_emission(tmp_path / "unsure", TEXT.encode(), sure=0.0)

    def sample(*arguments: object) -> tuple[int, str, str]:
        return run("A", "-m", unsure, "-n", 20, "--json", *arguments, named=False)

    def ids(*arguments: object) -> list[int]:
        value: list[int] = json.loads(sample(*arguments)[1])["ids"]
        return value

    assert ids("--seed", 5) == ids("--seed", 5)
    assert ids("--seed", 5) != ids("--seed", 6)
    fresh = json.loads(sample()[1])
    assert fresh["ids"] == ids("--seed", fresh["seed"])
    assert fresh["seed"] != json.loads(sample()[1])["seed"]
    both = run("A", "-m", unsure, "-n", 20, "--json", "--seed", 5, "--num-samples", 2, named=False)
    first, second = map(json.loads, both[1].splitlines())
    assert first["ids"] == ids("--seed", 5)
    assert second["ids"] != first["ids"]


def test_beams_find_the_likeliest_text(run: Run) -> None:
    value = as_json(run, "A", "-n", SIZE, "--beams", 3)
    assert (value["completion"], value["finish_reason"]) == (TEXT, "length")
    assert run("A", "--beams", 2, "--stop", "said", "--no-echo")[1] == "he \n"
    assert run("A" * 99, "--beams", 2)[0] == 2


def test_beams_say_the_score_of_each_text(run: Run) -> None:
    """The mean of the log-probabilities that greedy decoding of the same tokens reports."""
    asked = ("A", "-n", 6, "--beams", 3, "--num-samples", 3, "--json")
    found = [json.loads(line) for line in run(*asked)[1].splitlines()]
    scores = [value["score"] for value in found]
    assert scores == sorted(scores, reverse=True)
    greedy = as_json(run, "A", "-n", 6, "--greedy", "--logprobs")
    mean = sum(token["logprob"] for token in greedy["logprobs"]) / len(greedy["ids"])
    same = next(value for value in found if value["ids"] == greedy["ids"])
    assert same["score"] == pytest.approx(mean, abs=1e-5)
    assert "score" not in greedy
    code, table, _ = run("A", "-n", 6, "--beams", 3, "--top", 2)
    lines = table.splitlines()
    assert (code, len(lines)) == (0, 3)
    for line, value in zip(lines[1:], found, strict=False):
        assert line.split()[:2] == [f"{value['score']:.4f}", value["finish_reason"]]
        assert shown(value["completion"]) in line


def test_stats_and_notices_go_to_stderr(run: Run) -> None:
    code, out, err = run("A", "-n", 2, "--stats", "--seed", 9, "--quiet")
    assert (code, out) == (0, "Ahe\n")
    assert "seed 9" in err
    assert "2 tokens in" in err
    assert "finish reason length" in err


def test_logit_bias_and_bans_reach_the_model(run: Run) -> None:
    value = as_json(run, "A", "-n", 2, "--logit-bias", "104=-inf", "--greedy")
    assert value["ids"][0] != ord("h")
    assert value["ids"][1] == ord("e")


def test_a_constraint_ends_the_text_or_is_incomplete(run: Run, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": [1, 23]}')
    assert run("A", "--json-schema", schema, "--no-echo")[1] in {"1\n", "23\n"}
    assert run("A", "--json-schema", '{"const": null}', "--no-echo")[1] == "null\n"
    grammar = tmp_path / "grammar.lark"
    grammar.write_text('start: "he said" | "she said"')
    assert run("A", "--grammar", grammar, "--no-echo", "--stats")[1] == "he said\n"
    _, out, err = run("A", "--choice", "he said", "--choice", "x", "-n", 3, "--no-echo", "--stats")
    assert out == "he \n"
    assert "finish reason length, incomplete" in err
    assert as_json(run, "A", "--regex", "he sa")["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--json-schema", '{"type": "x"}'], "--json-schema: cannot be compiled (Invalid type: x)"),
        (["--regex", "a("], "--regex: cannot be compiled (character 2: unclosed group)"),
        (["--choice", ""], "--choice: must not be empty"),
        (["--choice", "a", "--regex", "a"], "--choice: cannot be used together with --regex"),
        (["--choice", "a", "--beams", "2"], "--beams: cannot be used together with --choice"),
    ],
)
def test_a_constraint_that_cannot_be_kept_is_a_usage_error(
    run: Run, options: list[str], words: str
) -> None:
    assert run("A", *options) == (2, "", f"gptcli: error: {words}\n")


def test_a_table_has_a_line_for_each_token_on_a_pipe(run: Run) -> None:
    shown = run("A", "-n", SIZE, "--show", "probs")[1].splitlines()
    assert len(shown) == SIZE
    assert shown[0].split() == ["1", "100.0%", '"h"']
    assert r'"\xf0"' in run("A", "-n", SIZE, "--show", "probs")[1]
    with_top = run("A", "-n", 3, "--top", 2)[1].splitlines()
    assert len(with_top) == 3
    assert with_top[0].startswith('    1 100.0%  "h"')
    assert '100.0% "h"  0.0% ' in with_top[0]


def test_colours_by_probability_pass_a_pipe_only_when_asked_for(run: Run) -> None:
    code, out, err = run("A", "-n", 2, "--show", "probs", "--color", "always")
    assert (code, out) == (0, "\x1b[1mA\x1b[0m\x1b[32mh\x1b[0m\x1b[32me\x1b[0m\n")
    assert "probability: green >= 80%" in err
    assert run("A", "-n", 2, "--color", "always")[1] == "Ahe\n"


def test_an_empty_prompt_begins_at_the_end_of_text_token(run: Run) -> None:
    assert run("")[0] == 2
    code, _, err = run("", "--allow-empty")
    assert (code, err) == (
        2,
        "gptcli: error: --allow-empty: the tokenizer has no end-of-text token to begin at\n",
    )


def test_a_dry_run_reads_no_weights(run: Run, model: Path, tmp_path: Path) -> None:
    config = model / "config.json"
    code, out, err = run("A", "-c", config, "--dry-run", "--json", "-n", 1000, named=False)
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["schema"] == "gptcli.dry-run/1"
    assert (facts["prompt_tokens"], facts["context_length"]) == (1, SIZE + 2)
    assert facts["max_new_tokens"] == SIZE + 2
    assert facts["weights_bytes"] == 4 * facts["parameters"]
    assert as_json(run, "A", "-n", 1000)["new_tokens"] == facts["max_new_tokens"]
    table = run("AA", "-c", config, "--dry-run", named=False)[1]
    assert "prompt tokens" in table


def test_an_untrained_model_says_so_once(run: Run, model: Path) -> None:
    arguments = ["A", "-c", model / "config.json", "-n", 3, "--seed", 1]
    code, out, err = run(*arguments, named=False)
    assert code == 0
    assert err == "untrained model, initialised from seed 1: its text is noise\n"
    assert run(*arguments, "--quiet", named=False) == (0, out, "")


def test_without_a_model_a_build_that_has_none_says_what_to_name(run: Run) -> None:
    code, out, err = run("A", "-n", 1, named=False)
    if built_in_directory().is_dir():
        assert (code, err) == (0, "")
    else:
        assert (code, out) == (3, "")
        assert "Name a preset" in err
