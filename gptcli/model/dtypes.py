"""Names of dtypes and of quantised widths, and the group size of int4."""

from typing import Literal

FloatDtype = Literal["float32", "bfloat16", "float16"]
Width = Literal["int8", "int4"]

GROUP = 32  # inputs that share a scale in int4; the same in engine/kernels/engine.h
