"""A model's weights straight from its files into the layers they run in.

A `gptcli.layers.Weights`. Layers that keep the floats as they are, are read all at once, two
tensors at a time. Others a layer at a time: while one is rearranged for the processor, the floats
of the next are read, so that no more are held than those of two layers or of the head. A token
embedding that the head shares stays in the file, for the head is kept in a form of its own.

Shapes: N ids, E emb_dim.
"""

import math
import os
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gptcli.config import GPTConfig
from gptcli.errors import RunError
from gptcli.escape import shown
from gptcli.fill import DTYPES, fill
from gptcli.header import Header, TensorInfo
from gptcli.layers import HEAD, Embedding, FloatWeights
from gptcli.layout import EMBEDDING, Layout, expected_shapes
from gptcli.linear import can_pack
from gptcli.quantize import Width
from gptcli.tensordata import read_into, reading, refuse_change

Names = tuple[str, ...]
Floats = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Float weights that were found to be right, and what is to become of them."""

    headers: Sequence[Header]
    layout: Layout
    config: GPTConfig
    dtype: torch.dtype
    device: str
    check_finite: bool


class StreamedWeights(FloatWeights):
    """Reads all, or ahead of whoever asks for layers in the order of the network."""

    def __init__(self, files: Files, width: Width | None, *, single: bool = False) -> None:
        super().__init__(files.config, width, single=single)
        self._files = files
        self._shapes = expected_shapes(files.config)
        self._order = list(_blocks(files.config.n_layers))
        self._next = dict(pairwise([(HEAD,), *self._order]))
        self._ahead: dict[Names, Future[Floats]] = {}
        self._pool = ThreadPoolExecutor(1)
        self._space = [self._empty([0]), self._empty([0])]
        keeps_floats = width is None and not can_pack(self._space[0], single=single)
        self._all: dict[Names, Floats] | None = {} if keeps_floats else None

    def tensor(self, name: str) -> Tensor:
        """As it is in the files."""
        weight = self._empty(self._shapes[name])
        self._fill({name: weight})
        return weight

    def taken(self, *names: str) -> Floats:
        """What was read, or is read now; then what follows."""
        if self._all is not None:
            self._all = self._all or self._read([(HEAD,), *self._order])
            return self._all.pop(names)
        reading = self._ahead.pop(names, None)
        floats = self._read_one(names) if reading is None else reading.result()
        if (following := self._next.get(names)) is not None:
            self._ahead[following] = self._pool.submit(self._read_one, following)
        return floats

    def rows(self) -> Embedding:
        """In the file, if the head is the same and the processor reads files; else in memory."""
        header, info = _find(self._files.headers, self._files.layout.sources[EMBEDDING].name)
        in_memory = not self.config.tie_weights or self._files.device != "cpu"
        return self.tensor(EMBEDDING) if in_memory else FileRows(header, info, self._files.dtype)

    def _read_one(self, names: Names) -> Floats:
        return self._read([names], self._spare(names))[names]

    def _read(self, layers: Sequence[Names], space: Tensor | None = None) -> dict[Names, Floats]:
        """One matrix and one bias each whose parts are those of the names."""
        found: dict[Names, Floats] = {}
        parts: dict[str, Tensor] = {}
        for names in layers:
            found[names], its_parts = self._places(names, space)
            parts |= its_parts
        self._fill(parts)
        return found

    def _places(self, names: Names, space: Tensor | None) -> tuple[Floats, dict[str, Tensor]]:
        """Where a layer's matrix and bias are to be, and each part's place in them."""
        shared = {f"{HEAD}.weight": EMBEDDING} if self.config.tie_weights else {}
        matrices = [shared.get(name, name) for name in (f"{part}.weight" for part in names)]
        biases = [name for part in names if (name := f"{part}.bias") in self._shapes]
        weight, parts = self._joined(matrices, space)
        bias, more = self._joined(biases) if biases else (None, {})
        return (weight, bias), parts | more

    def _joined(
        self, names: Sequence[str], space: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Memory for tensors one below the other, new or in a space, and each one's part of it."""
        rows = [self._shapes[name][0] for name in names]
        shape = (sum(rows), *self._shapes[names[0]][1:])
        whole = self._empty(shape) if space is None else space[: math.prod(shape)].view(shape)
        return whole, dict(zip(names, whole.split(rows), strict=True))

    def _spare(self, names: Names) -> Tensor | None:
        """One of two spaces in turn for a block's matrix, which its layer does not keep.

        When a layer is asked for, the one before it is made, and the space of that is free.
        """
        if names not in self._order:
            return None
        self._space.reverse()
        if not self._space[0].numel():
            E = self.config.emb_dim
            self._space[0] = self._empty([4 * E * E])
        return self._space[0]

    def _empty(self, shape: Sequence[int]) -> Tensor:
        files = self._files
        try:
            return torch.empty(*shape, dtype=files.dtype, device=files.device)
        except (RuntimeError, MemoryError) as error:  # what torch calls a failed allocation
            reason = (str(error).splitlines() or ["out of memory"])[0]
            raise RunError(f"--device {shown(files.device)}", shown(reason)) from None

    def _fill(self, destinations: dict[str, Tensor]) -> None:
        files = self._files
        fill(files.headers, files.layout, destinations, check_finite=files.check_finite)


class FileRows:
    """The rows of a matrix in an open file, read anew whenever they are asked for."""

    def __init__(self, header: Header, info: TensorInfo, dtype: torch.dtype) -> None:
        """Rows become `dtype`.

        Raises:
            RunError: the file has changed, or cannot be read.
        """
        self._header, self._info, self._dtype = header, info, dtype
        with reading(header) as fd:
            self._fd = os.dup(fd)  # the file stays ours if its name becomes another's
        weakref.finalize(self, os.close, self._fd)

    def __getitem__(self, ids: Tensor) -> Tensor:
        """(N,) ids → (N, E).

        Raises:
            RunError: the file has changed.
        """
        rows = torch.empty(len(ids), self._info.shape[1], dtype=DTYPES[self._info.dtype])
        for row, id in zip(rows.view(torch.uint8).numpy(), ids.tolist(), strict=True):
            read_into(row, self._fd, self._info.start + id * row.nbytes, self._info)
        refuse_change(self._fd, self._header)
        return rows.to(self._dtype)


def _blocks(n_layers: int) -> Iterator[Names]:
    """The layers that are made as one, in the order in which they are asked for."""
    for block in (f"trf_blocks.{n}" for n in range(n_layers)):
        yield tuple(f"{block}.att.W_{part}" for part in ("query", "key", "value"))
        yield from ((f"{block}.{part}",) for part in ("att.out_proj", "ff.layers.0", "ff.layers.2"))


def _find(headers: Sequence[Header], name: str) -> tuple[Header, TensorInfo]:
    return next((header, header.tensors[name]) for header in headers if name in header.tensors)
