"""What loads when: quick commands without PyTorch, the package without anything; no unpickling.

Who may import whom stands in pyproject.toml and is checked by import-linter.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "gptcli").rglob("*.py"))

QUICK_COMMANDS = [
    ["--help"],
    ["--version"],
    ["generate", "--help"],
    ["count-params", "gpt2-124m"],
    ["inspect", "configs/tiny.json"],
    ["models"],
    ["tokenize", "Once upon a time"],
    ["generate", "-m", "no-such-model", "text"],
]


@pytest.mark.parametrize("arguments", QUICK_COMMANDS, ids=" ".join)
def test_quick_commands_leave_torch_unloaded(arguments: list[str]) -> None:
    script = (
        "import sys; from gptcli.cli import run; run(sys.argv[1:]);"
        "print(*{'torch', 'transformers'} & sys.modules.keys(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == [""], done.stderr


def test_importing_the_package_loads_nothing_of_others() -> None:
    script = (
        "import sys, gptcli; dir(gptcli); print(*{'torch', 'numpy', 'rich'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_can_unpickle(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    for word in ("torch.load", "import pickle", "numpy.load", "np.load", "import dill"):
        assert word not in source, f"{path.name} uses {word}"
