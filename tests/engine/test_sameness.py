"""The same bits by every build, with any number of threads; and no PyTorch on that way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from batch_jobs import prompts, tiny_directory
from engines import HAS_KERNELS, needs_kernels

from gptcli.diagnostics.golden import DIGESTS, golden_digest
from gptcli.engine import library

pytestmark = needs_kernels
BUILDS = [b.name for b in library.builds() if b.is_supported] if HAS_KERNELS else []


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("width", DIGESTS)
def test_logits_are_the_recorded_ones(width: str, build: str) -> None:
    for threads in (1, 2, 3, 4):
        assert golden_digest(width, build, threads) == DIGESTS[width]


def command(*arguments: object, isa: str | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **({"GPTCLI_ISA": isa} if isa else {})}
    words = [sys.executable, "-m", "gptcli", *map(str, arguments)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_directory(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("width", [[], ["--quantize", "int8"], ["--dtype", "bfloat16"]], ids=str)
def test_a_batch_has_the_same_bytes_on_every_processor(
    model: Path, tmp_path: Path, width: list[str]
) -> None:
    source = prompts(tmp_path / "in.jsonl", 40)
    how = ["-m", model, "--seed", 7, "-n", 12, "--quiet", *width]
    outputs = []
    for number, isa in enumerate([None, *BUILDS]):
        out = tmp_path / f"out{number}"
        sized = ["--threads", number % 4 + 1, "--batch-size", (1, 3, 32)[number % 3]]
        done = command("batch", source, "-o", out, *how, *sized, isa=isa)
        assert done.returncode == 4, done.stderr  # some records are bad
        outputs.append(out.read_bytes())
    assert len(set(outputs)) == 1
    assert "machine" not in json.loads(outputs[0].partition(b"\n")[0])
    torn = tmp_path / "torn"
    torn.write_bytes(outputs[0][: len(outputs[0]) // 2])  # as a kill leaves it
    resumed = command("batch", source, "-o", torn, *how, "--resume", isa="plain")
    assert resumed.returncode == 4, resumed.stderr
    assert torn.read_bytes() == outputs[0]
    again = command("replay", torn, "-i", source, "-m", model, isa="plain")
    assert (again.returncode, "0 differ" in again.stdout) == (0, True), again.stderr


NOTHING_OF_PYTORCH = """
import sys
from gptcli.cli import run
code = run(sys.argv[1:])
assert "torch" not in sys.modules, "PyTorch was imported"
sys.exit(code)
"""


def test_a_generation_a_batch_and_a_score_import_no_pytorch(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("one\ntwo\n")
    jobs = [
        ["generate", "-n", "5", "Once"],
        ["generate", "-m", str(model), "-n", "5", "--quantize", "int8", "--beams", "2", "Once"],
        ["generate", "-m", str(model), "-n", "9", "--lookup", "--json", "one one one one"],
        ["batch", str(tmp_path / "in"), "--text", "-o", str(tmp_path / "out"), "-n", "5"],
        ["replay", str(tmp_path / "out"), "-i", str(tmp_path / "in")],
        ["score", str(tmp_path / "in"), "-m", str(model)],
        ["score", str(tmp_path / "in"), "-m", str(model), "--quantize", "int8", "--json"],
    ]
    for job in jobs:
        words = [sys.executable, "-c", NOTHING_OF_PYTORCH, *job]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (job, done.stderr)


def test_pytorch_computes_where_there_is_no_library_and_says_so(model: Path) -> None:
    environment = {**os.environ, library.LIBRARY_VARIABLE: "/nowhere.so"}
    words = [
        sys.executable,
        "-m",
        "gptcli",
        "generate",
        "-m",
        str(model),
        "--greedy",
        "-n",
        "8",
        "a",
    ]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1
    assert "PyTorch computes" in done.stderr
    assert done.stdout == command(*words[3:]).stdout
    quiet = subprocess.run([*words, "-q"], env=environment, capture_output=True, check=True)
    assert quiet.stderr == b""
    asked = [*words, "--engine", "native"]
    refused = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    assert (refused.returncode, "not built" in refused.stderr) == (1, True)
