"""Which model, and how it computes: the choices that every command with a model shares.

Errors name the field (`dtype`); whoever has options spells them (`--dtype`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.core.options import Option, check
from gptcli.generation.text_options import Seed
from gptcli.model.dtypes import Width

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["auto", "native", "torch"]

MODEL, MACHINE = "Model", "Machine"
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

    model: Annotated[
        str | None,
        Option(
            "A preset, a model directory, a config or a .safetensors file; the built-in model"
            " where nothing is named.",
            MODEL,
            short="-m",
            metavar="TARGET",
        ),
    ] = None
    config: Annotated[
        Path | None,
        Option(
            "Config, YAML or JSON; alone: an untrained model.",
            MODEL,
            short="-c",
            metavar="FILE",
            suffixes=(".yaml", ".yml", ".json"),
        ),
    ] = None
    weights: Annotated[
        Path | None,
        Option(
            "Weights, .safetensors or the index of shards.",
            MODEL,
            short="-w",
            metavar="FILE",
            suffixes=(".safetensors", ".index.json"),
        ),
    ] = None
    offline: Annotated[bool, Option("Download nothing.", MODEL)] = False
    check_finite: Annotated[bool, Option("Refuse weights with NaN or infinity.", MODEL)] = True
    device: Annotated[
        str, Option("Where to compute: cpu, cuda, cuda:1 or mps.", MACHINE, metavar="NAME")
    ] = "cpu"
    dtype: Annotated[
        Dtype, Option("Dtype of the weights in memory; auto: that of the file.", MACHINE)
    ] = "auto"
    quantize: Annotated[
        Width | None, Option("Round the weights to 8 or 4 bits: faster, nearly the same.", MACHINE)
    ] = None
    threads: Annotated[
        int | None,
        Option("CPU threads; all of the process without it.", MACHINE, metavar="N", ge=1),
    ] = None
    seed: Seed = None
    engine: Annotated[
        EngineName,
        Option("native: the compiled kernels; torch: PyTorch; auto: native on a CPU.", MACHINE),
    ] = "auto"

    def __post_init__(self) -> None:
        check(self)
        if not _DEVICE.fullmatch(self.device):
            given = shown(self.device, 60)
            raise UsageError("device", f'must be cpu, cuda, cuda:N or mps, got "{given}"')
        if self.quantize and self.dtype not in {"float32", "auto"}:
            problem = f"{self.quantize} weights bring their own arithmetic, got {self.dtype}"
            raise UsageError("dtype", problem, "Leave out `dtype` or `quantize`")
        if self.device != "cpu" and self.engine == "native":
            raise UsageError("engine", f"native computes on a CPU only, got {self.device}")
