"""Find and load the shared library of kernels; choose its build; its thread pool.

Structs mirror kernels/engine.h field by field. Nothing here checks a shape: `gptcli.engine.native`
does, before it calls.
"""

import ctypes
import os
import threading
from collections.abc import Sequence
from ctypes import POINTER, Array, Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

from gptcli.core.errors import RunError, UsageError
from gptcli.core.escape import shown
from gptcli.engine.build_kernels import LIBRARY

F32, BF16, F16, INT8, INT4 = range(5)
DONE, NOT_FINITE, NO_MEMORY = range(3)

ISA_VARIABLE = "GPTCLI_ISA"
LIBRARY_VARIABLE = "GPTCLI_KERNELS"  # another library, for tests: one with sanitizers


def ints(values: Sequence[int]) -> "Array[c_int32]":
    """A C array of them."""
    return (c_int32 * len(values))(*values)


class Matrix(Structure):
    """Weights (rows, cols)."""

    _fields_: ClassVar = [
        ("type", c_int32),
        ("rows", c_int32),
        ("cols", c_int32),
        ("stride", c_int64),
        ("data", c_void_p),
        ("scales", c_void_p),
    ]


class Linear(Structure):
    """Weights and, perhaps, a bias."""

    _fields_: ClassVar = [("weight", Matrix), ("bias", c_void_p)]


class Norm(Structure):
    """Scale and shift of a LayerNorm."""

    _fields_: ClassVar = [("scale", c_void_p), ("shift", c_void_p)]


class Block(Structure):
    """One transformer block."""

    _fields_: ClassVar = [
        ("norm1", Norm),
        ("norm2", Norm),
        ("query", Linear),
        ("key", Linear),
        ("value", Linear),
        ("out", Linear),
        ("up", Linear),
        ("down", Linear),
        ("attention_scale", c_float),
    ]


class Model(Structure):
    """The network."""

    _fields_: ClassVar = [
        ("vocab", c_int32),
        ("context", c_int32),
        ("emb", c_int32),
        ("heads", c_int32),
        ("layers", c_int32),
        ("inner", c_int32),
        ("activation", c_int32),
        ("epsilon", c_float),
        ("tokens", Matrix),
        ("positions", Matrix),
        ("blocks", POINTER(Block)),
        ("final_norm", Norm),
        ("head", Linear),
    ]


class KVCache(Structure):
    """Keys and values of one sequence."""

    _fields_: ClassVar = [("keys", c_void_p), ("values", c_void_p), ("capacity", c_int64)]


class Request(Structure):
    """The rows of one step."""

    _fields_: ClassVar = [
        ("rows", c_int32),
        ("n_logits", c_int32),
        ("ids", POINTER(c_int32)),
        ("positions", POINTER(c_int32)),
        ("owners", POINTER(c_int32)),
        ("caches", POINTER(KVCache)),
        ("logit_rows", POINTER(c_int32)),
        ("logits", c_void_p),
        ("logit_stride", c_int64),
    ]


class Workspace(Structure):
    """Memory that steps compute in."""

    _fields_: ClassVar = [("memory", c_void_p), ("size", c_int64)]


class Build(NamedTuple):
    """The kernels for one instruction set: `plain`, `avx2`, `avx512`, `vnni`, `amx`, `neon`, ..."""

    number: int
    name: str
    is_supported: bool


_SIGNATURES = {
    "gptcli_builds": (c_int, []),
    "gptcli_build_name": (c_char_p, [c_int]),
    "gptcli_build_supported": (c_int, [c_int]),
    "gptcli_pool_create": (c_void_p, [c_int]),
    "gptcli_pool_destroy": (None, [c_void_p]),
    "gptcli_workspace_free": (None, [POINTER(Workspace)]),
    "gptcli_step": (
        c_int,
        [c_int, c_void_p, POINTER(Workspace), POINTER(Model), POINTER(Request)],
    ),
    "gptcli_transpose": (
        c_int,
        [c_int, c_void_p, c_void_p, c_int64, c_int, c_int, c_int, c_void_p],
    ),
    "gptcli_quantize": (c_int, [c_int, c_void_p, POINTER(Matrix), c_int, c_void_p, c_void_p]),
    "gptcli_pack": (c_int, [c_int, c_void_p, POINTER(Matrix), c_void_p, c_void_p, c_void_p]),
    "gptcli_read": (c_int, [c_int, c_void_p, c_void_p, c_int64]),
    "gptcli_apply": (None, [c_int, c_int, c_void_p, c_void_p, c_int64]),
}


def library_path() -> Path:
    """Where the library is to be."""
    return Path(os.environ.get(LIBRARY_VARIABLE) or Path(__file__).parent / LIBRARY)


@cache
def _load(path: Path) -> ctypes.CDLL | str:
    """The library, or why there is none."""
    if not path.exists():
        return f"{shown(path)}: not built (it needs a C compiler when gptcli is installed)"
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return f"{shown(path)}: cannot be loaded ({shown(error)})"
    return library


def why_unavailable() -> str | None:
    """Why the kernels cannot be used here, None if they can."""
    found = _load(library_path())
    return found if isinstance(found, str) else None


def load() -> ctypes.CDLL:
    """The library.

    Raises:
        RunError: there is none.
    """
    found = _load(library_path())
    if isinstance(found, str):
        where, _, problem = found.partition(": ")
        raise RunError(where, problem, "Install gptcli again where there is a C compiler")
    return found


@cache
def builds() -> tuple[Build, ...]:
    """What is in the library, the best first.

    Raises:
        RunError: there is no library.
    """
    library = load()
    return tuple(
        Build(
            number,
            library.gptcli_build_name(number).decode(),
            bool(library.gptcli_build_supported(number)),
        )
        for number in range(library.gptcli_builds())
    )


def choose_build(name: str | None = None) -> Build:
    """The build of this name, or of $GPTCLI_ISA, or the best that this processor runs.

    Raises:
        UsageError: there is no such build, or the processor does not run it.
        RunError: there is no library.
    """
    name = name or os.environ.get(ISA_VARIABLE) or None
    usable = [build for build in builds() if build.is_supported]
    if name is None:
        return usable[0]
    for build in usable:
        if build.name == name:
            return build
    known = any(build.name == name for build in builds())
    problem = "this processor does not run it" if known else "unknown instruction set"
    expected = ", ".join(build.name for build in usable)
    raise UsageError(ISA_VARIABLE, f'{problem} (found "{shown(name, 40)}", expected {expected})')


def available_threads() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool:
    """Threads of the kernels' own; they sleep while there is no work."""

    def __init__(self, threads: int) -> None:
        self._handle = load().gptcli_pool_create(threads)
        if not self._handle:
            raise RunError("--threads", "out of memory")
        self._lock = threading.Lock()

    def __enter__(self) -> int:
        """One call at a time; the handle."""
        self._lock.acquire()
        return self._handle

    def __exit__(self, *_exception: object) -> None:
        self._lock.release()

    def after_fork(self) -> None:
        """A lock that another thread of the parent held stays locked for ever in the child."""
        self._lock = threading.Lock()


_pools: dict[int, Pool] = {}


def shared_pool(threads: int) -> Pool:
    """The pool of so many threads: one for all models, made when it is first asked for."""
    if threads not in _pools:
        _pools.setdefault(threads, Pool(threads))
    return _pools[threads]


def _after_fork() -> None:
    for pool in _pools.values():
        pool.after_fork()


os.register_at_fork(after_in_child=_after_fork)
