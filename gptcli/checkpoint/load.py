"""Load a checkpoint into the book's PyTorch model, and save such a model.

The native engine reads weights without PyTorch, by `gptcli.checkpoint.weights`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gptcli.checkpoint.layouts import EMBEDDING, HEAD
from gptcli.checkpoint.resolve import Target
from gptcli.checkpoint.save import save_weights
from gptcli.checkpoint.weights import Checkpoint, Weights, open_checkpoint, require_memory
from gptcli.core.arrays import Array
from gptcli.core.errors import InputError, RunError
from gptcli.core.escape import shown
from gptcli.core.memory import available_bytes
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import FloatDtype
from gptcli.model.gpt import GPTModel, untrained

_DTYPES: dict[torch.dtype, FloatDtype] = {
    torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16",
}  # fmt: skip


def load_model(
    target: Target,
    checkpoint: Checkpoint | None = None,
    *,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    check_finite: bool = True,
) -> GPTModel:
    """The model of a target, in evaluation mode; its `config` says whether the head is tied.

    Args:
        target: the model; one without weights is initialised at random.
        checkpoint: of the target, if it is open already.
        seed: of an untrained model; None is 0.
        dtype: of the parameters.
        device: as PyTorch names it.
        check_finite: refuse NaN and infinite weights.

    Raises:
        InputError: the weights are damaged, or do not match the config.
        RunError: too little memory, or the file changed while it was being read.
    """
    if target.weights is None:
        assert target.config is not None, "a target without weights has a config"
        require_memory(target.name, target.config, "float32", available_bytes())
        return _moved_to(untrained(target.config, seed or 0), dtype, device)
    checkpoint = checkpoint or open_checkpoint(target.weights, target.config)
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    weights = checkpoint.weights(
        _DTYPES[dtype],
        check_finite=check_finite,
        available=torch.cuda.mem_get_info(device)[0] if on_gpu else None,
    )
    return build_model(weights, dtype, device)


def build_model(
    weights: Weights, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> GPTModel:
    """Build the book's model with these weights; quantised ones are dequantised."""
    model = _meta_model(weights.config)
    return _moved_to(_assign(model, dict(_parameters(model, weights))), dtype, device)


def weights_of(model: GPTModel) -> Weights:
    """A model's parameters as arrays, which share the memory of parameters on the CPU."""
    return Weights(model.config, {n: _as_array(weight) for n, weight in model.named_parameters()})


def load_weights(model: GPTModel, path: Path, *, check_finite: bool = True) -> None:
    """Copy a file's weights into a model's parameters, which keep their device and dtype.

    Raises:
        InputError: as `load_model`; or the model is tied and the file has an output head.
        RunError: the file changed while it was being read.
    """
    checkpoint = open_checkpoint(path, model.config)
    if checkpoint.width:
        raise InputError(shown(path), f"holds {checkpoint.width} weights, expected floats")
    tied = checkpoint.is_tied()
    if model.config.tie_weights and not tied:
        raise InputError(shown(path), "has an output head of its own, but the model is tied")
    weights = checkpoint.weights(_DTYPES[model.pos_emb.weight.dtype], check_finite=check_finite)
    destinations = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in _parameters(model, weights):
            destinations[name].copy_(tensor)
        if tied and not model.config.tie_weights:
            destinations[HEAD].copy_(destinations[EMBEDDING])


def save(model: GPTModel, directory: Path) -> None:
    """Write `model.safetensors` in the book's layout and `config.json`, each atomically.

    A tied head is stored once. The directory is made if it is missing.

    Raises:
        RunError: a file cannot be written.
    """
    save_weights(weights_of(model), directory)


class _NoInitialisation(TorchFunctionMode):
    """Make `torch.nn.init` a no-op; on the meta device it would import half of torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


def _meta_model(config: GPTConfig) -> GPTModel:
    with torch.device("meta"), _NoInitialisation():
        return GPTModel(config)


def _parameters(model: GPTModel, weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """A tensor for each parameter, except for a tied head."""
    for name, parameter in model.named_parameters():
        if name == HEAD and weights.config.tie_weights:
            continue
        fused = name.replace("W_query", "qkv")
        if fused != name and fused in weights.tensors:
            parts = _as_tensor(weights.tensors[fused]).chunk(3)
            for part, key in zip(parts, ("W_query", "W_key", "W_value"), strict=True):
                yield name.replace("W_query", key), part
        elif name in weights.tensors:
            yield name, _as_tensor(weights.tensors[name])
        elif any(f"{name}.{part}" in weights.tensors for part in ("values", "levels")):
            yield name, torch.from_numpy(weights.floats(name))
        elif not any(key in name for key in ("W_key", "W_value")):
            yield name, torch.zeros(parameter.shape)  # a bias that the file leaves out


def _as_tensor(array: Array) -> Tensor:
    if array.dtype == "uint16":
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16).contiguous()
    return torch.from_numpy(array).contiguous()


def _as_array(weight: Tensor) -> Array:
    weight = weight.detach().cpu()
    if weight.dtype == torch.bfloat16:
        return weight.view(torch.int16).numpy().view("uint16")
    return weight.numpy()


def _moved_to(model: GPTModel, dtype: torch.dtype, device: str) -> GPTModel:
    try:
        return model.to(device=device, dtype=dtype).eval()
    except (RuntimeError, MemoryError) as error:  # torch's errors for a failed allocation
        reason = (str(error).splitlines() or ["out of memory"])[0]
        raise RunError(f"`device={shown(device)}`", shown(reason)) from None


def _assign(model: GPTModel, weights: dict[str, Tensor]) -> GPTModel:
    """Make the tensors the model's parameters, without a copy."""
    head = {} if HEAD in weights else {HEAD: weights[EMBEDDING]}
    model.load_state_dict({**weights, **head}, assign=True)
    if head:
        model.out_head.weight = model.tok_emb.weight
    return model
