"""What shortcut connections are for: gradients of a whole GPT, with and without them.

Also the book's five-layer demonstration with the numbers it prints. Knows no text, files or
terminal.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.model.gpt import GPTModel, TransformerBlock
from gptcli.model.shortcut import ExampleDeepNeuralNetwork, mean_gradients

# What the book prints for seed 123 and the input 1, 0, -1, by `use_shortcut`.
PUBLISHED = {
    False: (0.00020173587836325169, 0.0001201116101583466, 0.0007152041653171182,
            0.001398873864673078, 0.005049646366387606),
    True: (0.22169792652130127, 0.20694105327129364, 0.32896995544433594,
           0.2665732204914093, 1.3258540630340576),
}  # fmt: skip
_LAYER_SIZES = (3, 3, 3, 3, 3, 1)
_SEED = 123


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


def demonstration(use_shortcut: bool) -> tuple[float, ...]:
    """The mean absolute gradients of the five layers, as the book's demonstration has them.

    The caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(_SEED)
        model = ExampleDeepNeuralNetwork(_LAYER_SIZES, use_shortcut)
        return tuple(mean_gradients(model, torch.tensor([[1.0, 0.0, -1.0]])).values())


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
