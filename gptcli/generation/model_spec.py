"""ModelSpec: which model, and how to compute with it; the options that all commands share.

Errors name the field (`dtype`), which the command line spells `--dtype`.
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
        model: preset, model directory, config or `.safetensors` file; None with no config and no
            weights is the built-in model.
        config: a config file, in place of the model's own; alone, an untrained model.
        weights: a `.safetensors` file or the index of its shards, in place of the model's own.
        offline: download nothing.
        check_finite: refuse weights that are NaN or infinite.
        device: cpu, cuda, cuda:N or mps, as PyTorch names them.
        dtype: of the weights in memory; auto keeps that of the file. The arithmetic of the native
            engine is float32 whatever the dtype.
        quantize: quantise the weights to 8 or 4 bits.
        threads: None for all that the process may use.
        seed: initialises an untrained model; None is 0.
        engine: native are the compiled kernels, torch is PyTorch; auto is native on a CPU if the
            kernels are installed.

    Raises:
        UsageError: a value is out of range, or two exclude each other.
    """

    model: Annotated[
        str | None,
        Option(
            "A preset, a model directory, a config or a .safetensors file; without it, the"
            " built-in model.",
            MODEL,
            short="-m",
            metavar="TARGET",
        ),
    ] = None
    config: Annotated[
        Path | None,
        Option(
            "Config, YAML or JSON; without weights, the model is untrained.",
            MODEL,
            short="-c",
            metavar="FILE",
            suffixes=(".yaml", ".yml", ".json"),
        ),
    ] = None
    weights: Annotated[
        Path | None,
        Option(
            "Weights: a .safetensors file, or the index of its shards.",
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
        Width | None,
        Option("Quantise the weights to 8 or 4 bits: faster, nearly the same text.", MACHINE),
    ] = None
    threads: Annotated[
        int | None,
        Option(
            "CPU threads; without it, all that the process may use.", MACHINE, metavar="N", ge=1
        ),
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
            problem = f"cannot be {self.dtype} together with `quantize={self.quantize}`"
            raise UsageError("dtype", problem, "Leave out `dtype` or `quantize`")
        if self.device != "cpu" and self.engine == "native":
            raise UsageError("engine", f"native computes on CPUs only, got `device={self.device}`")
