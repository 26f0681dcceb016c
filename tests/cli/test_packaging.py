"""The package as users get it: built, installed in a plain way, and used away from the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = "libgptcli_kernels.so"

pytestmark = pytest.mark.timeout(600)
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "gptcli", "configs")
BUILD = "import sys; from setuptools import build_meta as build; build.build_{0}(sys.argv[1])"


def build(kind: str, source: Path, into: Path) -> Path:
    """Build a wheel or an sdist of a source tree, which is written to, with what is installed."""
    into.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD.format(kind), str(into)]
    quick = os.environ | {"GPTCLI_KERNEL_FLAGS": "-O0"}  # compiled in seconds
    done = subprocess.run(
        command, cwd=source, check=False, capture_output=True, text=True, env=quick
    )
    assert done.returncode == 0, done.stderr
    (made,) = into.iterdir()
    return made


def has_compiler() -> bool:
    return any(map(shutil.which, ("cc", "gcc", "clang")))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads."""
    pytest.importorskip("setuptools", "77", reason="needs setuptools 77 to build the package")
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
            )
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("build") / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is installed, without its dependencies."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    return target


def files_of(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


def run(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the installed package first, from a folder that holds nothing of ours."""
    return subprocess.run(
        [sys.executable, *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel: Path) -> None:
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "gptcli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    if has_compiler():
        expected.add(f"gptcli/engine/{LIBRARY}")
    expected |= {f"gptcli/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    assert files_of(wheel) == expected
    assert "gptcli/py.typed" in expected


def test_the_sdist_makes_the_same_wheel(wheel: Path, source: Path, tmp_path: Path) -> None:
    archive = build("sdist", source, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert files_of(build("wheel", unpacked, tmp_path / "wheel")) == files_of(wheel)


@pytest.mark.skipif(not has_compiler(), reason="needs a C compiler")
def test_one_wheel_with_kernels_serves_every_python(wheel: Path, installed: Path) -> None:
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    assert not wheel.name.endswith("any.whl")
    script = "from gptcli.engine import library as l; print(l.library_path(), l.builds()[-1].name)"
    found = run(installed, "-c", script).stdout.split()
    assert found == [str(installed / "gptcli" / "engine" / LIBRARY), "plain"]


def test_without_a_compiler_the_package_is_installed_for_any_platform(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("build", "*.so"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    made = build("wheel", tmp_path / "source", tmp_path / "wheel")
    assert made.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in files_of(made))


def test_a_plain_install_finds_its_own_configs(installed: Path) -> None:
    script = "from gptcli.checkpoint.presets import configs_directory as d; print(d())"
    assert run(installed, "-c", script).stdout.strip() == str(installed / "gptcli" / "configs")
    counted = run(installed, "-m", "gptcli", "count-params", "gpt2-1558m")
    assert counted.returncode == 0, counted.stderr
    assert "1,637,792,000" in counted.stdout


def test_a_plain_install_has_the_command(installed: Path) -> None:
    done = subprocess.run(
        [installed / "bin" / "gptcli", "--version"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )
    (metadata,) = installed.glob("gptcli-*.dist-info")
    assert done.stdout.split()[-1] == metadata.name.removesuffix(".dist-info").partition("-")[2]


@pytest.mark.skipif(
    not (ROOT / "gptcli" / "data" / "stories").is_dir(),
    reason="needs the built-in model gptcli/data/stories",
)
def test_a_plain_install_writes_a_story_without_network(installed: Path) -> None:
    command = ("-m", "gptcli", "generate", "Once upon a time", "--offline", "--seed", "1", "-n5")
    done = run(installed, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Once upon a time")
