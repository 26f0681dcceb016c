"""Which model, and how it computes: the choices that every command with a model shares.

Errors name the field (`dtype`); whoever has options spells them (`--dtype`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Width = Literal["int8", "int4"]
EngineName = Literal["auto", "native", "torch"]

MAX_SEED = 2**64 - 1
_DEVICE = re.compile(r"cpu|mps|cuda(:\d{1,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model by name or files, and how to compute with it.

    Attributes:
        model: preset, model directory, config or `.safetensors` file; the built-in model where
            nothing is named.
        config: a config file, in place of the model's own; alone, an untrained model.
        weights: a `.safetensors` file or the index of its shards, in place of the model's own.
        offline: download nothing.
        check_finite: refuse weights that are NaN or infinite.
        device: cpu, cuda, cuda:N or mps, as PyTorch names them.
        dtype: of the weights in memory; auto keeps that of the file. The arithmetic of the native
            engine is float32 whatever the dtype.
        quantize: round the weights to 8 or 4 bits.
        threads: None for as many as the process may use.
        seed: initialises an untrained model; None is 0.
        engine: native are the compiled kernels, torch is PyTorch; auto takes native on a CPU
            where it is installed.

    Raises:
        UsageError: a value out of range, or two that do not go together.
    """

    model: str | None = None
    config: Path | None = None
    weights: Path | None = None
    offline: bool = False
    check_finite: bool = True
    device: str = "cpu"
    dtype: Dtype = "auto"
    quantize: Width | None = None
    threads: int | None = None
    seed: int | None = None
    engine: EngineName = "auto"

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise UsageError("seed", f"must be an integer >= 0 and < 2^64, got {self.seed}")
        if self.threads is not None and self.threads < 1:
            raise UsageError("threads", f"must be an integer >= 1, got {self.threads}")
        if not _DEVICE.fullmatch(self.device):
            given = shown(self.device, 60)
            raise UsageError("device", f'must be cpu, cuda, cuda:N or mps, got "{given}"')
        if self.quantize and self.dtype not in {"float32", "auto"}:
            problem = f"{self.quantize} weights bring their own arithmetic, got {self.dtype}"
            raise UsageError("dtype", problem, "Leave out dtype or quantize")
        if self.device != "cpu" and self.engine == "native":
            raise UsageError("engine", f"native computes on a CPU only, got {self.device}")
