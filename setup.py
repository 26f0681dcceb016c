"""Builds the engine's kernels; everything else is in pyproject.toml.

The library is not a Python extension: it is loaded with ctypes, so one wheel serves every Python of
a platform. Where there is no compiler the package is installed without it, and PyTorch computes.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ENGINE = Path("gptcli") / "engine"


def _build_kernels() -> Any:
    """gptcli/engine/build_kernels.py, without the package around it."""
    path = Path(__file__).parent / ENGINE / "build_kernels.py"
    spec = importlib.util.spec_from_file_location("build_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kernels = _build_kernels()


class BuildKernels(build_ext):
    """Compiles once for each instruction set, with the compiler that is there."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's own name, for it belongs to no version of Python."""
        return str(Path(*fullname.split(".")[:-1]) / kernels.LIBRARY)

    def build_extension(self, ext: Extension) -> None:
        """Build it, or say why not."""
        target = Path(self.get_ext_fullpath(ext.name))
        try:
            built = kernels.build(target)
        except kernels.BuildError as problem:
            sys.stderr.write(f"gptcli: installed without its kernels: {problem}\n")
        else:
            sys.stderr.write(f"gptcli: kernels built for {', '.join(built)}\n")

    def get_outputs(self) -> list[str]:
        """What was built."""
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        """For an editable install."""
        if any(Path(path).exists() for path in super().get_outputs()):
            super().copy_extensions_to_source()


class Wheel(bdist_wheel):
    """Tagged for the platform and any Python 3, or for any platform where nothing was built."""

    def get_tag(self) -> tuple[str, str, str]:
        """`py3-none-PLATFORM`."""
        platform = super().get_tag()[2]
        has_library = bool(self.get_finalized_command("build_ext").get_outputs())
        return "py3", "none", platform if has_library else "any"


sources = sorted(str(path) for path in (ENGINE / "kernels").glob("*.c"))
headers = sorted(str(path) for path in (ENGINE / "kernels").glob("*.h"))
setup(
    ext_modules=[Extension("gptcli.engine.kernels", sources, depends=headers)],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
