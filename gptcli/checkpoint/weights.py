"""Open a checkpoint and read its tensors as arrays, for an engine.

Checks run before anything is allocated, cheapest first: header; names, shapes and dtypes against
the config; memory. Values are checked while they are read. Nothing is unpickled.

The file decides whether the output head is tied to the token embedding, whatever the config says:
it is if the file has no head, or one equal to the embedding bit for bit. Only in the book's layout
a missing head needs `tie_weights: true`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptcli.checkpoint.arrays import read_array, same_bytes
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
from gptcli.core.arrays import Array
from gptcli.core.errors import InputError, join_problems
from gptcli.core.escape import shown
from gptcli.core.memory import available_bytes, require
from gptcli.engine.quantize import Floats, Int4Matrix, Int8Matrix, widened
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import FloatDtype, Width
from gptcli.model.parameters import BYTES, count

_MARGIN = 1.2  # for activations, staging buffers and fragmentation
_STORED: dict[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_DTYPES: dict[str, FloatDtype] = {"BF16": "bfloat16", "F16": "float16"}
_QUERY, _QKV = "att.W_query.", "att.qkv."


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's tensors, each read when it is accessed.

    Attributes:
        config: of the model; `tie_weights` says whether the output head is the token embedding.
        tensors: by the book's names, in float32, float16 or uint16 (bfloat16). A tied head and
            absent biases are left out. Query, key and value that are fused in the file are one
            tensor, `att.qkv.weight` (3E, E). Quantised matrices are in parts, named as in
            `gptcli.checkpoint.quantized`.
        width: of quantised matrices, None where all are floats.
    """

    config: GPTConfig
    tensors: Mapping[str, Array]
    width: Width | None = None

    def floats(self, name: str) -> Floats:
        """One tensor in float32, dequantised if necessary."""
        if name + VALUES in self.tensors:
            return Int8Matrix(*(self.tensors[name + part] for part in (VALUES, SCALES))).floats()
        if name + LEVELS in self.tensors:
            parts = (self.tensors[name + part] for part in (LEVELS, SCALES, ZEROS))
            return Int4Matrix(*parts).floats()
        tensor = self.tensors[name]
        return widened(tensor) if tensor.dtype == np.uint16 else tensor.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weight files whose headers match a config."""

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
        """The dtype of most bytes if it is a 16-bit float, otherwise float32."""
        sizes: Counter[str] = Counter()
        for header in self.headers:
            for info in header.tensors.values():
                sizes[info.dtype] += info.nbytes
        return _DTYPES.get(max(sizes, key=sizes.__getitem__, default="F32"), "float32")

    def is_tied(self) -> bool:
        """Whether the file has no output head, or one equal to the embedding bit for bit."""
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
        """Check that there is enough memory → all tensors, which are read one by one on access.

        Args:
            dtype: of floats.
            quantize: the width that matrices will be quantised to, for the memory check.
            check_finite: refuse NaN and infinite weights.
            threads: number of reading threads.
            available: bytes of memory; None asks the system.

        Raises:
            RunError: too little memory. Access to a tensor raises as `read_array`.
        """
        available = available_bytes() if available is None else available
        width = self.width or quantize or dtype
        tied = replace(self.config, tie_weights=True)
        require_memory(self.path, tied, width, available)  # cheaper than comparing the head
        config = replace(self.config, tie_weights=self.is_tied())
        require_memory(self.path, config, width, available)
        tensors = _LazyTensors(self, config, dtype, check_finite, threads)
        return Weights(config, tensors, self.width)

    def find(self, name: str) -> tuple[Header, TensorInfo]:
        """The header and entry of one of the book's tensors."""
        return self.find_in_file(self.layout.sources[name].name)

    def find_in_file(self, name: str) -> tuple[Header, TensorInfo]:
        """The header and entry of a tensor, by its name in the file."""
        return next((h, h.tensors[name]) for h in self.headers if name in h.tensors)


def open_checkpoint(path: Path, config: GPTConfig | None) -> Checkpoint:
    """Parse the headers of a weights file, or of the shards of an index, and check them.

    Raises:
        InputError: the file is damaged, needs a config, or does not match the config.
    """
    headers = read_headers(path)
    layout = detect_layout(headers)
    if config is None:
        raise _no_config(path, implied_config(headers, layout))
    if problems := find_mismatches(headers, layout, config):
        hint = "Is this the config of these weights?"
        raise InputError(shown(path), join_problems(problems), hint)
    return Checkpoint(path, headers, layout, config)


def require_memory(where: object, config: GPTConfig, width: str, available: int | None) -> None:
    """Check that weights, key/value cache of a full context, and a fifth more fit into memory.

    Raises:
        RunError: they do not fit.
    """
    size = BYTES.get(width, 1)
    cache = 2 * config.n_layers * config.emb_dim * config.context_length * size
    require(shown(where), (count(config).total * size + cache) * _MARGIN, available)


class _LazyTensors(Mapping[str, Array]):
    """`Weights.tensors` of a checkpoint: reads the file on every access."""

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
        self._sources = dict(_tensor_sources(checkpoint, config))

    def __getitem__(self, name: str) -> Array:
        source = self._sources[name]
        header, info = self._checkpoint.find_in_file(source.name)
        array = read_array(
            header,
            info,
            self._kept(info),
            check_finite=self._check_finite,
            threads=self._threads,
        )
        return array.T if source.transposed else array

    def __contains__(self, name: object) -> bool:
        return name in self._sources  # Mapping's own would read the tensor

    def _kept(self, info: TensorInfo) -> str:
        if info.dtype in {"I8", "U8"} or info.name.endswith((SCALES, ZEROS)):
            return info.dtype
        return "F32" if self._checkpoint.width else self._dtype

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def _tensor_sources(
    checkpoint: Checkpoint, config: GPTConfig
) -> Iterator[tuple[str, TensorSource]]:
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
