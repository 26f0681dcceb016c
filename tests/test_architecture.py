"""The shape of the code: who may import whom, how large things get, what loads when."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gptcli"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, MOST_STATEMENTS = 300, 40

# Every module of the library is in one group; a new file is a word here.
GROUPS = {
    "ground": "version errors escape signals heap",
    "files": "files yamlread atomic lines tables remote textset",
    "config": "config huggingface presets parameters footprint largest bounds memory batchsize",
    "places": "hub target available",
    "text": "tokenizer tokenizerfiles encodings vocabulary hfjson bpe rankfile",
    "terminal": "streams console progress table",
    "pictures": "curve plot page",
    "weights": "header impostors quantformat layout fit stored",
    "values": "tensordata normalised stats compare",
    "network": (
        "pace replayed model placeholder shortcut linear precision integer fourbit quantize layers"
        " attention fast"
    ),
    "sampling": "params draws filters penalties sampling",
    "engine": "sequence engine speculation prefixes batching beams",
    "completion": "completion",
    "loading": "fill quantstore ahead streamed checkpoint",
    "probe": "probe gradients",
    "records": (
        "badrecord overrides scores openai idtable jobspec records results digests"
        " batch journal recorded outputs runjob merge"
    ),
    "answers": "answers promptscores replay",
    "cluster": "cluster clusterlink clusterworker",
    "train": (
        "recipe rows muon optimizer processes bitsperbyte train trainstate trainstart"
        " trainjob trainend modelcard"
    ),
    "bench": "machine workload bench",
    "selftest": "selftest",
    "api": "__init__ __main__ api",
}

# What a group may import besides itself. The command line, `gptcli.cli`, may import everything,
# and of the library only `__main__` imports it.
ALLOWED = {
    "ground": "",
    "files": "ground",
    "config": "ground files",
    "places": "ground config",
    "text": "ground files places",  # a named encoding is downloaded as models are
    "terminal": "ground",
    "pictures": "ground",
    "weights": "ground files config",
    "values": "ground files config weights",
    "network": "ground config",  # and no sampling
    "sampling": "ground",  # and no network: logits are all it sees
    "engine": "ground config network sampling",  # and no text, files or terminal
    "completion": "engine text",
    "loading": "ground files config places weights values network",
    "probe": "ground config network",
    "records": "ground files config places text weights sampling",
    "answers": "ground files text network sampling engine completion records",
    "cluster": "ground config places text network loading records answers",
    "train": "ground files config places text weights network loading",  # to begin from a model
    "bench": "ground config network sampling engine",
    "selftest": "ground config places text weights network sampling engine loading",
    "api": "ground config places text network sampling engine completion loading",
}

# Who may import what others wrote; the command line may import torch inside functions only.
OWNERS = {
    "torch": (
        "network sampling engine loading probe records answers cluster train bench selftest api cli"
    ),
    "numpy": "values sampling engine train pictures",
    "safetensors": "loading train selftest",
    "tiktoken": "text",
    "tokenizers": "text",
    "yaml": "files train",
    "huggingface_hub": "places",
    "pyarrow": "files",
    "ray": "cluster",
    "rich": "terminal cli",
    "typer": "cli",
    "click": "",  # Typer brings its own
    "pickle": "",
}

# Importing these, and what they import, costs no torch.
WITHOUT_TORCH = "ground files config places text terminal pictures weights values records cli"

QUICK_COMMANDS = [
    ["--help"],
    ["--version"],
    ["generate", "--help"],
    ["count-params", "gpt2-124m"],
    ["inspect", "configs/tiny.json"],
    ["models"],
    ["generate", "-m", "no-such-model", "text"],
]


def name_of(path: Path) -> str:
    """As it is imported, without the package: `model`, `cli.generate`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def group_of(name: str) -> str:
    if name.partition(".")[0] == "cli":
        return "cli"
    found = [group for group, modules in GROUPS.items() if name in modules.split()]
    assert len(found) == 1, f"gptcli.{name} belongs into one group of {Path(__file__).name}"
    return found[0]


def statements(path: Path, *, at_import: bool = False) -> Iterator[ast.AST]:
    """The nodes of a file; `at_import` leaves out what functions and type checkers read."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def imports_of(path: Path, *, at_import: bool = False) -> tuple[set[str], set[str]]:
    """(our modules without the package, names of other distributions) that a file imports."""
    found: set[str] = set()
    for node in statements(path, at_import=at_import):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            module = node.module or ""
            inside = {f"{module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else module for name in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    ours = {name.removeprefix("gptcli.") for name in found if name.startswith("gptcli.")}
    return ours, {name.partition(".")[0] for name in found} - {"gptcli"}


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


AT_IMPORT = {name_of(path): imports_of(path, at_import=True) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_what_its_group_may(path: Path) -> None:
    name, (ours, others) = name_of(path), imports_of(path)
    group = group_of(name)
    for other in others - sys.stdlib_module_names - {"_typeshed"}:
        assert other in OWNERS, f"{name} imports {other}, which has no owner"
        assert group in OWNERS[other].split(), f"{name} ({group}) imports {other}"
    if group == "cli":
        return
    for other in ours - ({"cli"} if name == "__main__" else set()):
        allowed = [group, *ALLOWED[group].split()]
        assert group_of(other) in allowed, f"{name} ({group}) imports {other}"


def test_groups_and_modules_form_no_circle() -> None:
    TopologicalSorter({group: names.split() for group, names in ALLOWED.items()}).prepare()
    TopologicalSorter({name: ours - {name} for name, (ours, _) in AT_IMPORT.items()}).prepare()


@pytest.mark.parametrize("name", sorted(AT_IMPORT))
def test_what_needs_no_tensors_loads_no_torch(name: str) -> None:
    if group_of(name) not in WITHOUT_TORCH.split():
        pytest.skip("this one works with tensors")
    reached, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        ours, others = AT_IMPORT[module]
        assert "torch" not in others, f"gptcli.{name} loads torch through gptcli.{module}"
        reached.add(module)
        waiting += ours - reached


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


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = sum(isinstance(child, ast.stmt) for child in ast.walk(node)) - 1
            assert count <= MOST_STATEMENTS, f"{node.name} has {count} statements"


def test_most_functions_are_shorter_than_twelve_lines() -> None:
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    )
    assert lengths[len(lengths) // 2] < 12


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_in_one_line_what_it_is(path: Path) -> None:
    first, _, rest = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")
    assert first.endswith((".", ":", "?"))
    assert not rest or rest.startswith("\n"), "line 1 stands alone"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_can_unpickle(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    for word in ("torch.load", "import pickle", "numpy.load", "np.load", "import dill"):
        assert word not in source, f"{path.name} uses {word}"
