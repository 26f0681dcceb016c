"""A model from a safetensors file, and a safetensors file from a model.

Cheap to dear, and nothing allocated before it is known to be right: header, names, shapes and
dtypes against the config, memory, then the data, checked on its way. Never unpickles.

Whether the output head is the token embedding (tied) is the file's to say: it is where the file
has no head, or one equal to the embedding bit for bit; otherwise the file's head is used,
whatever the config says. Only in the book's layout a missing head needs `tie_weights: true`.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gptcli.checkpoint.fill import fill, same_bytes
from gptcli.checkpoint.fit import check
from gptcli.checkpoint.header import Header, read_headers
from gptcli.checkpoint.layouts import EMBEDDING, HEAD, Layout, implied_config, recognise
from gptcli.checkpoint.quantized import metadata, refuse_other_numbers, stored_width
from gptcli.checkpoint.quantstore import StoredWeights, read_stored, stored_tensors
from gptcli.checkpoint.resolve import Target
from gptcli.checkpoint.streamed import Files, StreamedWeights
from gptcli.core.errors import InputError, RunError, one_message
from gptcli.core.escape import shown
from gptcli.core.memory import available_bytes, require
from gptcli.engine.ahead import Ahead
from gptcli.engine.fast import FastGPT
from gptcli.engine.layers import Floats
from gptcli.engine.quantize import Width
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, untrained
from gptcli.model.parameters import count

_MARGIN = 1.2  # activations, staging, and what the allocator wastes


def load_model(
    target: Target,
    *,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    check_finite: bool = True,
) -> GPTModel:
    """The model of a target, in evaluation mode; its `config` says whether the head is tied.

    Args:
        target: without weights, an untrained model is initialised.
        seed: of the untrained model; None is 0.
        dtype: of the parameters.
        device: as PyTorch names it.
        check_finite: refuse NaN and infinite weights.

    Raises:
        InputError: the weights are damaged, or are not those of the config.
        RunError: too little memory, or the file changed while it was being read.
    """
    if target.weights is None:
        return _untrained(target, seed or 0, dtype, device)
    headers, layout, config = _checked(target.weights, target.config)
    least = replace(config, tie_weights=True)
    _require_memory(target.weights, least, dtype, device)  # before a head is compared
    if layout.width:
        stored = _stored(headers, layout, config, check_finite=check_finite)
        return _assign(_skeleton(stored.config), stored.floats()).to(device, dtype).eval()
    config = replace(config, tie_weights=_is_tied(headers, layout))
    _require_memory(target.weights, config, dtype, device)
    model = _skeleton(config)
    weights = _allocate(model, dtype, device)
    fill(headers, layout, weights, check_finite=check_finite)
    return _assign(model, weights).eval()


def load_fast(
    target: Target,
    width: Width | None = None,
    *,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    check_finite: bool = True,
    single: bool = False,
) -> FastGPT:
    """The model of a target arranged for speed, its weights rounded to `width` if there is one.

    `single` is for one text at a time: a step is faster by up to a fifth in float32, a prompt by
    four fifths in int4; several texts are slower, and one's bits may depend on the others.

    Quantised weights are used as they are stored. Otherwise as `load_model`.

    Raises:
        UsageError: quantised weights of another width, for another dtype or device; this processor
            or model cannot have the width.
        InputError, RunError: as `load_model`.
    """
    if target.weights is None:
        made = _untrained(target, seed or 0, dtype, device)
        return FastGPT(Floats(made, width, single=single))
    stored = stored_width(target.weights)
    if stored is not None:
        refuse_other_numbers(stored, width, str(dtype).removeprefix("torch."), device)
    headers, layout, config = _checked(target.weights, target.config)
    if stored is not None:
        _require_memory(target.weights, config, torch.int8, "cpu")
        how = {"check_finite": check_finite, "single": single}
        with Ahead(_stored(headers, layout, config, **how)) as ahead:
            return FastGPT(ahead)
    least = replace(config, tie_weights=True)
    _require_memory(target.weights, least, dtype, device)  # before a head is compared
    config = replace(config, tie_weights=_is_tied(headers, layout))
    _require_memory(target.weights, config, dtype, device)
    files = Files(
        headers=headers,
        layout=layout,
        config=config,
        dtype=dtype,
        device=device,
        check_finite=check_finite,
    )
    weights = StreamedWeights(files, width, single=single)
    if weights.keeps_floats:
        return FastGPT(weights)
    with Ahead(weights) as ahead:
        return FastGPT(ahead)


def load_weights(model: GPTModel, path: Path, *, check_finite: bool = True) -> None:
    """Read a file's weights into the parameters of a model, which stay where and what they are.

    Raises:
        InputError: as `load_model`; the file's head is its own and the model's is tied. If the
            data is bad, the model may hold some of it.
        RunError: the file changed while it was being read.
    """
    headers, layout, _ = _checked(path, model.config)
    if layout.width:
        raise InputError(shown(path), f"holds {layout.width} weights, expected floats")
    tied = _is_tied(headers, layout)
    if model.config.tie_weights and not tied:
        raise InputError(shown(path), "has an output head of its own, the model's is tied")
    destinations = {name: weight.detach() for name, weight in model.named_parameters()}
    fill(headers, layout, destinations, check_finite=check_finite)
    if tied and not model.config.tie_weights:
        destinations[HEAD].copy_(destinations[EMBEDDING])


def save(model: GPTModel, directory: Path) -> None:
    """Write `model.safetensors` in the book's layout and `config.json`, each whole or not at all.

    A tied head is stored once. The directory is made if it is not there.

    Raises:
        RunError: the directory cannot be written.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    _write(directory, weights, {"format": "pt"}, model.config)


def save_quantized(model: GPTModel, directory: Path, width: Width) -> None:
    """The same with the weights rounded: a file that `load_fast` uses as it is.

    Raises:
        UsageError: the model cannot have the width.
        RunError: the directory cannot be written.
    """
    _write(directory, stored_tensors(model, width), metadata(width), model.config)


def _write(
    directory: Path, weights: dict[str, Tensor], about: dict[str, str], config: GPTConfig
) -> None:
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        parts = directory / ".model.safetensors.part", directory / ".config.json.part"
        try:
            save_file(weights, parts[0], metadata=about)
            parts[1].write_text(text, encoding="utf-8")
            for part in parts:
                _sync(part)
                part.replace(directory / part.name[1 : -len(".part")])
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise RunError(shown(directory), f"cannot be written ({shown(error)})") from None


class _NoInitialisation(TorchFunctionMode):
    """Inside, `torch.nn.init` does nothing: on the meta device even that loads half of torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


def _skeleton(config: GPTConfig) -> GPTModel:
    """A model without memory behind its parameters."""
    with torch.device("meta"), _NoInitialisation():
        return GPTModel(config)


def _stored(
    headers: Sequence[Header],
    layout: Layout,
    config: GPTConfig,
    *,
    check_finite: bool,
    single: bool = False,
) -> StoredWeights:
    config = replace(config, tie_weights=HEAD not in layout.sources)
    return read_stored(headers, layout, config, check_finite=check_finite, single=single)


def _untrained(target: Target, seed: int, dtype: torch.dtype, device: str) -> GPTModel:
    assert target.config is not None, "a target without weights has a config"
    _require_memory(target.name, target.config, torch.float32, "cpu")
    return untrained(target.config, seed).to(dtype=dtype, device=device)


def _checked(path: Path, config: GPTConfig | None) -> tuple[list[Header], Layout, GPTConfig]:
    """Headers, layout and config that go together."""
    headers = read_headers(path)
    layout = recognise(headers)
    if config is None:
        raise _no_config(path, implied_config(headers, layout))
    if problems := check(headers, layout, config):
        hint = "Is this the config of these weights?"
        raise InputError(shown(path), one_message(problems), hint)
    return headers, layout, config


def _no_config(path: Path, implied: dict[str, Any]) -> InputError:
    width = implied.get("emb_dim", 0)
    heads = f" (GPT-2's own sizes have emb_dim / 64, here {width // 64})" if width else ""
    hint = f"Name one with `config`, or put a config.json beside the weights{heads}"
    return InputError(shown(path), "needs a config: weights do not tell n_heads", hint)


def _is_tied(headers: Sequence[Header], layout: Layout) -> bool:
    """Whether the file's head is its embedding: there is none, or it is equal bit for bit."""
    if HEAD not in layout.sources:
        return True
    head, embedding = (
        next((h, h.tensors[name]) for h in headers if name in h.tensors)
        for name in (layout.sources[HEAD].name, layout.sources[EMBEDDING].name)
    )
    return same_bytes(head, embedding)


def _require_memory(where: object, config: GPTConfig, dtype: torch.dtype, device: str) -> None:
    """Weights, a cache for the full context, and a fifth more must fit."""
    cache = 2 * config.n_layers * config.emb_dim * config.context_length
    needed = (count(config).total + cache) * dtype.itemsize * _MARGIN
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    available = torch.cuda.mem_get_info(device)[0] if on_gpu else available_bytes()
    require(shown(where), needed, available)


def _allocate(model: GPTModel, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Memory for each parameter of a model on the meta device, a shared one once."""
    try:
        return {
            name: torch.empty(weight.shape, dtype=dtype, device=device)
            for name, weight in model.named_parameters()
        }
    except (RuntimeError, MemoryError) as error:  # what torch calls an allocation that failed
        reason = (str(error).splitlines() or ["out of memory"])[0]
        raise RunError(f"`device={shown(device)}`", shown(reason)) from None


def _assign(model: GPTModel, weights: dict[str, Tensor]) -> GPTModel:
    """Make the tensors the model's parameters, without a copy."""
    head = {} if HEAD in weights else {HEAD: weights[EMBEDDING]}
    model.load_state_dict({**weights, **head}, assign=True)
    if head:
        model.out_head.weight = model.tok_emb.weight
    return model


def _sync(path: Path) -> None:
    """Onto the disk, so that a name never stands for a file that power loss emptied."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
