"""The outermost handler, the table of commands and usage errors."""

import re
import subprocess
import sys
from importlib import import_module

import pytest
from emission import environment

from gptcli import cli
from gptcli.cli.app import COMMANDS
from gptcli.cli.command import option_name
from gptcli.cli.commands.generate import generate
from gptcli.cli.render import console
from gptcli.cli.render.console import ReaderGone
from gptcli.core.errors import InputError
from gptcli.version import __version__


@pytest.fixture(autouse=True)
def kept_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("TERMINAL_WIDTH", "_TYPER_FORCE_DISABLE_TERMINAL", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    console.reset()


def failing(problem: BaseException, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    def read(*_arguments: object, **_options: object) -> str:
        raise problem

    monkeypatch.setattr("gptcli.cli.prompt_input.read_prompt", read)
    return cli.run(["generate", "x", *arguments])


USAGE = [
    (
        ["generate", "--temperature", "nan", "x"],
        "--temperature: must be a finite number >= 0, got nan",
    ),
    (
        ["generate", "--temperature", "-1", "x"],
        "--temperature: must be a finite number >= 0, got -1.0",
    ),
    (
        ["generate", "--temperature", "warm", "x"],
        '--temperature: must be a finite number >= 0, got "warm"',
    ),
    (["generate", "--top-k", "1.5", "x"], '--top-k: must be an integer >= 1, got "1.5"'),
    (["generate", "--top-k", "0", "x"], "--top-k: must be an integer >= 1, got 0"),
    (["generate", "--top-p", "1.1", "x"], "--top-p: must be a number > 0 and <= 1, got 1.1"),
    (["generate", "--top-p"], "--top-p: needs a value"),
    (
        ["generate", "--overflow", "wrap", "x"],
        '--overflow: must be stop or slide or error, got "wrap"',
    ),
    (
        ["generate", "--temprature", "1", "x"],
        "--temprature: no such option. Did you mean --temperature?",
    ),
    (
        ["generate", "a", "b"],
        "generate: got unexpected extra argument(s) (b)."
        " Put an argument of several words in quotes",
    ),
    (["models", "a"], "models: got unexpected extra argument(s) (a)"),
    (["generate", "x", "--seed", "-1"], "--seed: must be an integer >= 0 and < 2^64, got -1"),
    (
        ["generate", "x", "--seed", str(2**64)],
        f"--seed: must be an integer >= 0 and < 2^64, got {2**64}",
    ),
    (["generate", "x", "--threads", "0"], "--threads: must be an integer >= 1, got 0"),
    (["generate", "x", "--num-samples", "0"], "--num-samples: must be an integer >= 1, got 0"),
    (
        ["generate", "x", "--time-limit", "inf"],
        "--time-limit: must be a finite number >= 0, got inf",
    ),
    (["generate", "x", "--stop", ""], "--stop: must not be empty"),
    (["generate", "x", "--logit-bias", "a=1"], '--logit-bias: must be ID=NUMBER, got "a=1"'),
    (["generate", "x", "--logprobs"], "--logprobs: needs --json. To see them, use --show probs"),
    (["generate", "x", "--json", "--show", "probs"], "--show: cannot be used together with --json"),
    (
        ["generate", "x", "--beams", "2", "--num-samples", "3"],
        "--num-samples: must be at most --beams (2), got 3",
    ),
    (
        ["generate", "x", "--beams", "2", "--top", "3"],
        "--top: must be at most --beams (2), got 3",
    ),
    (
        ["generate", "x", "--beams", "2", "--top", "2", "--num-samples", "2"],
        "--top: cannot be used together with --num-samples",
    ),
    (
        ["generate", "x", "--beams", "2", "-t", "0.8"],
        "--beams: cannot be used together with --temperature",
    ),
    (
        ["generate", "x", "--beams", "2", "--greedy"],
        "--beams: cannot be used together with --greedy",
    ),
    (
        ["generate", "x", "--beams", "2", "--top-p", "1"],
        "--beams: cannot be used together with --top-p",
    ),
    (["generate", "x", "--device", "tpu"], '--device: must be cpu, cuda, cuda:N or mps, got "tpu"'),
    (["generate", "x", "--prompt-file", "y"], "--prompt-file: cannot be used together with PROMPT"),
    (
        ["generate", ""],
        "PROMPT: is empty. Give a text, or use --allow-empty to begin at the end-of-text token",
    ),
    (["genrate", "x"], 'genrate: no such command. Did you mean "gptcli generate"?'),
    (["Once upon"], 'Once upon: no such command. To continue a text: gptcli generate "Once upon"'),
    (["\x1b[31m"], '\\x1b[31m: no such command. "gptcli --help" lists the commands'),
    (["--color", "blue"], '--color: must be auto or always or never, got "blue"'),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=lambda value: str(value)[:40])
def test_a_usage_error_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    assert capsys.readouterr() == ("", f"gptcli: error: {message}\n")


def test_errors_have_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(InputError("f.yaml", "is odd"), monkeypatch) == 3
    assert capsys.readouterr().err == "gptcli: error: f.yaml: is odd\n"


def test_a_reader_that_left_is_141_and_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(ReaderGone(), monkeypatch) == 141
    assert capsys.readouterr() == ("", "")


class Panic(BaseException):
    """As tiktoken's, which is no Exception."""


@pytest.mark.parametrize("problem", [ValueError("odd\x1b"), Panic("odd\x1b")])
def test_anything_else_is_an_internal_error_without_a_traceback(
    problem: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(problem, monkeypatch) == 1
    name = type(problem).__name__
    assert capsys.readouterr().err == (
        f"gptcli: internal error: {name}: odd\\x1b\n"
        "please report; run again with --debug for the traceback\n"
    )


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback_before_or_after_the_command(
    before: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(*_arguments: object, **_options: object) -> str:
        raise LookupError("odd")

    monkeypatch.setattr("gptcli.cli.prompt_input.read_prompt", read)
    arguments = ["generate", "x"]
    assert cli.run(["--debug", *arguments] if before else [*arguments, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_does_not_outlive_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(ValueError("odd"), monkeypatch, "--debug")
    capsys.readouterr()
    failing(ValueError("odd"), monkeypatch)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "problem", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: x")]
)
def test_out_of_memory_is_said_in_words(
    problem: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(problem, monkeypatch) == 1
    assert capsys.readouterr().err.startswith("gptcli: error: memory: exhausted.")


def test_an_interrupt_without_our_handler_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr() == ("", "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"gptcli {__version__}\n"


def test_no_command_shows_the_help_and_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    captured = capsys.readouterr()
    assert "generate" in captured.out
    assert captured.err == (
        'gptcli: error: COMMAND: is missing. Try: gptcli generate "Once upon a time"\n'
    )


def test_help_names_every_option_and_default_of_generate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["generate", "--help"]) == 0
    text = capsys.readouterr().out
    for field in generate.fields.values():
        assert option_name(field) in text
        if isinstance(field.default, float | int) and not isinstance(field.default, bool):
            assert f"[default: {field.default}]" in text
    for panel in ("Input", "Model", "Length and stopping", "Sampling", "Output", "Machine"):
        assert re.search(f"─ {panel} ─", text)
    assert "<bool>" not in text  # a flag has no value to give


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["generate", "--help"],
        ["generate", "--seed", "x"],
        ["generate", "x", "--model", "nowhere"],
    ],
)
def test_neither_help_nor_a_refusal_loads_torch(arguments: list[str]) -> None:
    code = f"import sys; from gptcli import cli; cli.run({arguments!r}); "
    heavy = ["torch", "tiktoken", "safetensors", "pydantic"]
    if "--help" in arguments:
        heavy.append("numpy")
    code += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=True,
    )
    assert done.stdout.endswith("[]\n")


def test_every_command_listed_has_a_help_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    commands = capsys.readouterr().out.partition("Commands")[2]
    listed = re.findall(r"^│ ([a-z-]+) +(.+?) *│$", commands, re.MULTILINE)
    assert listed
    assert {name for name, _ in listed} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_a_command_is_how_its_own_help_begins(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    function = name.replace("-", "_")
    module = import_module(f"gptcli.cli.commands.{function}")
    sentence = " ".join(getattr(module, function).__doc__.split("\n\n")[0].split())
    assert sentence.startswith(COMMANDS[name])
    assert cli.run(["--help"]) == 0
    assert name in capsys.readouterr().out
