"""Compile the kernels into one shared library: `python -m gptcli.engine.build_kernels`.

One source, built once for each instruction set that the compiler knows; which of them runs is
chosen when the library is loaded. Used by setup.py, by hand with other compilers and flags
(docs/engine.md), and imports nothing of this package.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "kernels"
LIBRARY = "libgptcli_kernels.so"
FLAGS_VARIABLE = "GPTCLI_KERNEL_FLAGS"  # more flags, after ours

_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"]
_WIDE = [*_AVX512, "-mprefer-vector-width=512"]
BUILDS: dict[str, dict[str, list[str]]] = {  # by machine, the best first
    "x86_64": {
        "amx": [*_WIDE, "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
        "vnni": [*_WIDE, "-mavx512vnni"],
        "avx512": _WIDE,
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "plain": [],
    },
    "aarch64": {"neondot": ["-march=armv8.2-a+dotprod"], "neon": [], "plain": []},
}
_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}

# Every bit is fixed: no sum may be reordered, no product fused that is not written so.
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
]
FLAGS += ["-pthread", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas"]


class BuildError(Exception):
    """Why there is no library, in one line."""


def find_compiler() -> list[str]:
    """$CC, cc, gcc or clang, with the arguments that $CC has.

    Raises:
        BuildError: there is none.
    """
    named = shlex.split(os.environ.get("CC", ""))
    for command in ([named] if named else []) + [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    raise BuildError("no C compiler found ($CC, cc, gcc, clang)")


def build(
    target: Path,
    compiler: Sequence[str] | None = None,
    machine: str | None = None,
    flags: Sequence[str] = (),
) -> list[str]:
    """Write the library to `target`; returns the instruction sets in it, the best first.

    An instruction set that the compiler does not know is left out; plain C never is.

    Raises:
        BuildError: no compiler, an unknown system, or sources that do not compile.
    """
    if os.name != "posix" or sys.byteorder != "little":
        raise BuildError(f"the kernels are for little-endian POSIX systems (found {os.name})")
    command = list(compiler or find_compiler())
    flags = [*flags, *shlex.split(os.environ.get(FLAGS_VARIABLE, ""))]
    machine = (machine or platform.machine()).lower()
    builds = BUILDS.get(_NAMES.get(machine, machine), {"plain": []})
    with tempfile.TemporaryDirectory() as scratch:
        objects = Path(scratch)
        base = [*command, *FLAGS, *flags, f"-I{objects}", f"-I{SOURCES}", "-c"]

        def compiled(name: str) -> str | None:
            """None, or what the compiler said."""
            what = [*builds[name], f"-DBUILD={name}", f"-DBUILD_{name}", str(SOURCES / "kernels.c")]
            return _run([*base, *what, "-o", str(objects / f"{name}.o")])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            problems = dict(zip(builds, pool.map(compiled, builds), strict=True))
        if said := problems["plain"]:
            raise BuildError(f"{command[0]} failed: {said}")
        built = [name for name, problem in problems.items() if problem is None]
        (objects / "builds.h").write_text("".join(f"BUILT({name})\n" for name in built))
        for name in ("pool", "engine"):
            if said := _run([*base, str(SOURCES / f"{name}.c"), "-o", str(objects / f"{name}.o")]):
                raise BuildError(f"{command[0]} failed: {said}")
        linked = [str(objects / f"{name}.o") for name in (*built, "pool", "engine")]
        target.parent.mkdir(parents=True, exist_ok=True)
        made = objects / LIBRARY
        if said := _run([*command, "-shared", "-pthread", *flags, *linked, "-o", str(made), "-lm"]):
            raise BuildError(f"{command[0]} failed: {said}")
        shutil.copy(made, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)  # a process that has it open keeps the old one
    return built


def _run(command: Sequence[str]) -> str | None:
    """None if it succeeded, otherwise the first line that says error."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
    return next((line for line in lines if "error" in line), lines[0])


def main() -> None:
    """Build by hand."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=SOURCES.parent / LIBRARY)
    parser.add_argument("--cc", help="compiler, with its arguments (default: $CC, cc, gcc, clang)")
    parser.add_argument("--machine", help="to build for (default: this one)")
    parser.add_argument("--flags", default="", help="more flags: -fsanitize=address,undefined")
    asked = parser.parse_args()
    try:
        compiler = shlex.split(asked.cc) if asked.cc else None
        built = build(asked.output, compiler, asked.machine, shlex.split(asked.flags))
    except BuildError as problem:
        sys.exit(f"build_kernels: error: {problem}")
    sys.stdout.write(f"{asked.output}: {', '.join(built)}\n")


if __name__ == "__main__":
    main()
