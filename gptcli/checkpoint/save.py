"""Write a model directory: weights as safetensors in the book's layout, and the config.

Floats are stored as they are, or quantised (`gptcli.checkpoint.quantized`). The safetensors library
is not used, because its NumPy functions have no bfloat16.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from gptcli.checkpoint.arrays import safetensors_dtype
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
from gptcli.core.arrays import Array
from gptcli.core.files import make_directory, write_atomically
from gptcli.engine.quantize import Floats, bfloat16, to_int4, to_int8, widened
from gptcli.model.dtypes import Width

_QKV = ("W_query", "W_key", "W_value")
_ALIGNMENT = 8  # bytes: where the tensors' data begins


def save_weights(weights: Weights, directory: Path, width: Width | None = None) -> None:
    """Write `model.safetensors` and `config.json`, each atomically.

    Args:
        weights: floats; a tied head is stored once.
        directory: made if it is missing.
        width: quantises the matrices; None stores floats.

    Raises:
        UsageError: the model's sizes do not allow the width.
        RunError: a file cannot be written.
    """
    stored: dict[str, Array] = {}
    for name, weight in book_tensors(weights):
        stored |= _quantized(name, weight, width) if width else {name: weight}
    about = metadata(width) if width else {"format": "pt"}
    config = json.dumps(weights.config.to_dict(), indent=2) + "\n"
    make_directory(directory)
    write = partial(write_tensors, tensors=stored, metadata=about)
    write_atomically(directory / "model.safetensors", write)
    write_atomically(directory / "config.json", config.encode())


def book_tensors(weights: Weights) -> Iterator[tuple[str, Array]]:
    """Float tensors by the book's names, with query, key and value as three tensors."""
    for name, tensor in weights.tensors.items():
        if "att.qkv." in name:
            for part, key in zip(np.split(tensor, 3), _QKV, strict=True):
                yield name.replace("qkv", key), part
        else:
            yield name, tensor


def write_tensors(path: Path, tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    The widest dtypes come first, so that every tensor is aligned to its element size.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))
    header: dict[str, object] = {"__metadata__": metadata}
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


def _quantized(name: str, array: Array, width: Width) -> dict[str, Array]:
    """One of the book's tensors → its quantised parts, by their names in the file."""
    weight = np.ascontiguousarray(widened(array) if array.dtype == np.uint16 else array, np.float32)
    if not is_matrix(name):
        return {name: _narrowed(weight)}
    if is_packed(name, width):
        levels, scales, zeros = to_int4(weight)
        return {name + LEVELS: levels, name + SCALES: scales, name + ZEROS: zeros}
    values, row_scales = to_int8(weight)
    return {name + VALUES: values, name + SCALES: row_scales}


def _narrowed(values: Floats) -> Array:
    """The values as bfloat16 if all of them are exact in it, otherwise as they are."""
    narrow = bfloat16(values)
    return narrow if np.array_equal(widened(narrow), values) else values
