"""Write a model directory: weights as safetensors in the book's layout, and the config.

Floats are stored as they are, or quantised (`gptcli.checkpoint.quantized`). The file
is written here, not by the safetensors library, whose NumPy half has no bfloat16.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gptcli.checkpoint.arrays import Array, safetensors_dtype
from gptcli.checkpoint.quantized import (
    LEVELS,
    SCALES,
    VALUES,
    ZEROS,
    is_matrix,
    is_packed,
    metadata,
)
from gptcli.checkpoint.weights import Weights
from gptcli.core.errors import RunError
from gptcli.core.escape import shown
from gptcli.engine.quantize import Floats, bfloat16, to_int4, to_int8, widened
from gptcli.model.dtypes import Width

_QKV = ("W_query", "W_key", "W_value")
_ALIGNMENT = 8  # bytes: where the tensors' data begins


def save_weights(weights: Weights, directory: Path, width: Width | None = None) -> None:
    """Write `model.safetensors` and `config.json`, each atomically.

    Args:
        weights: floats; a tied head is stored once.
        directory: made if it is not there.
        width: rounds the matrices.

    Raises:
        UsageError: the model cannot have the width.
        RunError: the directory cannot be written.
    """
    stored: dict[str, Array] = {}
    for name, weight in book_tensors(weights):
        stored |= _rounded(name, weight, width) if width else {name: weight}
    text = json.dumps(weights.config.to_dict(), indent=2) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        parts = directory / ".model.safetensors.part", directory / ".config.json.part"
        try:
            write_tensors(parts[0], stored, metadata(width) if width else {"format": "pt"})
            parts[1].write_text(text, encoding="utf-8")
            for part in parts:
                _sync(part)
                part.replace(directory / part.name[1 : -len(".part")])
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(shown(directory), f"cannot be written ({shown(error)})") from None


def book_tensors(weights: Weights) -> Iterator[tuple[str, Array]]:
    """Float tensors by the book's names, query, key and value apart."""
    for name, tensor in weights.tensors.items():
        if "att.qkv." in name:
            for part, key in zip(np.split(tensor, 3), _QKV, strict=True):
                yield name.replace("qkv", key), part
        else:
            yield name, tensor


def write_tensors(path: Path, tensors: dict[str, Array], about: dict[str, str]) -> None:
    """A safetensors file; `about` is its metadata.

    The widest dtypes come first, so that every tensor lies at a multiple of its own.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))
    header: dict[str, object] = {"__metadata__": about}
    end = 0
    for name, array in ordered.items():
        start, end = end, end + array.nbytes
        shape = list(array.shape)
        header[name] = {
            "dtype": safetensors_dtype(array),
            "shape": shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in ordered.values():
            file.write(np.ascontiguousarray(array).data)


def _rounded(name: str, array: Array, width: Width) -> dict[str, Array]:
    """The file's tensors for one of the book's, quantised."""
    weight = np.ascontiguousarray(widened(array) if array.dtype == np.uint16 else array, np.float32)
    if not is_matrix(name):
        return {name: _narrowed(weight)}
    if is_packed(name, width):
        levels, scales, zeros = to_int4(weight)
        return {name + LEVELS: levels, name + SCALES: scales, name + ZEROS: zeros}
    values, row_scales = to_int8(weight)
    return {name + VALUES: values, name + SCALES: row_scales}


def _narrowed(values: Floats) -> Array:
    """bfloat16 where that loses nothing."""
    narrow = bfloat16(values)
    return narrow if np.array_equal(widened(narrow), values) else values


def _sync(path: Path) -> None:
    """Call fsync, so that its name never points to one that a power loss emptied."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
