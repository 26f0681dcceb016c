"""Open a checkpoint once; its tensors as arrays, for an engine.

Checks run before anything is allocated, cheapest first: header, names, shapes and dtypes against
the config, memory; the data is checked while it is read. Never unpickles.

Whether the output head is the token embedding (tied) is the file's to say: it is where the file
has no head, or one equal to the embedding bit for bit; otherwise the file's head is used,
whatever the config says. Only in the book's layout a missing head needs `tie_weights: true`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptcli.checkpoint.arrays import Array, read_array, same_bytes
from gptcli.checkpoint.compatibility import find_mismatches
from gptcli.checkpoint.header import Header, TensorInfo, read_headers
from gptcli.checkpoint.layouts import (
    EMBEDDING,
    HEAD,
    Layout,
    TensorSource,
    all_tensors,
    detect_layout,
    implied_config,
)
from gptcli.checkpoint.quantized import LEVELS, SCALES, VALUES, ZEROS
from gptcli.core.errors import InputError, one_message
from gptcli.core.escape import shown
from gptcli.core.memory import available_bytes, require
from gptcli.engine.quantize import Floats, Int4Matrix, Int8Matrix, widened
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import FloatDtype, Width
from gptcli.model.parameters import BYTES, count

_MARGIN = 1.2  # activations, staging, and what the allocator wastes
_STORED: dict[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_DTYPES: dict[str, FloatDtype] = {"BF16": "bfloat16", "F16": "float16"}
_QUERY, _QKV = "att.W_query.", "att.qkv."


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's tensors, each read when it is asked for.

    Attributes:
        config: its shape; `tie_weights` says whether the head is the token embedding.
        tensors: float32, float16, or uint16 for bfloat16, by the book's names; a tied head and
            biases that are zero are left out. Query, key and value that the file has in one
            tensor are in one here, `att.qkv.weight` (3E, E). Rounded matrices come as
            `gptcli.checkpoint.quantized` names their parts.
        width: of quantised matrices, None where all are floats.
    """

    config: GPTConfig
    tensors: Mapping[str, Array]
    width: Width | None = None

    def floats(self, name: str) -> Floats:
        """One tensor as float32, dequantised if need be."""
        if name + VALUES in self.tensors:
            return Int8Matrix(*(self.tensors[name + part] for part in (VALUES, SCALES))).floats()
        if name + LEVELS in self.tensors:
            parts = (self.tensors[name + part] for part in (LEVELS, SCALES, ZEROS))
            return Int4Matrix(*parts).floats()
        tensor = self.tensors[name]
        return widened(tensor) if tensor.dtype == np.uint16 else tensor.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weight files whose headers were parsed and found to be a config's."""

    path: Path
    headers: Sequence[Header]
    layout: Layout
    config: GPTConfig

    @property
    def width(self) -> Width | None:
        """The width of quantised weights, None of floats."""
        return self.layout.width

    @property
    def dtype(self) -> FloatDtype:
        """The dtype that holds most bytes: 16-bit floats are kept, all else becomes float32."""
        sizes: Counter[str] = Counter()
        for header in self.headers:
            for info in header.tensors.values():
                sizes[info.dtype] += info.nbytes
        return _DTYPES.get(max(sizes, key=sizes.__getitem__, default="F32"), "float32")

    def is_tied(self) -> bool:
        """Whether the file's head is its embedding: there is none, or it is equal bit for bit."""
        if HEAD not in self.layout.sources:
            return True
        return not self.width and same_bytes(self.find(HEAD), self.find(EMBEDDING))

    def weights(
        self,
        dtype: FloatDtype = "float32",
        quantize: Width | None = None,
        *,
        check_finite: bool = True,
        threads: int = 1,
        available: int | None = None,
    ) -> Weights:
        """All tensors, to be read one by one, once it is known that there is memory for them.

        Args:
            dtype: of floats.
            quantize: what they will be rounded to.
            check_finite: refuse NaN and infinite weights.
            threads: that read.
            available: bytes there are for it; None asks the system.

        Raises:
            RunError: too little memory. The tensors raise as `read_array` does.
        """
        available = available_bytes() if available is None else available
        width = self.width or quantize or dtype
        least = replace(self.config, tie_weights=True)
        require_memory(self.path, least, width, available)  # before a head is compared
        config = replace(self.config, tie_weights=self.is_tied())
        require_memory(self.path, config, width, available)
        tensors = _Tensors(self, config, dtype, check_finite, threads)
        return Weights(config, tensors, self.width)

    def find(self, name: str) -> tuple[Header, TensorInfo]:
        """Where the files have one of the book's tensors."""
        return self.in_file(self.layout.sources[name].name)

    def in_file(self, name: str) -> tuple[Header, TensorInfo]:
        """Where a tensor of this name is."""
        return next((h, h.tensors[name]) for h in self.headers if name in h.tensors)


def open_checkpoint(path: Path, config: GPTConfig | None) -> Checkpoint:
    """Parse the headers of a weights file or of the shards of an index, and check them.

    Raises:
        InputError: the file is damaged, needs a config, or is not this config's.
    """
    headers = read_headers(path)
    layout = detect_layout(headers)
    if config is None:
        raise _no_config(path, implied_config(headers, layout))
    if problems := find_mismatches(headers, layout, config):
        hint = "Is this the config of these weights?"
        raise InputError(shown(path), one_message(problems), hint)
    return Checkpoint(path, headers, layout, config)


def require_memory(where: object, config: GPTConfig, width: str, available: int | None) -> None:
    """Weights, a cache for the full context, and a fifth more must fit.

    Raises:
        RunError: they do not.
    """
    size = BYTES.get(width, 1)
    cache = 2 * config.n_layers * config.emb_dim * config.context_length * size
    require(shown(where), (count(config).total * size + cache) * _MARGIN, available)


class _Tensors(Mapping[str, Array]):
    """As `Weights.tensors`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: GPTConfig,
        dtype: FloatDtype,
        check_finite: bool,
        threads: int,
    ) -> None:
        self._checkpoint, self._dtype = checkpoint, _STORED[dtype]
        self._check_finite, self._threads = check_finite, threads
        self._sources = dict(_sources(checkpoint, config))

    def __getitem__(self, name: str) -> Array:
        source = self._sources[name]
        header, info = self._checkpoint.in_file(source.name)
        array = read_array(
            header,
            info,
            self._kept(info),
            check_finite=self._check_finite,
            threads=self._threads,
        )
        return array.T if source.transposed else array

    def _kept(self, info: TensorInfo) -> str:
        if info.dtype in {"I8", "U8"} or info.name.endswith((SCALES, ZEROS)):
            return info.dtype
        return "F32" if self._checkpoint.width else self._dtype

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def _sources(checkpoint: Checkpoint, config: GPTConfig) -> Iterator[tuple[str, TensorSource]]:
    if checkpoint.width:
        yield from ((name, TensorSource(name)) for name in all_tensors(checkpoint.headers))
        return
    for name, source in checkpoint.layout.sources.items():
        if source.part is None:
            if not (name == HEAD and config.tie_weights):
                yield name, source
        elif source.part == 0:
            yield name.replace(_QUERY, _QKV), source


def _no_config(path: Path, implied: dict[str, Any]) -> InputError:
    width = implied.get("emb_dim", 0)
    heads = f" (GPT-2's own sizes have emb_dim / 64, here {width // 64})" if width else ""
    hint = f"Name one with `config`, or put a config.json beside the weights{heads}"
    return InputError(shown(path), "needs a config: weights do not tell n_heads", hint)
