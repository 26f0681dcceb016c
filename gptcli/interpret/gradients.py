"""Gradients of a GPT with and without its shortcut connections."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.model.gpt import GPTModel, TransformerBlock


@dataclass(frozen=True, slots=True)
class Gradients:
    """One backward pass.

    Attributes:
        shortcuts: whether the blocks added their input to their output.
        loss: mean cross entropy of each next token, in nats.
        mean_absolute: mean absolute gradient by parameter name, in the order of the model; a tied
            head's is part of the embedding's.
    """

    shortcuts: bool
    loss: float
    mean_absolute: dict[str, float]

    def by_part(self) -> dict[str, float]:
        """The mean over weights of each block, and of each module outside the blocks."""
        parts: dict[str, list[float]] = {}
        for name, value in self.mean_absolute.items():
            if name.endswith(".weight"):
                parts.setdefault(_part(name), []).append(value)
        return {part: sum(values) / len(values) for part, values in parts.items()}


def gradients(model: GPTModel, ids: Sequence[int], *, shortcuts: bool = True) -> Gradients:
    """The loss on at least two tokens, and each parameter's mean absolute gradient.

    Without dropout, whatever the mode. Leaves the model as it was, `grad` included.

    Raises:
        ValueError: fewer than two ids, or more than the context.
    """
    if len(ids) < 2:
        raise ValueError("a loss needs at least two tokens: one to see, one to predict")
    inputs = torch.tensor([list(ids)], device=model.device)
    with torch.enable_grad(), _differentiable(model):
        named = dict(model.named_parameters())
        logits = forward(model, inputs, shortcuts=shortcuts)[0, :-1].float()
        loss = F.cross_entropy(logits, inputs[0, 1:])
        found = torch.autograd.grad(loss, list(named.values()))
    means = {
        name: gradient.double().abs().mean().item()
        for name, gradient in zip(named, found, strict=True)
    }
    return Gradients(shortcuts, loss.item(), means)


def forward(model: GPTModel, ids: Tensor, *, shortcuts: bool = True) -> Tensor:
    """(B, T) ids → (B, T, V) logits, without dropout of embeddings and shortcuts.

    Without `shortcuts` a block is ff(norm2(att(norm1(x)))). Attention's own dropout follows the
    model's mode.
    """
    x = model.tok_emb(ids) + model.pos_emb(torch.arange(ids.shape[1], device=ids.device))
    for block in model.trf_blocks:
        assert isinstance(block, TransformerBlock)
        attended = block.att(block.norm1(x))
        x = x + attended if shortcuts else attended
        fed_forward = block.ff(block.norm2(x))
        x = x + fed_forward if shortcuts else fed_forward
    return model.out_head(model.final_norm(x))


def _part(name: str) -> str:
    """A parameter's block, or its module outside the blocks."""
    first, second, *_ = name.split(".")
    return f"block {second}" if first == "trf_blocks" else first


@contextmanager
def _differentiable(model: GPTModel) -> Iterator[None]:
    """Evaluation mode and gradients for every parameter; restores both afterwards."""
    was_training = model.training
    wanted = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval().requires_grad_(True)
    try:
        yield
    finally:
        for weight, before in wanted:
            weight.requires_grad_(before)
        model.train(was_training)
