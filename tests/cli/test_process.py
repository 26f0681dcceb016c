"""gptcli as a process: exact bytes, terminals, full disks, closed streams and signals."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path

import pyte
import pytest
import torch
from emission import (
    command,
    environment,
    forbidden,
    on_terminal,
    run,
    shell,
    write_emission,
)
from gpt2_oracle import lively_gpt2

from gptcli.core.escape import visible
from gptcli.tokenizer.tokenizer import load_tokenizer

HOSTILE = (
    "\x1b]52;c;aGk=\x07 \x1b[31m\x9b1m\x1bP0;1|17/x\x1b\\ [red]x[/INST] :smile: "
    "\u202eabc\u2066 \ufeff\u2028\U000e0041 naïve 東京 🙂\r\nlong" + "g" * 200
).encode()
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_emission(tmp_path_factory.mktemp("models") / "hostile", HOSTILE)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes long enough to be interrupted."""
    return write_emission(tmp_path_factory.mktemp("models") / "endless", b"a " * 400)


def arguments(model: Path, new: int, *more: str) -> list[str]:
    return ["generate", "A", "--model", str(model), "-n", str(new), *more]


def test_a_pipe_gets_the_exact_bytes(hostile: Path) -> None:
    new = len(HOSTILE)
    done = run(*arguments(hostile, new), FORCE_COLOR="1", LANG="C", COLUMNS="0", HOME=None)
    assert done == (0, b"A" + HOSTILE + b"\n", b"")


def test_a_terminal_gets_no_forbidden_byte_and_the_same_text(hostile: Path) -> None:
    asked = arguments(hostile, len(HOSTILE), "--color", "never", "--no-wrap")
    done = on_terminal(*asked, size=(5, 20))
    assert done.code == 0
    text = done.out.replace(b"\r\x1b[2K", b"")  # what clears our own "loading" line
    assert forbidden(text) == []
    for whole in ("[red]x[/INST] :smile:", "naïve 東京 🙂", "g" * 200, r"\x1b]52;c;aGk=\x07"):
        assert whole in text.decode()
    assert r"\u202eabc\u2066" in text.decode()


def test_a_terminal_shows_the_text_in_lines_of_whole_words(hostile: Path) -> None:
    done = on_terminal(*arguments(hostile, len(HOSTILE)), size=(60, 40))
    screen = pyte.Screen(40, 60)
    screen.set_mode(pyte.modes.LNM)  # the terminal's newlines are untranslated
    pyte.ByteStream(screen).feed(done.out)
    lines = [line.rstrip() for line in screen.display]
    assert r"[red]x[/INST] :smile: \u202eabc\u2066" in lines
    text = "A" + visible(HOSTILE.decode())
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert max(map(len, lines)) <= 39


def test_json_is_one_ascii_line_with_the_exact_text(hostile: Path) -> None:
    done = run(*arguments(hostile, len(HOSTILE), "--json"))
    assert (done.out.count(b"\n"), done.out.isascii()) == (1, True)
    assert json.loads(done.out)["completion"].encode() == HOSTILE


def test_half_a_character_at_the_end_is_replaced(hostile: Path) -> None:
    cut = HOSTILE.index("東".encode()) + 2
    done = run(*arguments(hostile, cut, "--no-echo"))
    assert done.out.decode().endswith("naïve \ufffd\n")


def test_a_directory_that_transformers_saved_gives_transformers_text(
    shared: Path, tmp_path: Path
) -> None:
    """GPT-2's own vocabulary; the files as they are, on a pipe and on a terminal."""
    oracle = lively_gpt2(vocab_size=50257, n_positions=64, n_embd=32, n_head=4, n_layer=2)
    oracle.save_pretrained(tmp_path)
    for name in ("vocab.bpe", "encoder.json"):
        shutil.copy(shared / "data" / "gpt2-bpe" / name, tmp_path)
    ids = torch.tensor([[15496, 11, 314, 716]])
    expected = oracle.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0]
    text = load_tokenizer("gpt2", tmp_path).decode(expected.tolist())
    asked = ["generate", "Hello, I am", "-m", tmp_path, "-n", "40", "--greedy", "--ignore-eos"]
    assert run(*asked) == (0, text.encode() + b"\n", b"")
    seen = on_terminal(*asked, "--no-wrap", NO_COLOR="1").out.decode()
    assert seen.partition("\r\x1b[2K")[2] == visible(text) + "\n"


def test_a_full_disk_is_exit_1(hostile: Path) -> None:
    done = shell('"$@" > /dev/full', *arguments(hostile, 5))
    assert (done.code, done.err) == (
        1,
        b"gptcli: error: cannot write to standard output: No space left on device\n",
    )


def test_a_reader_that_leaves_is_141_and_silence(endless: Path) -> None:
    script = '{ "$@"; echo $? >&2; } | head -c 2'
    done = shell(script, *arguments(endless, 800))
    assert (done.out, done.err) == (b"Aa", b"141\n")


@pytest.mark.parametrize(
    ("script", "code"),
    [('"$@" >/dev/full', 1), ('"$@" >&-', 1), ('"$@" 2>&- <&-', 0), ('"$@" 2>/dev/full', 0)],
)
def test_help_obeys_the_same_rules(script: str, code: int) -> None:
    done = shell(script, "--help")
    assert (done.code, done.err.count(b"\n")) == (code, code)


def test_a_closed_stdout_is_said(hostile: Path) -> None:
    done = shell('"$@" >&-', "--version")
    assert (done.code, done.out) == (1, b"")
    assert done.err.startswith(b"gptcli: error: standard output is closed")


def test_messages_to_a_closed_stderr_change_nothing() -> None:
    assert shell('"$@" 2>&-', "generate", "x", "--temperature", "nan") == (2, b"", b"")


def test_a_file_is_never_opened_as_a_standard_stream(hostile: Path) -> None:
    """With all three closed, the first files opened would otherwise be 0, 1 and 2."""
    done = shell('"$@" <&- >&- 2>&-', *arguments(hostile, 5))
    assert done == (1, b"", b"")


def test_stdin_is_left_alone_when_there_is_a_prompt(hostile: Path) -> None:
    done = shell('printf "kept\\n" | { "$@"; cat; }', *arguments(hostile, 1, "--no-echo", "-q"))
    assert done.out.endswith(b"kept\n")


@pytest.mark.parametrize("given", [[], ["-"]])
def test_a_pipe_is_read_when_there_is_no_prompt(given: list[str]) -> None:
    done = run("generate", *given, "--model", "nowhere", stdin=b"\xff")
    assert done.code == 3
    assert done.err.startswith(b"gptcli: error: standard input: line 1: not UTF-8 (byte 0xff)")


def test_without_a_prompt_at_a_terminal_one_is_suggested() -> None:
    done = on_terminal("generate")
    assert done.code == 2
    assert b'gptcli generate "Once upon a time"' in done.out


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_generating_keeps_the_text(endless: Path, number: int, code: int) -> None:
    slow = arguments(endless, 100_000, "--overflow", "slide", "--stats")
    process = subprocess.Popen(
        command(*slow), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    began = process.stdout.read(20)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    text = began + out
    assert text.startswith(b"Aa a a")
    assert text.endswith(b"\n")
    assert b"interrupted after " in err
    assert b"Traceback" not in err


def test_ctrl_c_on_a_terminal_ends_with_a_line_of_its_own(endless: Path) -> None:
    slow = arguments(endless, 100_000, "--overflow", "slide")
    done = on_terminal(*slow, type_at=b"a a a", NO_COLOR="1")
    assert done.code == 130
    assert b"\ninterrupted after " in done.out


@contextmanager
def waiting_for_a_prompt(tmp_path: Path, prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has opened its prompt file, a FIFO, and waits for text."""
    fifo = tmp_path / "prompt"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        ["bash", "-c", prefix + 'exec "$@"', "bash", *command("generate", "-f", fifo)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    with fifo.open("wb"):  # waits until the process opens the other end
        yield process


def test_a_signal_while_waiting_for_a_prompt_leaves_quietly(tmp_path: Path) -> None:
    with waiting_for_a_prompt(tmp_path, "") as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_signal_inherited_as_ignored_stays_ignored(tmp_path: Path) -> None:
    with waiting_for_a_prompt(tmp_path, "trap '' HUP; ") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (143, b"", b"")


def until_it_catches(process: int, number: signal.Signals) -> None:
    """Wait until a process has its handlers, or has ended; where /proc is missing, a second."""
    status = Path(f"/proc/{process}/status")
    if not status.parent.is_dir():
        time.sleep(1)
    with suppress(FileNotFoundError, ProcessLookupError, StopIteration):
        while True:
            lines = status.read_text(encoding="ascii", errors="replace").splitlines()
            caught = next(line for line in lines if line.startswith("SigCgt:"))
            if int(caught.split()[1], 16) >> (number - 1) & 1:
                return
            time.sleep(0.01)


@pytest.mark.slow
def test_a_signal_at_any_time_has_its_code_and_no_traceback(hostile: Path) -> None:
    for tenths, (number, code) in zip(range(0, 24, 2), cycle(SIGNALS), strict=False):
        process = subprocess.Popen(
            command(*arguments(hostile, 5)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        until_it_catches(process.pid, signal.SIGHUP)  # the last one; Python is starting before
        time.sleep(tenths / 10)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        # Once all is written and Python takes itself down, the signal itself ends the process,
        # for which a shell has the same code.
        assert process.returncode in {code, -number, 0}
        assert b"Traceback" not in err


@pytest.mark.parametrize("value", ["abc", "0", "1", "-3", "²"])
def test_odd_widths_do_not_stop_the_help(value: str) -> None:
    changes = {"TERMINAL_WIDTH": value, "COLUMNS": value}
    done = run("--help", **changes, FORCE_COLOR="1", GITHUB_ACTIONS="true")
    assert done.code == 0
    assert b"generate" in done.out
    assert b"\x1b" not in done.out
