"""The file format of quantised weights, which `gptcli quantize` writes.

A safetensors file with `"format": "gptcli.quantized/1"` and `"width": "int8"` or `"int4"` in its
metadata. Names are the book's. A linear layer or token embedding `NAME`, (M, K) in the model, is

    int8  NAME.values  I8    (M, K)       -127 to 127
          NAME.scales  F32   (M,)         weight = value * scale
    int4  NAME.levels  U8    (M, K / 2)   two levels of 0 to 15, the first in the low four bits
          NAME.scales  BF16  (M, K / 32)  one for each group of 32 neighbours in a row
          NAME.zeros   BF16  (M, K / 32)  weight = (level - 8) * scale + zero

Token embedding and output head are int8 at both widths; a tied head is not stored. All other
tensors keep their names, in BF16 if all of their values are exact in it, otherwise in F32.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

from gptcli.checkpoint.header import Header
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.model.dtypes import GROUP, Width

FORMAT = "gptcli.quantized/1"
VALUES, LEVELS, SCALES, ZEROS = ".values", ".levels", ".scales", ".zeros"
SUFFIXES = (VALUES, LEVELS, SCALES, ZEROS)
_OUTER = ("tok_emb.weight", "out_head.weight")

Shape = tuple[int, ...]


class StoredTensor(NamedTuple):
    """What a tensor of the file must be."""

    dtypes: tuple[str, ...]
    shape: Shape


def metadata(width: Width) -> dict[str, str]:
    """The header's metadata."""
    return {"format": FORMAT, "width": width}


def width_of(headers: Sequence[Header]) -> Width | None:
    """The width of quantised weights, None for floats.

    Raises:
        InputError: this version does not know their format or width.
    """
    header = headers[0]
    name = header.metadata.get("format", "")
    if not name.startswith("gptcli.quantized"):
        return None
    if name != FORMAT:
        problem = f'quantised in an unknown format ("{shown(name, 60)}", expected "{FORMAT}")'
        raise InputError(shown(header.path), problem)
    width = header.metadata.get("width", "")
    for known in get_args(Width):
        if width == known:
            return known
    problem = f'quantised to an unknown width ("{shown(width, 60)}", expected int8 or int4)'
    raise InputError(shown(header.path), problem)


def refuse_other_dtype(stored: Width, width: Width | None, dtype: str, device: str) -> None:
    """Refuse a dtype, width or device that quantised weights cannot be used with.

    Raises:
        UsageError: another width, dtype or device was asked for.
    """
    if width not in {None, stored}:
        problem = f"these weights are {stored} already, got {width}"
        raise UsageError("quantize", problem, "Leave it out, or name the model they were made of")
    if dtype != "float32":
        problem = f"{stored} weights are always computed in float32, got {dtype}"
        raise UsageError("dtype", problem, "Leave it out")
    if device != "cpu":
        problem = f"{stored} weights run on a CPU only, got {shown(device)}"
        raise UsageError("device", problem, "Leave it out, or name the model they were made of")


def is_matrix(name: str) -> bool:
    """Whether one of the book's tensors is quantised."""
    return name.endswith(".weight") and name != "pos_emb.weight"


def is_packed(name: str, width: Width) -> bool:
    """Whether a matrix is stored as int4; embedding and output head never are."""
    return width == "int4" and name not in _OUTER


def stored_as(name: str, shape: Shape, width: Width) -> dict[str, StoredTensor]:
    """The tensors that a file has for one of the book's, by their names in the file."""
    if not is_matrix(name):
        return {name: StoredTensor(("BF16", "F32"), shape)}
    rows, columns = shape
    if is_packed(name, width):
        groups = StoredTensor(("BF16",), (rows, columns // GROUP))
        levels = StoredTensor(("U8",), (rows, columns // 2))
        return {name + LEVELS: levels, name + SCALES: groups, name + ZEROS: groups}
    return {
        name + VALUES: StoredTensor(("I8",), shape),
        name + SCALES: StoredTensor(("F32",), (rows,)),
    }


def stored_tensors(shapes: Mapping[str, Shape], width: Width) -> dict[str, StoredTensor]:
    """The tensors that a file has for all of the book's."""
    stored: dict[str, StoredTensor] = {}
    for name, shape in shapes.items():
        stored |= stored_as(name, shape, width)
    return stored


def book_name(file_name: str) -> tuple[str, str]:
    """A tensor's name in the file → the book's name, and which part of it; "" for all of it."""
    for suffix in SUFFIXES:
        inner = file_name.removesuffix(suffix)
        if inner != file_name and is_matrix(inner):
            return inner, suffix
    return file_name, ""
