"""The training loop.

All random numbers, for dropout and data, derive from (seed, step), and the state is written
atomically. So a training that was killed and resumed ends with the same weights, bit for bit on the
same machine.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptcli.core.errors import RunError
from gptcli.engine.pytorch import wants_bfloat16
from gptcli.model.gpt import GPTModel, TransformerBlock
from gptcli.train import optimizer as optimizers
from gptcli.train.distributed import Group
from gptcli.train.evaluate import ValidationText, bits_per_byte
from gptcli.train.options import TrainSettings
from gptcli.train.packing import IGNORE_INDEX, Ids, Mixture, seeded_generator
from gptcli.train.state import Progress, TrainedState, read_state, write_state

_CHANGEABLE = ("steps", "warmup", "save_every")  # settings that may differ when resuming


@dataclass(frozen=True, slots=True)
class StepReport:
    """The result of one optimizer step.

    Attributes:
        step: its number, counted from 1.
        loss: mean training loss in nats per token.
        rate: learning rate.
        tokens: trained on so far.
        seconds: spent so far.
        bits: validation bits per byte, None where the step was not validated.
        best: whether these are the lowest so far.
    """

    step: int
    loss: float
    rate: float
    tokens: int
    seconds: float
    bits: float | None
    best: bool


class Objective(nn.Module):
    """(B, T) ids and targets → the summed cross-entropy in nats."""

    def __init__(self, model: GPTModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The loss is computed in float32, whatever the dtype of the matmuls."""
        logits = self.model(ids).float().flatten(0, 1)
        return F.cross_entropy(
            logits, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )


def _drop_tokens(rate: float, module: nn.Module, inputs: object, embeddings: Tensor) -> Tensor:
    """(B, T, E) embeddings → the same; while training, some tokens 0, others / (1 - rate)."""
    return F.dropout1d(embeddings, rate, training=module.training)


class Trainer:
    """The training loop, and everything that a step needs.

    `save_best` is called with the model whenever its validation loss is the lowest so far.
    """

    def __init__(
        self,
        *,
        model: GPTModel,
        settings: TrainSettings,
        mixture: Mixture,
        validation: ValidationText,
        eos_id: int,
        state: Path,
        save_best: Callable[[GPTModel], None],
        identity: dict[str, Any],
        group: Group | None = None,
    ) -> None:
        self.group = group or Group()
        self.settings, self.progress = settings, Progress()
        self._mixture, self._validation, self._eos = mixture, validation, eos_id
        self._state, self._save_best = state, save_best
        fixed = {k: v for k, v in asdict(settings).items() if k not in _CHANGEABLE}
        self._identity = {**identity, **fixed}
        self._model = model.to(self.group.device)
        if not settings.attention_dropout:
            for block in model.trf_blocks:
                cast(TransformerBlock, block).att.drop_rate = 0.0
        if settings.token_dropout:
            model.tok_emb.register_forward_hook(partial(_drop_tokens, settings.token_dropout))
        self._use_bfloat16 = wants_bfloat16(settings.precision, self.group.device)
        self._average = (
            optimizers.WeightAverage(model, settings.average) if settings.average else None
        )
        self._trained = TrainedState(
            model, optimizers.build_optimizers(model, settings), self._average
        )
        self._objective: nn.Module = Objective(model)
        if self.group.size > 1:
            self._objective = DistributedDataParallel(self._objective)

    def resume(self) -> None:
        """Load the saved state.

        Raises:
            InputError: it is damaged, or of a training with other settings or texts.
        """
        self.progress = read_state(self._state, self._trained, self._identity)

    def save(self) -> None:
        """Write the state, replacing the previous one atomically."""
        if self.group.is_leader:
            write_state(self._state, self._trained, self.progress, self._identity)

    def run(self, interrupted: Callable[[], bool] = lambda: False) -> Iterator[StepReport]:
        """Train to the end, a report for each step; if interrupted, save the state and return.

        Raises:
            RunError: the gradient is not finite, or a file cannot be written.
        """
        progress, settings = self.progress, self.settings
        if progress.step >= settings.steps and "bits" not in progress.history[-1]:
            progress.history[-1]["bits"], _ = self._validate()  # resumed with fewer steps
            self.save()
        while progress.step < settings.steps and not progress.stopped:
            began = time.monotonic()
            loss, tokens, rate = self._step(progress.step)
            progress.step += 1
            progress.tokens += tokens
            due = progress.step % settings.eval_every == 0 or progress.step == settings.steps
            bits, best = self._validate() if due else (None, False)
            progress.seconds += time.monotonic() - began
            self._record(loss, bits)
            report = StepReport(
                progress.step, loss, rate, progress.tokens, progress.seconds, bits, best
            )
            stop = self.group.any(interrupted())
            if stop or due or progress.step % settings.save_every == 0:
                self.save()
            yield report
            if stop:
                return

    def _step(self, step: int) -> tuple[float, int, float]:
        """One optimizer step → loss in nats per token, tokens, learning rate."""
        settings, group = self.settings, self.group
        ids, targets = self._mixture.batch(step * settings.batch_size, settings.batch_size)
        tokens = int((targets != IGNORE_INDEX).sum())
        self._model.train()
        self._model.zero_grad(set_to_none=True)
        nats = torch.zeros((), device=group.device)
        parts = np.array_split(np.arange(group.rank, len(ids), group.size), settings.accumulate)
        for number, part in enumerate(parts):
            key = (settings.seed, "dropout", step, number, group.rank)
            torch.manual_seed(int(seeded_generator(*key).integers(1 << 63)))
            with self._unsynchronised(number), self._autocast():
                loss = self._objective(self._tensor(ids[part]), self._tensor(targets[part]))
            with self._unsynchronised(number):
                # DistributedDataParallel divides the summed gradients by the number of processes
                (loss * (group.size / tokens)).backward()
            nats += loss.detach()
        rate = optimizers.learning_rate(
            step,
            settings.steps,
            peak=settings.lr,
            warmup=settings.warmup,
            floor=settings.lr * settings.min_lr,
        )
        self._clip(step)
        for optimizer in self._trained.optimizers:
            optimizers.set_learning_rate(optimizer, rate)
            optimizer.step()
        if self._average is not None:
            self._average.update(self._model, step)
        return group.total(float(nats)) / tokens, tokens, rate

    def _clip(self, step: int) -> None:
        limit = self.settings.clip or float("inf")
        norm = float(nn.utils.clip_grad_norm_(self._model.parameters(), limit))
        if not np.isfinite(norm):
            hint = "Lower `lr`, or train with `precision=float32`"
            raise RunError("train", f"the gradient is not finite at step {step + 1:,}", hint)

    def _validate(self) -> tuple[float, bool]:
        """Bits per byte, by the averaged weights if there are any, and whether it is the best."""
        if self._average is not None:
            optimizers.swap_weights(self._model, self._average.weights)
        bits = 0.0
        if self.group.is_leader:
            with self._autocast():
                length = self._model.config.context_length
                bits = bits_per_byte(self._model, self._validation, self._eos, length)
        bits = self.group.broadcast(bits)
        progress = self.progress
        best = progress.best is None or bits < progress.best
        if best:
            progress.best, progress.best_step, progress.stale = bits, progress.step, 0
            if self.group.is_leader:
                self._save_best(self._model)
        else:
            progress.stale += 1
            progress.stopped = 0 < self.settings.patience <= progress.stale
        if self._average is not None:
            optimizers.swap_weights(self._model, self._average.weights)
        return bits, best

    def _record(self, loss: float, bits: float | None) -> None:
        entry = {"step": self.progress.step, "loss": loss}
        self.progress.history.append(entry if bits is None else {**entry, "bits": bits})

    def _tensor(self, rows: Ids) -> Tensor:
        return torch.from_numpy(rows.astype(np.int64)).to(self.group.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        device_type = torch.device(self.group.device).type
        return torch.autocast(device_type, torch.bfloat16, enabled=self._use_bfloat16)

    def _unsynchronised(self, number: int) -> AbstractContextManager[Any]:
        """Gradients are all-reduced with the last part of a step only."""
        last = number == self.settings.accumulate - 1
        if isinstance(self._objective, DistributedDataParallel) and not last:
            return self._objective.no_sync()
        return nullcontext()
