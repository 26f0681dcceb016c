"""Bits per byte of a text under a model: what its compression would cost, whatever the tokens.

Every token of every document counts, and so does each document's end; the divisor is the UTF-8
bytes of the documents alone. Comparable between tokenizers, unlike a loss per token.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gptcli.rows import IGNORED, Ids

_TOKENS = 8192  # in one pass: enough to keep a processor busy, little enough for any memory


@dataclass(frozen=True, slots=True)
class Held:
    """A validation text: documents as ids, and their bytes."""

    documents: Sequence[Ids]
    size: int


def bits_per_byte(model: nn.Module, held: Held, eos_id: int, length: int) -> float:
    """Bits that `model` needs for the held text, over its bytes.

    A document starts after the end of text, as when the model begins one. One longer than
    `length`, the context, is read in windows that overlap by half, each token once.
    """
    windows = sorted(_windows(held.documents, eos_id, length), key=lambda pair: len(pair[0]))
    training = model.training
    model.eval()
    nats = sum(_nats(model, batch) for batch in _batches(windows))
    model.train(training)
    return nats / math.log(2) / held.size


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
def _nats(model: nn.Module, windows: Sequence[tuple[Ids, Ids]]) -> float:
    width = max(len(ids) for ids, _ in windows)
    ids = np.zeros((len(windows), width), np.int64)
    targets = np.full((len(windows), width), IGNORED, np.int64)
    for row, (window, wanted) in enumerate(windows):
        ids[row, : len(window)] = window
        targets[row, : len(wanted)] = wanted
    device = next(model.parameters()).device
    logits = model(torch.from_numpy(ids).to(device)).float()
    losses = F.cross_entropy(
        logits.flatten(0, 1),
        torch.from_numpy(targets).to(device).flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return float(losses.double().sum())
