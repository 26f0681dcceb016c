"""The optimizers, the learning-rate schedule, weight averaging and GPT-2's initialisation."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gptcli.model.gpt import GPTModel
from gptcli.train.options import TrainSettings

MOMENTUM = 0.95  # Muon's


def build(model: GPTModel, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """The optimizers that together update each parameter of the model once.

    Weight decay is for matrices only: biases and norms have no size to keep small. With muon, the
    matrices inside the blocks are its, and embeddings, head and vectors stay with AdamW.
    """
    lr, decay, muon = settings.lr, settings.weight_decay, settings.optimizer == "muon"
    inner = [p for p in model.trf_blocks.parameters() if p.dim() == 2 and muon]
    taken = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in outer if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in outer if p.dim() < 2], "weight_decay": 0.0},
    ]
    built: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=lr, betas=(settings.beta1, settings.beta2), fused=True)
    ]
    if inner:
        # match_rms_adamw: AdamW's learning rate and weight decay serve both
        # (Liu and others, "Muon is scalable for LLM training", 2025).
        built.append(
            torch.optim.Muon(
                inner, lr=lr, weight_decay=decay, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
            )
        )
    return built


def rate(step: int, steps: int, *, peak: float, warmup: int, floor: float) -> float:
    """The learning rate of a step: linear warm-up, then half a cosine from `peak` to `floor`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Make `value` the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = value


class Average:
    """An exponential moving average of a model's weights: w = decay w + (1 - decay) new.

    While the average is younger than its decay suggests, it follows faster, so that the
    first weights do not linger: the decay of step n is at most (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights after step `step`, counted from 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter, share)


@torch.no_grad()
def swap(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Exchange a model's weights with others of the same names and shapes, in place."""
    for name, parameter in model.named_parameters():
        held = parameter.detach().clone()
        parameter.copy_(weights[name])
        weights[name].copy_(held)


@torch.no_grad()
def initialise_as_gpt2(model: nn.Module, n_layers: int) -> None:
    """GPT-2's initialisation: matrices from N(0, 0.02), biases 0, and the two matrices of a block
    that add to the residual stream smaller by sqrt(2 n_layers) ("Language Models are Unsupervised
    Multitask Learners", section 2.3). Draws from torch's own random state.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            residual = name.endswith(("out_proj.weight", "ff.layers.2.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layers) if residual else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
