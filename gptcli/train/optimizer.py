"""Optimizers, learning-rate schedule, weight averaging and GPT-2's initialisation."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gptcli.model.gpt import GPTModel
from gptcli.train.options import TrainSettings

MOMENTUM = 0.95  # Muon's


def build_optimizers(model: GPTModel, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """The optimizers that together update each parameter of the model once.

    Weight decay applies to matrices only, not to biases and norms. With muon, Muon updates the
    matrices inside the blocks, and AdamW the embeddings, the head and all vectors.
    """
    lr, decay, muon = settings.lr, settings.weight_decay, settings.optimizer == "muon"
    muon_weights = [p for p in model.trf_blocks.parameters() if p.dim() == 2 and muon]
    taken = {id(p) for p in muon_weights}
    others = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    built: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=lr, betas=(settings.beta1, settings.beta2), fused=True)
    ]
    if muon_weights:
        # match_rms_adamw scales updates so that AdamW's learning rate and weight decay fit Muon too
        # (Liu and others, "Muon is scalable for LLM training", 2025).
        built.append(
            torch.optim.Muon(
                muon_weights,
                lr=lr,
                weight_decay=decay,
                momentum=MOMENTUM,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return built


def learning_rate(step: int, steps: int, *, peak: float, warmup: int, floor: float) -> float:
    """The learning rate of a step: linear warm-up, then cosine decay from `peak` to `floor`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value


class WeightAverage:
    """An exponential moving average (EMA) of a model's weights: w = decay w + (1 - decay) new.

    The decay of step n is at most (1 + n) / (10 + n), so that the initial weights fade quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Include the model's weights after step `step`, counted from 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter, share)


@torch.no_grad()
def swap_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Exchange a model's weights with others of the same names and shapes, in place."""
    for name, parameter in model.named_parameters():
        before = parameter.detach().clone()
        parameter.copy_(weights[name])
        weights[name].copy_(before)


@torch.no_grad()
def initialise_as_gpt2(model: nn.Module, n_layers: int) -> None:
    """Initialise as GPT-2: matrices from N(0, 0.02), biases 0.

    The two matrices of a block that add to the residual stream are smaller by sqrt(2 n_layers)
    ("Language Models are Unsupervised Multitask Learners", section 2.3). Draws from torch's global
    random state.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            residual = name.endswith(("out_proj.weight", "ff.layers.2.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layers) if residual else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
