"""`gptcli train` as a process: killed, interrupted, out of disk, in two parts."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from story_text import write_stories

from gptcli.cli import run
from gptcli.cli.commands.train import command_for_the_card

COMMAND = [sys.executable, "-m", "gptcli", "train"]
OPTIONS = [
    *("--size", "tiny", "--vocab-size", "300", "--context-length", "32", "--batch-size", "4"),
    *("--lr", "3e-3", "--eval-every", "20", "--save-every", "5", "--threads", "1", "--seed", "7"),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.txt")


def start(*arguments: object, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, *COMMAND, *map(str, arguments), *OPTIONS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def train(*arguments: object, prefix: Sequence[str] = ()) -> tuple[int, str, str]:
    process = start(*arguments, prefix=prefix)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def wait_for_state(directory: Path, process: subprocess.Popen[str]) -> None:
    state = directory / "training.safetensors"
    while not state.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def leftovers(directory: Path) -> Sequence[str]:
    return sorted(path.name for path in directory.iterdir())


DONE = [
    "MODEL_CARD.md",
    "config.yaml",
    "model.safetensors",
    "tokenizer.tiktoken",
    "tokenizer_config.json",
]


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_to_the_same_file(tmp_path: Path, text: Path) -> None:
    steps = ("--steps", 120, "--average", 0.9)
    code, out, err = train(text, "-o", tmp_path / "whole", *steps)
    assert (code, out) == (0, ""), err
    draw, directory = random.Random(), tmp_path / "killed"
    for number in range(4):
        process = start(text, "-o", directory, *steps, *(["--resume"] if number else []))
        wait_for_state(directory, process)
        time.sleep(draw.uniform(0, 0.7))
        process.kill()
        process.communicate()
        if not (directory / "training.safetensors").exists():
            break  # it had finished
    code, out, err = train(text, "-o", directory, *steps, "--resume")
    assert (code, out) == (0, ""), err
    for name in ("model.safetensors", "tokenizer.tiktoken", "config.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (directory / name).read_bytes()
    assert leftovers(directory) == DONE


def test_a_signal_ends_it_with_its_code_and_nothing_is_lost(tmp_path: Path, text: Path) -> None:
    directory = tmp_path / "model"
    process = start(text, "-o", directory, "--steps", 100_000)
    wait_for_state(directory, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    (step,) = re.findall(r"interrupted after step ([\d,]+); continue with --resume", err)
    code, _, err = train(text, "-o", directory, "--steps", int(step.replace(",", "")), "--resume")
    assert code == 0, err
    assert f"continuing after step {step}" in err
    assert leftovers(directory) == DONE


def test_a_second_process_does_not_train_in_the_same_directory(tmp_path: Path, text: Path) -> None:
    directory = tmp_path / "model"
    first = start(text, "-o", directory, "--steps", 100_000)
    wait_for_state(directory, first)
    code, out, err = train(text, "-o", directory, "--steps", 100_000, "--resume")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"gptcli: error: {directory}: another process is writing it"
    assert first.poll() is None
    first.kill()
    first.communicate()


def test_a_full_disk_is_one_line_and_leaves_no_pieces(tmp_path: Path, text: Path) -> None:
    directory = tmp_path / "model"

    limit = ["sh", "-c", 'ulimit -f 500; exec "$@"', "sh"]  # blocks of 512 or 1,024 bytes
    code, out, err = train(text, "-o", directory, "--steps", 20, prefix=limit)
    assert (code, out) == (1, "")
    assert "training.safetensors: cannot write (File too large)" in err
    assert "Traceback" not in err
    assert not [name for name in leftovers(directory) if name.endswith(".part")]


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_does(tmp_path: Path, text: Path) -> None:
    """The sums are made in another order, and dropout draws others, so about the same."""
    from safetensors.torch import load_file

    arguments = [str(text), *OPTIONS, "--steps", "20", "--drop-rate", "0", "--precision", "float32"]
    code, _, err = train(text, "-o", tmp_path / "one", *arguments[len(OPTIONS) + 1 :])
    assert code == 0, err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [*COMMAND, *arguments, "-o", str(tmp_path / "two")],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **ENVIRONMENT,
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"},
                **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
            },
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "bits per byte" in errors[0]
    assert "bits per byte" not in errors[1]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        assert (tensor - two[name]).abs().max() < 1e-3, name


def test_a_directory_that_holds_a_model_is_not_overwritten(tmp_path: Path, text: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"precious")
    code, _, err = train(text, "-o", directory)
    assert code == 2
    assert "holds a model already" in err
    assert (directory / "model.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.txt"], 3, "missing.txt: no such file"),
        (["TEXT@x"], 2, "expected FILE@WEIGHT or FILE@START:END"),
        (["TEXT@1:0"], 2, "all weights are 0 at the end"),
        (["TEXT", "--lr", "0"], 2, "--lr: must be a number > 0 and < 10, got 0.0"),
        (["TEXT", "--plot", "curve.gif"], 2, "--plot: must end in .svg or .png"),
        (["TEXT", "--valid-share", "1"], 2, "--valid-share"),
        (["TEXT", "--config", "missing.yaml"], 3, "missing.yaml"),
    ],
)
def test_mistakes_are_one_line_with_their_code(
    capsys: pytest.CaptureFixture[str], text: Path, arguments: list[str], code: int, message: str
) -> None:
    given = [argument.replace("TEXT", str(text)) for argument in arguments]
    directory = text.parent / "model"
    assert run(["train", *given, "-o", str(directory)]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("gptcli: error: ")
    assert not directory.exists()


def test_too_little_text_leaves_no_directory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, directory = tmp_path / "short.txt", tmp_path / "models" / "new"
    text.write_text("One short line.\nAnd another one.\n", encoding="utf-8")
    assert run(["train", str(text), "-o", str(directory), "--size", "tiny"]) == 3
    assert "too little text" in capsys.readouterr().err
    assert not directory.exists()


def test_a_vocabulary_smaller_than_asked_for_is_said(tmp_path: Path, text: Path) -> None:
    given = ("--vocab-size", 60000, "--steps", 1)
    process = subprocess.run(
        [*COMMAND, str(text), "-o", str(tmp_path / "model"), *OPTIONS, *map(str, given)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=True,
    )
    assert re.search(r"vocabulary of [\d,]+ instead of 60,000", process.stderr)


def test_the_card_names_files_and_no_folders_of_this_machine() -> None:
    given = ["train", "/home/me/tiny/a.gz@1:0", "b.txt", "-o", "/tmp/x/model", "--resume"]
    expected = ["train", "tiny/a.gz@1:0", "b.txt", "-o", "model"]
    assert command_for_the_card(given) == expected
