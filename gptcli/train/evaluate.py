"""Bits per byte of a text under a model.

Every token of every document counts, and so does each document's end; the divisor is the UTF-8
bytes of the documents alone. Comparable between tokenizers, unlike a loss per token.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.train.packing import IGNORED, Ids

_TOKENS = 8192  # in one pass: enough to keep a processor busy, little enough for any memory


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """A validation text: documents as ids, and their bytes."""

    documents: Sequence[Ids]
    size: int

    @property
    def targets(self) -> int:
        """Tokens that are predicted: all, and each document's end."""
        return sum(len(document) + 1 for document in self.documents)


def bits_per_byte(model: nn.Module, held: HeldOutText, eos_id: int, length: int) -> float:
    """Bits that `model` needs for the held text, over its bytes."""
    training = model.training
    model.eval()
    needed = nats(model, held, eos_id, length, next(model.parameters()).device)
    model.train(training)
    return needed / math.log(2) / held.size


def nats(
    logits_of: Callable[[Tensor], Tensor],
    held: HeldOutText,
    eos_id: int,
    length: int,
    device: torch.device | str = "cpu",
) -> float:
    """Nats for all targets of the held text; over `held.targets`, the log of the perplexity.

    A document starts after the end of text, as when the model begins one. One longer than
    `length`, the context, is read in windows that overlap by half, each token once.

    Args:
        logits_of: (B, T) ids on `device` → (B, T, V).
    """
    windows = sorted(_windows(held.documents, eos_id, length), key=lambda pair: len(pair[0]))
    return sum(_nats(logits_of, batch, device) for batch in _batches(windows))


def _windows(documents: Sequence[Ids], eos_id: int, length: int) -> Iterator[tuple[Ids, Ids]]:
    """(T,) ids and (T,) targets, T at most `length`; each target of a document counts once."""
    end = np.array([eos_id], np.int32)
    for document in documents:
        whole = np.concatenate([end, document, end])
        counted = 0  # targets so far
        while counted < len(whole) - 1:
            start = 0 if counted == 0 else max(0, min(counted - length // 2, len(whole) - 2))
            ids, targets = whole[start : start + length], whole[start + 1 : start + length + 1]
            ids = ids[: len(targets)]
            targets = targets.copy()
            targets[: counted - start] = IGNORED
            counted = start + len(targets)
            yield ids, targets


def _batches(
    windows: Sequence[tuple[Ids, Ids]],
) -> Iterator[Sequence[tuple[Ids, Ids]]]:
    """Windows of similar lengths, together at most `_TOKENS` with their padding."""
    start = 0
    while start < len(windows):
        end = start + 1
        while end < len(windows) and (end + 1 - start) * len(windows[end][0]) <= _TOKENS:
            end += 1
        yield windows[start:end]
        start = end


@torch.no_grad()
def _nats(
    logits_of: Callable[[Tensor], Tensor],
    windows: Sequence[tuple[Ids, Ids]],
    device: torch.device | str,
) -> float:
    width = max(len(ids) for ids, _ in windows)
    ids = np.zeros((len(windows), width), np.int64)
    targets = np.full((len(windows), width), IGNORED, np.int64)
    for row, (window, wanted) in enumerate(windows):
        ids[row, : len(window)] = window
        targets[row, : len(wanted)] = wanted
    logits = logits_of(torch.from_numpy(ids).to(device)).float()
    losses = F.cross_entropy(
        logits.flatten(0, 1),
        torch.from_numpy(targets).to(device).flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return float(losses.double().sum())
