"""Muon: momentum whose updates are made orthogonal, for the matrices inside a network.

Knows no schedule and no data. After K. Jordan, "Muon: an optimizer for hidden layers in neural
networks" (2024); the scale is J. Liu and others', "Muon is scalable for LLM training" (2025),
with which AdamW's learning rate and weight decay serve both.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gptcli.engine.precision import has_bfloat16

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # steepest at 0, so small singular values grow fast
_RMS = 0.2  # of an update's entries, which is about AdamW's


class Muon(torch.optim.Optimizer):
    """w = (1 - lr decay) w - lr U, with U the orthogonal factor of the gradient's momentum."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; `closure` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = group["momentum"]
        held = state["momentum"].lerp_(gradient, 1 - momentum)
        update = orthogonal(gradient.lerp(held, momentum))  # Nesterov's look ahead
        scale = _RMS * max(parameter.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(M, N) → (M, N): about U V^T of its singular value decomposition U S V^T.

    An odd polynomial, applied repeatedly, drives singular values towards 1 (to 0.7 ... 1.2, which
    is enough).

    Args:
        dtype: of the products. None is bfloat16, whose errors do not matter here, where the device
            has it, else float32.
    """
    if dtype is None:
        dtype = torch.bfloat16 if has_bfloat16(matrix.device) else torch.float32
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)
