"""The book's GPT on a CPU by our own kernels: one call computes a step for any sequences.

    engine = NativeEngine(config, tensors, threads=2)    # tensors by the book's names
    cache = engine.new_cache(capacity=128)
    logits = engine.step([Span(cache, prompt_ids)])      # (1, V): what follows the prompt
    logits = engine.step([Span(cache, [token]), Span(other_cache, ids, n_logits=0)])

A sequence's logits have the same bits whatever is beside it, however its ids are cut into steps,
with any number of threads and on any processor (docs/engine.md). No PyTorch here.

Shapes: E emb_dim, I inner width, H heads, D head_dim, V vocabulary, C capacity, L layers.
"""

import ctypes
import weakref
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptcli.core.arrays import Array, Slabs
from gptcli.core.errors import UsageError
from gptcli.engine import library as lib
from gptcli.engine.interface import Span
from gptcli.engine.library import BF16, F16, F32, INT4, INT8, Pool
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import GROUP, Width

Floats = NDArray[np.float32]

BLOCK = 16  # as in kernels/engine.h
MAX_ROWS = 512  # of one call: a longer step is several, so that Ctrl-C is heard in between

ACTIVATION_NUMBERS = {"gelu_new": 0, "gelu": 1, "relu": 2, "silu": 3, "quick_gelu": 4}
_TYPES = {"float32": F32, "uint16": BF16, "float16": F16}
_INT8_GROUP, _INT4_GROUP = BLOCK * GROUP, BLOCK * GROUP // 2 + 4 * BLOCK  # bytes of 16 rows


class KVCache:
    """Keys and values of one sequence, float32.

    Attributes:
        keys: (L, H, C / 16, D, 16).
        values: (L, H, C, D rounded up to 16).
        length: positions held.
        capacity: the most it can hold.
        config: of the model that it is for.
        struct: where all this is, for the kernels.
    """

    def __init__(self, config: GPTConfig, capacity: int) -> None:
        """An empty cache; memory is taken from the system as it fills.

        Raises:
            MemoryError: there is none.
        """
        L, H, D = config.n_layers, config.n_heads, config.head_dim
        blocks = -(-capacity // BLOCK)
        try:
            self.keys = np.zeros((L, H, blocks, D, BLOCK), np.float32)
            self.values = np.zeros((L, H, blocks * BLOCK, _padded(D, BLOCK)), np.float32)
        except MemoryError:
            raise MemoryError(f"no memory for {capacity:,} positions") from None
        self.config, self.capacity, self.length = config, capacity, 0
        self.struct = lib.KVCache(self.keys.ctypes.data, self.values.ctypes.data, blocks * BLOCK)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        self.length = min(self.length, length)

    def copy_prefix(self, other: "KVCache", length: int) -> None:
        """Hold what another cache of the same model holds of its first `length` positions."""
        if not 0 <= length <= min(other.length, self.capacity):
            raise ValueError(f"{length} positions of {other.length} into {self.capacity}")
        blocks = -(-length // BLOCK)
        self.keys[:, :, :blocks] = other.keys[:, :, :blocks]
        self.values[:, :, :length] = other.values[:, :, :length]
        self.length = length


class NativeEngine:
    """A GPT ready to compute on a CPU; see `gptcli.engine.interface`.

    Attributes:
        config: its shape.
        build: the instruction set in use.
        threads: how many threads share the work.
        weight_bytes: what one token must read: all weights but the rows of other tokens.
    """

    def __init__(
        self,
        config: GPTConfig,
        tensors: Mapping[str, Array],
        *,
        threads: int | None = None,
        width: Width | None = None,
        isa: str | None = None,
    ) -> None:
        """Take tensors by the book's names, each asked for once.

        Floats are float32, float16, or uint16 for bfloat16, (out, in); row by row they are used
        where they are (a memory map stays one, and must stay as it is), column by column
        (Hugging Face's, `array.T`) they are transposed. Query, key and value may be one matrix,
        `att.qkv.weight` (3E, E). Absent biases and shifts are zero; without `out_head.weight` the
        head is the token embedding. Weights that `gptcli quantize` stored come as it names them:
        `NAME.values` and `NAME.scales`, or `NAME.levels`, `NAME.scales` and `NAME.zeros`.

        Args:
            config: the model's shape.
            tensors: arrays by name; one that is no longer used is let go at once.
            threads: None: one for each processor that this process may use.
            width: quantise float weights to int8 or int4; embedding and head have int8 in both.
            isa: the build to use, as $GPTCLI_ISA.

        Raises:
            UsageError: no such build, or int4 for widths that are no multiple of 32.
            RunError: no library.
            MemoryError: there is none for the weights.
            InputError: a config that cannot be computed.
            ValueError: tensors are missing, or have the wrong shape or dtype.
        """
        config.require_computable()
        self.config = config
        self.build = lib.choose_build(isa)
        self.threads = threads or lib.available_threads()
        self._library, self._pool = lib.load(), lib.shared_pool(self.threads)
        loader = _Loader(config, tensors, width, self.build, self._pool)
        self._model = loader.model()
        self._kept = loader.kept  # the arrays that the model points into
        self.weight_bytes = loader.weight_bytes
        self._workspace = lib.Workspace()
        weakref.finalize(self, self._library.gptcli_workspace_free, self._workspace)

    def new_cache(self, capacity: int | None = None) -> KVCache:
        """An empty cache for one sequence, of the whole context if no capacity is given."""
        return KVCache(self.config, capacity or self.config.context_length)

    def step(self, spans: Sequence[Span]) -> Floats:
        """Compute the ids of all spans, whose caches hold them afterwards.

        Returns:
            (M, V) logits, those of the first span first. A row that is not finite is NaN
            throughout, and says nothing of the others. Rows may lie apart in memory.

        Raises:
            ValueError: an id outside the vocabulary, a cache used twice, or positions past the
                context or a cache's capacity.
            MemoryError: there is none for it.
        """
        rows = self._rows(spans)
        V = self.config.vocab_size
        try:
            logits = np.empty((len(rows.wanted), _padded(V, BLOCK)), np.float32)
        except MemoryError:
            raise MemoryError("no memory for logits") from None
        caches = (lib.KVCache * len(spans))(*(span.cache.struct for span in spans))
        for first in range(0, len(rows.ids), MAX_ROWS):
            self._compute(rows, first, caches, logits)
        for span in spans:
            span.cache.length += len(span.ids)
        return logits[:, :V]

    def _rows(self, spans: Sequence[Span]) -> "_Rows":
        """The rows of all spans, checked."""
        rows = _Rows([], [], [], [])
        for number, span in enumerate(spans):
            start, count = span.cache.length, len(span.ids)
            self._check(span, start + count)
            rows.ids.extend(span.ids)
            rows.positions.extend(range(start, start + count))
            rows.owners.extend([number] * count)
            rows.wanted.extend(range(len(rows.ids) - span.n_logits, len(rows.ids)))
        if len({id(span.cache) for span in spans}) < len(spans):
            raise ValueError("a cache is used twice in one step")
        ids, V = rows.ids, self.config.vocab_size
        if ids and not (min(ids) >= 0 and max(ids) < V):
            raise ValueError(f"ids from {min(ids)} to {max(ids)} of {V}")
        return rows

    def _check(self, span: Span, end: int) -> None:
        if end > self.config.context_length:
            raise ValueError(f"{end} tokens, but the context is {self.config.context_length}")
        if end > span.cache.capacity:
            raise ValueError(f"the cache holds {span.cache.capacity} positions, {end} are needed")
        if not 0 <= span.n_logits <= len(span.ids):
            raise ValueError(f"logits of {span.n_logits} ids, but there are {len(span.ids)}")
        if span.cache.config is not self.config and span.cache.config != self.config:
            raise ValueError("a cache of another model")

    def _compute(self, rows: "_Rows", first: int, caches: Any, logits: Floats) -> None:
        """Compute the rows from `first` on, as many as one call takes."""
        last = min(first + MAX_ROWS, len(rows.ids))
        begin, end = bisect_left(rows.wanted, first), bisect_left(rows.wanted, last)
        request = lib.Request(
            last - first,
            end - begin,
            lib.ints(rows.ids[first:last]),
            lib.ints(rows.positions[first:last]),
            lib.ints(rows.owners[first:last]),
            caches,
            lib.ints([row - first for row in rows.wanted[begin:end]]),
            logits.ctypes.data + begin * logits.strides[0],
            logits.shape[1],
        )
        with self._pool as pool:
            code = self._library.gptcli_step(
                self.build.number, pool, self._workspace, self._model, request
            )
        if code == lib.NO_MEMORY:
            raise MemoryError(f"no memory for {last - first} tokens")


class _Rows(NamedTuple):
    """The rows of a step, an element each; `wanted` are the rows whose logits are."""

    ids: list[int]
    positions: list[int]
    owners: list[int]
    wanted: list[int]


def _padded(n: int, to: int) -> int:
    return -(-n // to) * to


class _Loader:
    """Weights into the library's structs.

    Attributes:
        kept: what the structs point into.
        weight_bytes: as of `NativeEngine`.
    """

    def __init__(
        self,
        config: GPTConfig,
        tensors: Mapping[str, Array],
        width: Width | None,
        build: lib.Build,
        pool: Pool,
    ) -> None:
        self.kept: list[Any] = []
        self.weight_bytes = 0
        self._config, self._tensors, self._width = config, tensors, width
        self._build, self._pool = build, pool
        self._slabs = Slabs()

    def model(self) -> lib.Model:
        """All of it."""
        n = self._config
        tokens = self._matrix("tok_emb.weight", n.vocab_size, n.emb_dim, is_outer=True)
        if self._has("out_head.weight"):
            head = self._linear("out_head", n.vocab_size, n.emb_dim, is_outer=True)
        else:
            head = lib.Linear(tokens, None)
            self.weight_bytes += _bytes_of(tokens)
        positions = self._array("pos_emb.weight", (n.context_length, n.emb_dim))
        blocks = (lib.Block * n.n_layers)(*(self._block(layer) for layer in range(n.n_layers)))
        return lib.Model(
            vocab=n.vocab_size,
            context=n.context_length,
            emb=n.emb_dim,
            heads=n.n_heads,
            layers=n.n_layers,
            inner=n.hidden_dim,
            activation=ACTIVATION_NUMBERS[n.activation],
            epsilon=n.layer_norm_epsilon,
            tokens=tokens,
            positions=self._floats_or_quantized(positions, None),
            blocks=blocks,
            final_norm=self._norm("final_norm"),
            head=head,
        )

    def _has(self, name: str) -> bool:
        """Whether there is a matrix of this name, as floats or quantised."""
        return any(name + part in self._tensors for part in ("", ".values", ".levels"))

    def _block(self, layer: int) -> lib.Block:
        E, inner, name = self._config.emb_dim, self._config.hidden_dim, f"trf_blocks.{layer}"
        query, key, value = self._qkv(f"{name}.att")
        return lib.Block(
            self._norm(f"{name}.norm1"),
            self._norm(f"{name}.norm2"),
            query,
            key,
            value,
            self._linear(f"{name}.att.out_proj", E, E),
            self._linear(f"{name}.ff.layers.0", inner, E),
            self._linear(f"{name}.ff.layers.2", E, inner),
            self._config.attention_scale(layer),
        )

    def _qkv(self, name: str) -> list[lib.Linear]:
        E = self._config.emb_dim
        if f"{name}.qkv.weight" not in self._tensors:
            return [self._linear(f"{name}.W_{part}", E, E) for part in ("query", "key", "value")]
        fused = self._array(f"{name}.qkv.weight", (3 * E, E))
        bias = self._optional(f"{name}.qkv.bias", 3 * E)
        found = []
        for part in range(3):
            rows = slice(part * E, (part + 1) * E)
            weight = self._floats_or_quantized(fused[rows], self._width)
            self.weight_bytes += _bytes_of(weight)
            found.append(lib.Linear(weight, None if bias is None else self._vector(bias[rows])))
        return found

    def _linear(self, name: str, rows: int, cols: int, *, is_outer: bool = False) -> lib.Linear:
        weight = self._matrix(f"{name}.weight", rows, cols, is_outer=is_outer)
        self.weight_bytes += _bytes_of(weight)
        bias = self._optional(f"{name}.bias", rows)
        return lib.Linear(weight, None if bias is None else self._vector(bias))

    def _norm(self, name: str) -> lib.Norm:
        E = self._config.emb_dim
        shift = self._optional(f"{name}.shift", E)
        scale = self._array(f"{name}.scale", (E,))
        zeros = np.zeros(E, np.float32)
        return lib.Norm(self._vector(scale), self._vector(zeros if shift is None else shift))

    def _matrix(self, name: str, rows: int, cols: int, *, is_outer: bool = False) -> lib.Matrix:
        if f"{name}.values" in self._tensors:
            return self._stored8(name, rows, cols)
        if f"{name}.levels" in self._tensors:
            return self._stored4(name, rows, cols)
        weight = self._array(name, (rows, cols))
        width: Width | None = "int8" if is_outer and self._width else self._width
        return self._floats_or_quantized(weight, width)

    def _floats_or_quantized(self, weight: Array, width: Width | None) -> lib.Matrix:
        """Float weights as they are, or quantised."""
        if width is None:
            kept = self._row_major(weight, self._slabs.empty)
            self.kept.append(kept)
            return _floats(kept)
        temporary = self._row_major(weight, np.empty)
        quantized = self._packed_matrix(INT8 if width == "int8" else INT4, *weight.shape)
        code = self._run(
            "gptcli_quantize", _floats(temporary), quantized.type, quantized.data, quantized.scales
        )
        if code == lib.NO_MEMORY:
            raise MemoryError("no memory to quantise weights in")
        return quantized

    def _row_major(self, weight: Array, empty: Callable[..., Array]) -> Array:
        """Where they are if they lie row by row, else transposed."""
        if not weight.flags.aligned:
            weight = weight.copy()
        rows, cols = weight.shape
        down, along = (stride // weight.itemsize for stride in weight.strides)
        if along != 1 and cols > 1 and (down == 1 or rows == 1) and along >= rows:
            transposed = empty((rows, cols), weight.dtype)
            data, item = weight.ctypes.data, weight.itemsize
            self._run("gptcli_transpose", data, along, item, rows, cols, transposed.ctypes.data)
            return transposed
        if along != 1 or down < cols:
            return np.ascontiguousarray(weight)
        return weight

    def _stored8(self, name: str, rows: int, cols: int) -> lib.Matrix:
        values = np.ascontiguousarray(self._array(f"{name}.values", (rows, cols), "int8"))
        scales = self._array(f"{name}.scales", (rows,))
        packed = self._packed_matrix(INT8, rows, cols)
        stored = lib.Matrix(INT8, rows, cols, cols, values.ctypes.data, None)
        self._run("gptcli_pack", stored, None, None, packed.data)
        ctypes.memmove(packed.scales, np.ascontiguousarray(scales).ctypes.data, 4 * rows)
        return packed

    def _stored4(self, name: str, rows: int, cols: int) -> lib.Matrix:
        groups = (rows, cols // GROUP)
        levels = np.ascontiguousarray(self._array(f"{name}.levels", (rows, cols // 2), "uint8"))
        scales, zeros = (
            np.ascontiguousarray(self._array(f"{name}.{part}", groups, "uint16"))
            for part in ("scales", "zeros")
        )
        packed = self._packed_matrix(INT4, rows, cols)
        stored = lib.Matrix(INT4, rows, cols, cols // 2, levels.ctypes.data, None)
        self._run("gptcli_pack", stored, scales.ctypes.data, zeros.ctypes.data, packed.data)
        return packed

    def _packed_matrix(self, type: int, rows: int, cols: int) -> lib.Matrix:
        """Room for packed weights, and at 8 bits for the rows' scales."""
        if type == INT4 and cols % GROUP:
            problem = f"int4 needs layers whose width is a multiple of {GROUP} (found {cols})"
            raise UsageError("quantize", problem, "Use int8")
        blocks, groups = -(-rows // BLOCK), -(-cols // GROUP)
        size = blocks * groups * (_INT8_GROUP if type == INT8 else _INT4_GROUP)
        packed = self._slabs.empty((size,), np.uint8)
        scales = np.zeros(blocks * BLOCK if type == INT8 else 0, np.float32)
        self.kept += [packed, scales]
        return lib.Matrix(type, rows, cols, cols, packed.ctypes.data, scales.ctypes.data)

    def _run(self, function: str, *arguments: Any) -> int:
        with self._pool as pool:
            return int(getattr(lib.load(), function)(self._build.number, pool, *arguments))

    def _vector(self, values: Array) -> int:
        """The address of a bias, scale or shift in float32, padded with zeros."""
        padded = np.zeros(_padded(len(values), GROUP), np.float32)
        is_bf16 = values.dtype == np.uint16
        padded[: len(values)] = (
            (values.astype(np.uint32) << 16).view(np.float32) if is_bf16 else values
        )
        self.kept.append(padded)
        return padded.ctypes.data

    def _optional(self, name: str, size: int) -> Array | None:
        return self._array(name, (size,)) if name in self._tensors else None

    def _array(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        if name not in self._tensors:
            raise ValueError(f"{name}: missing")
        array = self._tensors[name]
        if array.shape != shape:
            raise ValueError(f"{name}: shape {array.shape}, expected {shape}")
        expected = [dtype] if dtype else list(_TYPES)
        if array.dtype.name not in expected or not array.dtype.isnative:
            raise ValueError(f"{name}: dtype {array.dtype}, expected {' or '.join(expected)}")
        return array


def _floats(weight: Array) -> lib.Matrix:
    """Of rows that each lie in one piece."""
    rows, cols = weight.shape
    stride = max(weight.strides[0] // weight.itemsize, cols)
    return lib.Matrix(_TYPES[weight.dtype.name], rows, cols, stride, weight.ctypes.data, None)


def _bytes_of(weight: lib.Matrix) -> int:
    """Bytes of weights that a matmul reads, padding left out."""
    item = {F32: 4.0, BF16: 2.0, F16: 2.0, INT8: 1.0, INT4: 0.5 + 4 / GROUP}[weight.type]
    return int(weight.rows * (weight.cols * item + (4 if weight.type == INT8 else 0)))
