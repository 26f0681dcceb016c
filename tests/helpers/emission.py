"""Models that write a chosen text whatever the sampling, and a way to run gptcli as a process.

An emission model looks at positions alone: they are one-hot, the blocks do nothing, and the
output head maps position p to byte p of the text. Its tokenizer has a token for each byte.
"""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tokenizer_files import byte_ranks, write_ranks

from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained

# Makes standard input the controlling terminal, so that a typed Ctrl-C is a signal.
_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
REPOSITORY = Path(__file__).parents[2]


class Result(NamedTuple):
    code: int
    out: bytes
    err: bytes


def write_emission(directory: Path, text: bytes, sure: float = 100.0) -> Path:
    """A model directory that answers any prompt of one byte with `text`, then byte 0."""
    length = len(text) + 2
    sizes = {"vocab_size": 256, "context_length": length, "emb_dim": length, "n_heads": 1}
    config = {**sizes, "n_layers": 1, "drop_rate": 0.0, "qkv_bias": False}
    config["tokenizer"] = "bytes.tiktoken"
    model = untrained(GPTConfig(**config), seed=0)  # type: ignore[arg-type]
    state = model.state_dict()
    for name in ("tok_emb", "trf_blocks.0.att.out_proj", "trf_blocks.0.ff.layers.2"):
        state[f"{name}.weight"].zero_()
    for name in ("trf_blocks.0.att.out_proj", "trf_blocks.0.ff.layers.2"):
        state[f"{name}.bias"].zero_()
    state["pos_emb.weight"].copy_(torch.eye(length))
    state["out_head.weight"].zero_()
    for position, byte in enumerate(text):
        state["out_head.weight"][byte, position] = sure
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    write_ranks(directory / "bytes.tiktoken", byte_ranks())
    save_file({k: v.contiguous() for k, v in state.items()}, directory / "model.safetensors")
    return directory


def environment(**changes: str | None) -> dict[str, str]:
    """A plain environment: no colour variables, one thread, this package importable."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    base = {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    merged: Mapping[str, str | None] = {**base, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "gptcli", *map(str, arguments)]


def run(*arguments: object, stdin: bytes | None = None, **changes: str | None) -> Result:
    """Run gptcli on pipes; without `stdin` it has /dev/null."""
    how = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(
        command(*arguments),
        check=False,
        capture_output=True,
        env=environment(**changes),
        timeout=100,
        **how,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Result(done.returncode, done.stdout, done.stderr)


def shell(script: str, *arguments: object, **changes: str | None) -> Result:
    """Run a shell script in which "$@" is gptcli with these arguments."""
    done = subprocess.run(
        ["bash", "-c", script, "bash", *command(*arguments)],
        check=False,
        capture_output=True,
        env=environment(**changes),
        timeout=100,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Result(done.returncode, done.stdout, done.stderr)


def on_terminal(
    *arguments: object,
    size: tuple[int, int] = (24, 80),
    type_at: bytes = b"",
    **changes: str | None,
) -> Result:
    """Run gptcli with a real terminal as all three streams, newlines untranslated.

    `out` is all that the terminal received. Once it has received `type_at`, Ctrl-C is typed.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    process = subprocess.Popen(
        [sys.executable, "-c", _OWN_TERMINAL, *command(*arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(**{"TERM": "xterm-256color", **changes}),
        start_new_session=True,
    )
    os.close(slave)
    try:
        received = b""
        if type_at:
            received = read_until(master, lambda so_far: type_at in so_far, process)
            os.write(master, b"\x03")
        received += read_until(master, lambda _: False, process)
        return Result(process.wait(10), received, b"")
    finally:
        process.kill()
        process.wait()
        os.close(master)


def read_until(
    master: int, done: Callable[[bytes], bool], process: subprocess.Popen[bytes]
) -> bytes:
    """What a terminal receives until `done(received)`, or until the process is gone."""
    received = b""
    end = time.monotonic() + 60
    while not done(received):
        assert time.monotonic() < end, received
        if not select.select([master], [], [], 0.2)[0]:
            if process.poll() is not None:
                break
            continue
        try:
            piece = os.read(master, 1 << 16)
        except OSError:  # Linux: the other side is closed
            break
        received += piece
    return received


def forbidden(received: bytes) -> list[int]:
    """Control characters but newline and tab in what a terminal received, as code points."""
    text = received.decode("utf-8", errors="surrogateescape")
    return [ord(c) for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]
