"""What `--dtype auto` means: the numbers that weights and machine have in common."""

from collections import Counter
from pathlib import Path

from gptcli.checkpoint.header import read_headers
from gptcli.cli.computing import pytorch
from gptcli.generation.model_spec import Dtype


def natural_dtype(weights: Path | None, device: str) -> Dtype:
    """The weights' own dtype where the device is fast with it, else float32.

    Halves of one kind become those of the other where the device has only that.

    Raises:
        InputError: the weights are damaged.
    """
    halves: dict[str, list[Dtype]] = {
        "BF16": ["bfloat16", "float16"],
        "F16": ["float16", "bfloat16"],
    }
    wanted = halves.get(_dtype_of(weights)) if weights else None
    if wanted is None:
        return "float32"
    pytorch()
    from gptcli.engine.precision import has_bfloat16, has_float16

    has = {"bfloat16": has_bfloat16, "float16": has_float16}
    return next((dtype for dtype in wanted if has[dtype](device)), "float32")


def _dtype_of(weights: Path) -> str:
    """That of most bytes."""
    sizes: Counter[str] = Counter()
    for header in read_headers(weights):
        for info in header.tensors.values():
            sizes[info.dtype] += info.nbytes
    return max(sizes, key=sizes.__getitem__, default="F32")
