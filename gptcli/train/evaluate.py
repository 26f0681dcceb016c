"""Bits per byte of a text under a model: comparable between tokenizers, unlike a loss per token.

The loss of every token and of each document's end token is counted. It is divided by the UTF-8
bytes of the documents, ends not counted.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.train.packing import IGNORE_INDEX, Ids

_BATCH_TOKENS = 8192  # enough to keep a processor busy, few enough for any memory


@dataclass(frozen=True, slots=True)
class ValidationText:
    """A validation text: its documents as ids, and their size in UTF-8 bytes."""

    documents: Sequence[Ids]
    size: int

    @property
    def targets(self) -> int:
        """Number of predicted tokens: all tokens, and an end for each document."""
        return sum(len(document) + 1 for document in self.documents)


def bits_per_byte(model: nn.Module, text: ValidationText, eos_id: int, length: int) -> float:
    """The loss of a text in bits, per byte; arguments as in `total_nats`."""
    training = model.training
    model.eval()
    nats = total_nats(model, text, eos_id, length, next(model.parameters()).device)
    model.train(training)
    return nats / math.log(2) / text.size


def total_nats(
    logits_of: Callable[[Tensor], Tensor],
    text: ValidationText,
    eos_id: int,
    length: int,
    device: torch.device | str = "cpu",
) -> float:
    """The summed cross-entropy of a text in nats; over `text.targets`, the log of the perplexity.

    Each document follows an end of text, as in training. A document longer than the context is
    read in windows that overlap by half; each token is a target once.

    Args:
        logits_of: (B, T) ids on `device` → (B, T, V) logits.
        text: the documents.
        eos_id: id of the end of text.
        length: of the context.
        device: where `logits_of` computes.
    """
    windows = sorted(_windows(text.documents, eos_id, length), key=lambda pair: len(pair[0]))
    return sum(_batch_nats(logits_of, batch, device) for batch in _batches(windows))


def _windows(documents: Sequence[Ids], eos_id: int, length: int) -> Iterator[tuple[Ids, Ids]]:
    """(T,) ids and (T,) targets, T at most `length`; each token of a document is a target once."""
    end = np.array([eos_id], np.int32)
    for document in documents:
        whole = np.concatenate([end, document, end])
        counted = 0  # targets so far
        while counted < len(whole) - 1:
            start = 0 if counted == 0 else max(0, min(counted - length // 2, len(whole) - 2))
            ids, targets = whole[start : start + length], whole[start + 1 : start + length + 1]
            ids = ids[: len(targets)]
            targets = targets.copy()
            targets[: counted - start] = IGNORE_INDEX
            counted = start + len(targets)
            yield ids, targets


def _batches(
    windows: Sequence[tuple[Ids, Ids]],
) -> Iterator[Sequence[tuple[Ids, Ids]]]:
    """Windows of similar lengths, at most `_BATCH_TOKENS` tokens with their padding."""
    start = 0
    while start < len(windows):
        end = start + 1
        while end < len(windows) and (end + 1 - start) * len(windows[end][0]) <= _BATCH_TOKENS:
            end += 1
        yield windows[start:end]
        start = end


@torch.no_grad()
def _batch_nats(
    logits_of: Callable[[Tensor], Tensor],
    windows: Sequence[tuple[Ids, Ids]],
    device: torch.device | str,
) -> float:
    width = max(len(ids) for ids, _ in windows)
    ids = np.zeros((len(windows), width), np.int64)
    targets = np.full((len(windows), width), IGNORE_INDEX, np.int64)
    for row, (window, wanted) in enumerate(windows):
        ids[row, : len(window)] = window
        targets[row, : len(wanted)] = wanted
    logits = logits_of(torch.from_numpy(ids).to(device)).float()
    losses = F.cross_entropy(
        logits.flatten(0, 1),
        torch.from_numpy(targets).to(device).flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="none",
    )
    return float(losses.double().sum())
