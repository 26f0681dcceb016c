"""Shell completion: the names and files that Typer's scripts hand to a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.checkpoint.presets import PRESETS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models" / "small").mkdir(parents=True)
    for name in ("config.yaml", "notes.txt", "stories.json", ".hidden.json"):
        (tmp_path / name).touch()
    (tmp_path / "models" / "model.safetensors").touch()
    return tmp_path


def completed(folder: Path, *words: str) -> list[str]:
    """What bash is given to complete the last word."""
    environment = {
        **os.environ,
        "_GPTCLI_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["gptcli", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "gptcli"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("gener",), ["generate"]),
        (("generate", "--model", "gpt2-m"), ["gpt2-medium"]),
        (("generate", "-m", "st"), ["stories", "stories.json"]),
        (("generate", "--config", ""), ["config.yaml", "models/", "stories.json"]),
        (
            ("generate", "--weights", "mod"),
            ["models/", "models/model.safetensors", "models/small/"],
        ),
        (("train", "-o", "models/"), ["models/small/"]),
        (("generate", "--dtype", "b"), ["bfloat16"]),
        (("generate", "--overflow", "s"), ["stop", "slide"]),
        (("generate", "--presence"), ["--presence-penalty"]),
        (("inspect", "config"), ["config.yaml"]),
        (("generate", "--prompt-file", "n"), []),  # the shell completes files itself
    ],
    ids=" ".join,
)
def test_values_are_completed(folder: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert completed(folder, *words) == expected


def test_every_preset_is_offered(folder: Path) -> None:
    assert set(completed(folder, "count-params", "")) >= set(PRESETS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_can_be_had(shell: str) -> None:
    environment = {**os.environ, "_GPTCLI_COMPLETE": f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-m", "gptcli"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "_GPTCLI_COMPLETE" in done.stdout
