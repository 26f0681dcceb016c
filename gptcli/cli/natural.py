"""What `--dtype auto` means: the numbers that weights and machine have in common."""

from collections import Counter
from pathlib import Path

from gptcli.cli.computing import pytorch
from gptcli.cli.options import Dtypes
from gptcli.header import read_headers


def natural_dtype(weights: Path | None, device: str) -> Dtypes:
    """The weights' own dtype where the device multiplies it by itself, else float32.

    Halves of one kind become those of the other where a GPU has only that.

    Raises:
        InputError: the weights are damaged.
    """
    kind = _dtype_of(weights) if weights else "F32"
    if kind not in {"BF16", "F16"}:
        return "float32"
    pytorch()
    from gptcli.precision import has_bfloat16

    if device != "cpu" and (kind == "F16" or not has_bfloat16(device)):
        return "float16"
    return "bfloat16" if has_bfloat16(device) else "float32"


def _dtype_of(weights: Path) -> str:
    """That of most bytes."""
    sizes: Counter[str] = Counter()
    for header in read_headers(weights):
        for info in header.tensors.values():
            sizes[info.dtype] += info.nbytes
    return max(sizes, key=sizes.__getitem__, default="F32")
