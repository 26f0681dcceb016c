"""The book's five-layer demonstration of shortcut connections."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.model.gpt import GELU

# As the book prints them for seed 123 and the input 1, 0, -1; by `use_shortcut`.
BOOK_GRADIENTS = {
    False: (0.00020173587836325169, 0.0001201116101583466, 0.0007152041653171182,
            0.001398873864673078, 0.005049646366387606),
    True: (0.22169792652130127, 0.20694105327129364, 0.32896995544433594,
           0.2665732204914093, 1.3258540630340576),
}  # fmt: skip
_LAYER_SIZES = (3, 3, 3, 3, 3, 1)
_SEED = 123


class ExampleDeepNeuralNetwork(nn.Module):
    """Linear + GELU layers; with `use_shortcut`, each adds its input where shapes match."""

    def __init__(self, layer_sizes: Sequence[int], use_shortcut: bool) -> None:
        super().__init__()
        self.use_shortcut = use_shortcut
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(size_in, size_out), GELU())
            for size_in, size_out in pairwise(layer_sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, layer_sizes[0]) → (B, layer_sizes[-1])."""
        for layer in self.layers:
            output = layer(x)
            x = x + output if self.use_shortcut and x.shape == output.shape else output
        return x


def mean_gradients(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Mean absolute gradient of each weight, by name, for the squared error of model(x) from 0."""
    output = model(x)
    model.zero_grad()
    F.mse_loss(output, torch.zeros_like(output)).backward()
    return {
        name: parameter.grad.abs().mean().item()
        for name, parameter in model.named_parameters()
        if "weight" in name and parameter.grad is not None
    }


def demonstration(use_shortcut: bool) -> tuple[float, ...]:
    """The mean absolute gradients of the five layers, as the book computes them.

    The caller's random state is restored.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(_SEED)
        model = ExampleDeepNeuralNetwork(_LAYER_SIZES, use_shortcut)
        return tuple(mean_gradients(model, torch.tensor([[1.0, 0.0, -1.0]])).values())


def print_gradients(model: nn.Module, x: Tensor) -> None:
    """Print `mean_gradients`, a line each, as the book does."""
    for name, gradient in mean_gradients(model, x).items():
        print(f"{name} has gradient mean of {gradient}")  # noqa: T201 printing is its task
