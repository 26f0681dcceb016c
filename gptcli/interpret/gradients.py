"""Gradients of a whole GPT with and without shortcut connections, to show what those are for."""

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
        mean_absolute: by parameter name, in the order of the model; a tied head's is part of the
            embedding's.
    """

    shortcuts: bool
    loss: float
    mean_absolute: dict[str, float]

    def by_part(self) -> dict[str, float]:
        """One number for each block and for what is outside: the mean over weight matrices."""
        parts: dict[str, list[float]] = {}
        for name, value in self.mean_absolute.items():
            if name.endswith(".weight"):
                parts.setdefault(_part(name), []).append(value)
        return {part: sum(values) / len(values) for part, values in parts.items()}


def gradients(model: GPTModel, ids: Sequence[int], *, shortcuts: bool = True) -> Gradients:
    """The loss on a text of at least two tokens and each parameter's mean absolute gradient.

    Without dropout, whatever the mode. The model is left as it was, `grad` too.

    Raises:
        ValueError: fewer than two ids, or more than the context.
    """
    if len(ids) < 2:
        raise ValueError("a loss needs at least two tokens: one to see, one to predict")
    given = torch.tensor([list(ids)], device=model.device)
    with torch.enable_grad(), _differentiable(model):
        named = dict(model.named_parameters())
        logits = forward(model, given, shortcuts=shortcuts)[0, :-1].float()
        loss = F.cross_entropy(logits, given[0, 1:])
        found = torch.autograd.grad(loss, list(named.values()))
    means = {
        name: gradient.double().abs().mean().item()
        for name, gradient in zip(named, found, strict=True)
    }
    return Gradients(shortcuts, loss.item(), means)


def forward(model: GPTModel, ids: Tensor, *, shortcuts: bool = True) -> Tensor:
    """(B, T) ids → (B, T, V) logits without dropout; without `shortcuts` nothing is added.

    A block is then ff(norm2(att(norm1(x)))): what the model would be without the book's two
    additions. The attention's own dropout follows the model's mode.
    """
    x = model.tok_emb(ids) + model.pos_emb(torch.arange(ids.shape[1], device=ids.device))
    for block in model.trf_blocks:
        assert isinstance(block, TransformerBlock)
        attended = block.att(block.norm1(x))
        x = x + attended if shortcuts else attended
        thought = block.ff(block.norm2(x))
        x = x + thought if shortcuts else thought
    return model.out_head(model.final_norm(x))


def _part(name: str) -> str:
    """The block of a parameter, by its name, or the module outside the blocks."""
    first, second, *_ = name.split(".")
    return f"block {second}" if first == "trf_blocks" else first


@contextmanager
def _differentiable(model: GPTModel) -> Iterator[None]:
    """Evaluation mode with gradients for every parameter, and all as before afterwards."""
    was_training = model.training
    wanted = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval().requires_grad_(True)
    try:
        yield
    finally:
        for weight, before in wanted:
            weight.requires_grad_(before)
        model.train(was_training)
