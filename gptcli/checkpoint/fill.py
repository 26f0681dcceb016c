"""Tensor data from safetensors files straight into a model's memory.

Reads with `pread`, never through a map: a file that shrinks or is rewritten meanwhile is an
error, not a signal or another model. What needs no change goes to its place at once; what is
transposed, converted or sent to a device passes through a buffer of about 1 MiB, so loading takes
the memory of the weights and little more. Knows no names but those a layout gives it.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from gptcli.checkpoint.header import Header, TensorInfo
from gptcli.checkpoint.layouts import Layout
from gptcli.checkpoint.tensordata import read_into, reading
from gptcli.core.errors import InputError
from gptcli.core.escape import shown

CHUNK = 1 << 20  # bytes; stays in the processor's cache while it is checked and transposed

WORKERS = 2  # tensors on their way at once, each with a buffer of its own

DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
    "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip


def fill(
    headers: Sequence[Header],
    layout: Layout,
    destinations: Mapping[str, Tensor],
    *,
    check_finite: bool = True,
) -> None:
    """Read into each destination, named as the book does, what the files hold for it.

    Args:
        headers: of the files, and what they were when they were checked.
        layout: where in the files each tensor is.
        destinations: contiguous tensors of the right shapes, of any float dtype, on any device;
            integers are read only into their own dtype.
        check_finite: refuse NaN, infinities and values too large for a destination's dtype
            (in F64 tensors the last is refused always).

    Raises:
        InputError: values that are not finite.
        RunError: a file changed while it was being read, or could not be read.
    """
    places: dict[str, list[str]] = {}  # a file's tensor → the book's names, in the order of parts
    for name, source in layout.sources.items():
        if name in destinations:
            places.setdefault(source.name, []).append(name)
    with _single_threaded_torch(), ThreadPoolExecutor(WORKERS) as pool:
        for header in headers:
            with reading(header) as fd:

                def fill_from(info: TensorInfo, fd: int = fd) -> None:
                    names = places[info.name]
                    flip = layout.sources[names[0]].transposed
                    check = check_finite or info.dtype == "F64"
                    way = _fill_transposed if flip else _fill_straight
                    way(fd, info, [destinations[name] for name in names], check)

                wanted = [info for info in header.tensors.values() if info.name in places]
                for _ in pool.map(fill_from, wanted):  # the first error, in the file's order
                    pass
    for name in layout.zeros:
        if name in destinations:
            destinations[name].zero_()


def same_bytes(first: tuple[Header, TensorInfo], second: tuple[Header, TensorInfo]) -> bool:
    """Whether two tensors are equal bit for bit; stops at the first difference."""
    (header_a, a), (header_b, b) = first, second
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with reading(header_a) as fd_a, reading(header_b) as fd_b:
        for at in range(0, a.nbytes, CHUNK):
            count = min(CHUNK, a.nbytes - at)
            if os.pread(fd_a, count, a.start + at) != os.pread(fd_b, count, b.start + at):
                return False
    return True


@contextmanager
def _single_threaded_torch() -> Iterator[None]:
    """A tensor a worker; on a busy machine torch's own threads would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fill_straight(fd: int, info: TensorInfo, targets: list[Tensor], check: bool) -> None:
    """The targets lie one after another in the file's tensor, in its own order of elements."""
    dtype, offset = DTYPES[info.dtype], info.start
    staging = torch.empty(CHUNK // dtype.itemsize, dtype=dtype)
    for target in targets:
        for piece in target.view(-1).split(len(staging)):
            in_place = piece.dtype == dtype and piece.device.type == "cpu"
            raw = piece if in_place else staging[: len(piece)]
            _read_into(raw, fd, offset, info)
            values = raw.to(piece.dtype)
            if check and not _is_finite(values):
                raise _not_finite(fd, info, piece.dtype)
            if not in_place:
                piece.copy_(values)
            offset += raw.nbytes


def _fill_transposed(fd: int, info: TensorInfo, targets: list[Tensor], check: bool) -> None:
    """(inputs, outputs of all targets side by side) in the file → (outputs, inputs) each."""
    inputs, outputs = info.shape
    dtype, kept = DTYPES[info.dtype], targets[0].dtype
    rows = max(1, CHUNK // (outputs * dtype.itemsize))
    staging = torch.empty(min(rows, inputs), outputs, dtype=dtype)
    for row in range(0, inputs, rows):
        raw = staging[: inputs - row]
        _read_into(raw, fd, info.start + row * outputs * dtype.itemsize, info)
        values = raw.to(kept)
        if check and not _is_finite(values):
            raise _not_finite(fd, info, kept)
        turned = values.T.contiguous()  # at once: torch has a fast path for a whole transpose
        for target, part in zip(targets, turned.chunk(len(targets)), strict=True):
            target[:, row : row + len(raw)] = part


def _read_into(tensor: Tensor, fd: int, offset: int, info: TensorInfo) -> None:
    """Fill a contiguous CPU tensor; the interpreter runs on meanwhile."""
    read_into(tensor.view(-1).view(torch.uint8).numpy(), fd, offset, info)


def _is_finite(values: Tensor) -> bool:
    """One pass: a sum is finite only if every value is; where it overflows, look at each."""
    return math.isfinite(values.sum(dtype=torch.float32)) or bool(values.isfinite().all())


def _not_finite(fd: int, info: TensorInfo, kept: torch.dtype) -> InputError:
    """Counts what is wrong in the whole tensor, for the message."""
    dtype = DTYPES[info.dtype]
    nan = infinite = large = 0
    first: int | None = None
    for begin in range(0, info.numel, CHUNK):
        raw = torch.empty(min(CHUNK, info.numel - begin), dtype=dtype)
        _read_into(raw, fd, info.start + begin * dtype.itemsize, info)
        bad = ~raw.to(kept).isfinite()
        nan += int(raw.isnan().sum())
        infinite += int(raw.isinf().sum())
        large += int((bad & raw.isfinite()).sum())
        if first is None and bad.any():
            first = begin + int(bad.nonzero()[0])
    found = [f"{nan:,} NaN"] * (nan > 0) + [f"{infinite:,} infinite"] * (infinite > 0)
    if not found:
        found = [f"{large:,} too large for {str(kept).removeprefix('torch.')}"]
    at = _index(first or 0, info.shape)
    problem = f'tensor "{shown(info.name)}" holds {" and ".join(found)} values (first at {at})'
    return InputError(shown(info.path), problem)


def _index(flat: int, shape: tuple[int, ...]) -> list[int]:
    """The place of the flat-th element of a tensor in row-major order."""
    index: list[int] = []
    for size in reversed(shape):
        flat, last = divmod(flat, size)
        index.insert(0, last)
    return index
