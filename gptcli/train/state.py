"""Write and read the training state: a safetensors file with the rest as JSON in its metadata.

The file is replaced atomically: a process that is killed leaves the state before or after, never a
mixture.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.core.files import write_atomically
from gptcli.train.optimizer import WeightAverage

_KEY = "gptcli.training"
_OPTIMIZER = "optimizer."


@dataclass(slots=True)
class Progress:
    """How far a training has come.

    Attributes:
        step: optimizer steps done.
        tokens: targets trained on.
        seconds: time spent, over all resumes.
        best: lowest validation bits per byte, None before the first validation.
        best_step: the step of `best`.
        stale: validations since `best_step`.
        history: for each step its number, training loss (nats per token) and, if validated, bits
            per byte.
        stopped: whether early stopping ended the training.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class TrainedState:
    """What a training step changes: weights, optimizer states, average of the weights."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    average: WeightAverage | None


def write_state(
    path: Path, trained: TrainedState, progress: Progress, identity: dict[str, Any]
) -> None:
    """Write everything that the next step depends on.

    `identity` holds the settings and digests that must be equal to resume.

    Raises:
        RunError: the file cannot be written; the previous state is intact.
    """
    tensors = {f"model.{name}": p.detach() for name, p in trained.model.named_parameters()}
    for name, parameter in trained.model.named_parameters():
        for optimizer in trained.optimizers:
            for key, tensor in optimizer.state.get(parameter, {}).items():
                tensors[f"{_OPTIMIZER}{key}.{name}"] = tensor
    if trained.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in trained.average.weights.items()}
    record = json.dumps({"progress": asdict(progress), "identity": identity})
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, {_KEY: record}))


def read_state(path: Path, trained: TrainedState, identity: dict[str, Any]) -> Progress:
    """Load a state into `trained`, in place.

    Raises:
        InputError: not a state, damaged, or that of a training with other settings or texts.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})[_KEY])
            _check_identity(record["identity"], identity, path)
            _fill(file, trained)
            return Progress(**record["progress"])
    except (SafetensorError, LookupError, ValueError, TypeError, OSError, RuntimeError) as error:
        problem = f"not the state of a training ({shown(error)})"
        raise InputError(shown(path), problem) from None


def _check_identity(found: dict[str, Any], expected: dict[str, Any], path: Path) -> None:
    expected = json.loads(json.dumps(expected))
    for key in sorted({*found, *expected}):
        if found.get(key) != expected.get(key):
            was, now = shown(found.get(key), 60), shown(expected.get(key), 60)
            hint = "Resume with the options and texts it was started with"
            raise InputError(shown(path), f"was made with another {key} ({was}, now {now})", hint)


@torch.no_grad()
def _fill(file: Any, trained: TrainedState) -> None:
    parameters = dict(trained.model.named_parameters())
    for name, parameter in parameters.items():
        parameter.copy_(file.get_tensor(f"model.{name}"))
        if trained.average is not None:
            trained.average.weights[name].copy_(file.get_tensor(f"average.{name}"))
    for entry in file.keys():  # noqa: SIM118  # a safetensors file is no mapping
        if entry.startswith(_OPTIMIZER):
            key, name = entry.removeprefix(_OPTIMIZER).split(".", 1)
            parameter = parameters[name]
            owner = next(o for o in trained.optimizers if _owns(o, parameter))
            owner.state[parameter][key] = file.get_tensor(entry).to(parameter.device)


def _owns(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> bool:
    return any(parameter is held for group in optimizer.param_groups for held in group["params"])
