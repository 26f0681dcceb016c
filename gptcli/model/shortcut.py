"""What shortcut connections are for: the book's five-layer demonstration."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.model.gpt import GELU


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
    """Mean absolute gradient of each weight, by name: squared error of model(x) against 0."""
    output = model(x)
    model.zero_grad()
    F.mse_loss(output, torch.zeros_like(output)).backward()
    return {
        name: parameter.grad.abs().mean().item()
        for name, parameter in model.named_parameters()
        if "weight" in name and parameter.grad is not None
    }


def print_gradients(model: nn.Module, x: Tensor) -> None:
    """Print `mean_gradients`, a line each, as the book does."""
    for name, gradient in mean_gradients(model, x).items():
        print(f"{name} has gradient mean of {gradient}")  # noqa: T201 printing is its task
