"""The file format of quantised weights, as `gptcli quantize` writes it.

A safetensors file with `"format": "gptcli.quantized/1"` and `"width": "int8"` or `"int4"` in its
metadata. Names are the book's. A linear layer or token embedding `NAME`, (M, K) in the model, is

    int8  NAME.values  I8    (M, K)       -127 to 127
          NAME.scales  F32   (M,)         weight = value * scale
    int4  NAME.levels  U8    (M, K / 2)   two levels of 0 to 15, the first in the low four bits
          NAME.scales  BF16  (M, K / 32)  one for each 32 neighbours of a row
          NAME.zeros   BF16  (M, K / 32)  weight = (level - 8) * scale + zero

Token embedding and output head are int8 at both widths; a tied head is not stored. All else is
stored under its own name in BF16 where that loses nothing, otherwise in F32.
"""

from collections.abc import Iterator, Mapping, Sequence
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


class Stored(NamedTuple):
    """One tensor of the file: what it must be."""

    dtypes: tuple[str, ...]
    shape: Shape


def metadata(width: Width) -> dict[str, str]:
    """The header's metadata."""
    return {"format": FORMAT, "width": width}


def width_of(headers: Sequence[Header]) -> Width | None:
    """The width of quantised weights, None for ordinary ones.

    Raises:
        InputError: they are in a format or of a width that this version does not know.
    """
    header = headers[0]
    name = header.metadata.get("format", "")
    if not name.startswith("gptcli.quantized"):
        return None
    if name != FORMAT:
        problem = f'quantised in a format unknown here ("{shown(name, 60)}", expected "{FORMAT}")'
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
        problem = f"{stored} weights bring their own arithmetic, got {dtype}"
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


def stored_as(name: str, shape: Shape, width: Width) -> dict[str, Stored]:
    """The file's tensors for one of the book's."""
    if not is_matrix(name):
        return {name: Stored(("BF16", "F32"), shape)}
    rows, columns = shape
    if is_packed(name, width):
        groups = Stored(("BF16",), (rows, columns // GROUP))
        levels = Stored(("U8",), (rows, columns // 2))
        return {name + LEVELS: levels, name + SCALES: groups, name + ZEROS: groups}
    return {name + VALUES: Stored(("I8",), shape), name + SCALES: Stored(("F32",), (rows,))}


def all_stored(shapes: Mapping[str, Shape], width: Width) -> dict[str, Stored]:
    """The file's tensors for these of the book's."""
    return dict(_all(shapes, width))


def _all(shapes: Mapping[str, Shape], width: Width) -> Iterator[tuple[str, Stored]]:
    for name, shape in shapes.items():
        yield from stored_as(name, shape, width).items()


def book_name(file_name: str) -> tuple[str, str]:
    """The book's tensor that a tensor of the file is part of, and which part; "" for all of it."""
    for suffix in SUFFIXES:
        inner = file_name.removesuffix(suffix)
        if inner != file_name and is_matrix(inner):
            return inner, suffix
    return file_name, ""
