"""Memory in use and available, and a check before large allocations."""

from collections.abc import Iterator
from pathlib import Path

from gptcli.core.errors import RunError
from gptcli.core.units import bytes_text

try:
    import resource
except ImportError:  # not Unix: no limit is known
    resource = None  # type: ignore[assignment]

_NO_MEMORY = ("allocate", "out of memory")  # in PyTorch's messages, CPU and GPU
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Available memory: the least of machine, container (cgroup) and RLIMIT_AS; None if unknown."""
    return min(_limits(), default=None)


def require(where: object, needed: float, available: int | None) -> None:
    """Refuse an allocation that would not fit, before it is made.

    Raises:
        RunError: `needed` bytes are more than `available`.
    """
    if available is not None and needed > available:
        problem = f"needs about {bytes_text(needed)}, {bytes_text(available)} are available"
        raise RunError(where, problem, "A smaller model or `dtype=bfloat16` needs less")


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an exception means out of memory: Python's, PyTorch's or CUDA's."""
    if isinstance(problem, MemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(word in str(problem) for word in _NO_MEMORY)


def resident_bytes() -> int | None:
    """Resident memory of the process; None if unknown."""
    return _kilobytes("VmRSS:")


def peak_bytes() -> int | None:
    """Peak resident memory of the process; None if unknown."""
    return _kilobytes("VmHWM:")


def _kilobytes(name: str) -> int | None:
    count = _field(Path("/proc/self/status"), name)
    return None if count is None else count * 1024


def _limits() -> Iterator[int]:
    if (free := _field(Path("/proc/meminfo"), "MemAvailable:")) is not None:
        yield free * 1024
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        cached = _field(_CGROUP / "memory.stat", "file") or 0  # page cache, freed on demand
        yield max(0, limit - used + cached)
    if resource is not None:
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = _number(Path("/proc/self/statm"))
        if soft != resource.RLIM_INFINITY and pages is not None:
            yield max(0, soft - pages * resource.getpagesize())


def _number(path: Path) -> int | None:
    """The first word of a small system file as a number; None for another word, such as "max"."""
    words = _text(path).split(maxsplit=1)
    return int(words[0]) if words and words[0].isdigit() else None


def _field(path: Path, name: str) -> int | None:
    lines = (line.split() for line in _text(path).splitlines())
    return next((int(words[1]) for words in lines if words[:1] == [name]), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
