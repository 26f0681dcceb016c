"""A model's weights straight from its files into the layers they run in.

A `gptcli.engine.layers.Weights`. Layers that keep the floats as they are, are read all at once, two
tensors at a time. Others a layer at a time by each thread that asks (`gptcli.engine.ahead`), so
that no more floats are held than those of as many layers, or of the head. A token embedding that
the head shares stays in the file, for the head is kept in a form of its own.

Shapes: N ids, E emb_dim.
"""

import math
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock, local

import torch
from torch import Tensor

from gptcli.checkpoint.fill import DTYPES, fill
from gptcli.checkpoint.header import Header, TensorInfo
from gptcli.checkpoint.layouts import EMBEDDING, Layout, expected_shapes
from gptcli.checkpoint.tensordata import read_into, reading, refuse_change
from gptcli.core.errors import RunError
from gptcli.core.escape import shown
from gptcli.engine.layers import HEAD, Embedding, FloatWeights, Names, of_blocks
from gptcli.engine.linear import can_pack
from gptcli.engine.quantize import Width
from gptcli.model.config import GPTConfig

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
    """Reads all, or what is asked for.

    Attributes:
        keeps_floats: whether layers keep what is read, all of which is then read at once.
    """

    def __init__(self, files: Files, width: Width | None, *, single: bool = False) -> None:
        super().__init__(files.config, width, single=single)
        self._files = files
        self._shapes = expected_shapes(files.config)
        self._reading = Lock()
        self._spaces = local()
        self.keeps_floats = width is None and not can_pack(self._empty([0]), single=single)
        self._all: dict[Names, Floats] | None = None

    def tensor(self, name: str) -> Tensor:
        """As it is in the files."""
        weight = self._empty(self._shapes[name])
        self._fill({name: weight})
        return weight

    def taken(self, *names: str) -> Floats:
        """What was read, or is read now; of a block, good until this thread asks for the next."""
        if self.keeps_floats:
            self._all = self._all or self._read([(HEAD,), *of_blocks(self.config.n_layers)])
            return self._all.pop(names)
        return self._read([names], self._space(names))[names]

    def rows(self) -> Embedding:
        """In the file, if the head is the same and the processor reads files; else in memory."""
        header, info = _find(self._files.headers, self._files.layout.sources[EMBEDDING].name)
        in_memory = not self.config.tie_weights or self._files.device != "cpu"
        return self.tensor(EMBEDDING) if in_memory else FileRows(header, info, self._files.dtype)

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

    def _space(self, names: Names) -> Tensor | None:
        """This thread's, for a block's matrix, which its layer does not keep."""
        if names[0] in {HEAD, "tok_emb"}:
            return None
        if not hasattr(self._spaces, "floats"):
            E = self.config.emb_dim
            self._spaces.floats = self._empty([E * max(3 * E, self.config.hidden_dim)])
        found: Tensor = self._spaces.floats
        return found

    def _empty(self, shape: Sequence[int]) -> Tensor:
        files = self._files
        try:
            return torch.empty(*shape, dtype=files.dtype, device=files.device)
        except (RuntimeError, MemoryError) as error:  # what torch calls a failed allocation
            reason = (str(error).splitlines() or ["out of memory"])[0]
            raise RunError(f"`device={shown(files.device)}`", shown(reason)) from None

    def _fill(self, destinations: dict[str, Tensor]) -> None:
        files = self._files
        with self._reading:  # two would set the threads of PyTorch for each other
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


def _find(headers: Sequence[Header], name: str) -> tuple[Header, TensorInfo]:
    return next((header, header.tensors[name]) for header in headers if name in header.tensors)
