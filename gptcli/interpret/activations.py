"""Activations, attention weights and the logit lens of one text.

The book's `GPTModel` is run once, unchanged, with hooks on its modules. Only the attention weights
are computed again, from the same inputs, because the fused kernel does not return them. Statistics
of activations are computed in float64.

Shapes: T tokens, E emb_dim, H heads, D head_dim, V vocabulary, L blocks.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.model.gpt import GPTModel, LayerNorm, MultiHeadAttention, TransformerBlock

_ROWS = 128  # positions whose logits are in memory at once


@dataclass(frozen=True, slots=True)
class Moments:
    """Each (T,): over a position's E activations; the variance is biased, the norm Euclidean."""

    mean: Tensor
    variance: Tensor
    norm: Tensor


@dataclass(frozen=True, slots=True)
class NormStats:
    """A LayerNorm by its name in the model, and the activations before and after it."""

    name: str
    before: Moments
    after: Moments


@dataclass(frozen=True, slots=True)
class HeadStats:
    """Each (H,): the mean over query positions; keys of `inspect --prompt --json`.

    Attributes:
        entropy: of the attention weights, in nats; 0 if they are all on one token.
        first: the weight on the first token.
        previous: the weight on the token before; 0 for a single token.
        itself: the weight on the query's own token.
    """

    entropy: Tensor
    first: Tensor
    previous: Tensor
    itself: Tensor


@dataclass(frozen=True, slots=True)
class BlockStats:
    """One transformer block.

    Attributes:
        norm1: the LayerNorm before attention.
        norm2: the LayerNorm before the feed-forward network.
        attention_adds: (T,) norms of what attention adds to the residual stream.
        feed_forward_adds: (T,) norms of what the feed-forward network adds to it.
        suppressed: (T,) share of GELU's inputs below 0, for which its output is at least -0.17.
        heads: statistics of the attention weights.
        attention: (H, T, T) weights, query by key; None if they were not asked for.
    """

    norm1: NormStats
    norm2: NormStats
    attention_adds: Tensor
    feed_forward_adds: Tensor
    suppressed: Tensor
    heads: HeadStats
    attention: Tensor | None


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations of one forward pass.

    Attributes:
        ids: T token ids.
        hidden_states: L + 1 tensors (T, E): the residual stream before the first block and after
            each.
        blocks: L blocks.
        final_norm: the LayerNorm before the output head.
    """

    ids: tuple[int, ...]
    hidden_states: tuple[Tensor, ...]
    blocks: tuple[BlockStats, ...]
    final_norm: NormStats

    def residual_norms(self) -> list[float]:
        """L + 1 norms of the residual stream, each the mean over positions."""
        return [float(hidden.double().norm(dim=-1).mean()) for hidden in self.hidden_states]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The next token's distribution at one position; logarithms are natural.

    Attributes:
        best: the likeliest ids with their log-probabilities, in descending order.
        entropy: of the whole distribution, in nats.
        margin: log-probability of the likeliest id less that of the second.
        logprob: log-probability of the actual next token; None where that is not known.
        rank: of the actual next token, 1 for the likeliest; None where that is not known.
    """

    best: tuple[tuple[int, float], ...]
    entropy: float
    margin: float
    logprob: float | None = None
    rank: int | None = None


def record_activations(
    model: GPTModel, ids: Sequence[int], attention_of: Collection[int] = ()
) -> Activations:
    """Run the model once over `ids`, in evaluation mode.

    Args:
        model: in float32, for exact statistics.
        ids: 1 to context_length token ids.
        attention_of: blocks whose attention weights are kept, H T^2 values each.

    Raises:
        ValueError: no ids, or more than the context.
    """
    if not ids:
        raise ValueError("activations need at least one token")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), _recording(model, set(attention_of)) as recorded:
            model(torch.tensor([list(ids)], device=model.device), last=True)
            hidden_states = (*recorded.block_inputs, recorded.last_output)
            after = model.final_norm(hidden_states[-1])
    finally:
        model.train(was_training)
    final = NormStats("final_norm", moments(hidden_states[-1]), moments(after))
    return Activations(tuple(ids), hidden_states, tuple(recorded.blocks), final)


def moments(x: Tensor) -> Moments:
    """(T, E) activations → statistics in float64, on the CPU."""
    x = x.double()
    variance, mean = torch.var_mean(x, dim=-1, correction=0)
    return Moments(mean.cpu(), variance.cpu(), x.norm(dim=-1).cpu())


def attention_weights(att: MultiHeadAttention, x: Tensor, layer: int) -> Tensor:
    """(T, E) normalised input → (H, T, T), softmax(scale Q K^T + causal mask) of block `layer`."""
    queries, keys = (
        layer(x).unflatten(1, (att.n_heads, att.head_dim)).transpose(0, 1)
        for layer in (att.W_query, att.W_key)
    )
    scores = (queries @ keys.transpose(1, 2)).float() * att.scale(layer)  # (H, T, T)
    is_later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    return scores.masked_fill(is_later, -torch.inf).softmax(-1)


def packed_attention(weights: Tensor) -> bytes:
    """(H, T, T) attention weights → H T (T + 1) / 2 bytes: the lower triangles, row by row.

    A byte is 255 sqrt(weight), rounded: it is exact to 0.004.
    """
    rows, columns = torch.tril_indices(weights.shape[1], weights.shape[2])
    levels = (weights[:, rows, columns].sqrt() * 255).round().to(torch.uint8)
    return levels.numpy().tobytes()


def head_stats(weights: Tensor) -> HeadStats:
    """(H, T, T) attention weights → their statistics by head."""
    weights = weights.double()
    previous = weights.diagonal(-1, 1, 2).sum(-1) / max(weights.shape[1] - 1, 1)
    return HeadStats(
        entropy=torch.special.entr(weights).sum(-1).mean(-1).cpu(),
        first=weights[..., 0].mean(-1).cpu(),
        previous=previous.cpu(),
        itself=weights.diagonal(0, 1, 2).mean(-1).cpu(),
    )


def predictions(
    model: GPTModel,
    hidden: Tensor,
    next_ids: Sequence[int] = (),
    top: int = 5,
    n_vocab: int | None = None,
) -> list[Prediction]:
    """(T, E) hidden states → the output head's prediction at each position.

    After the last block these are the model's own predictions, after an earlier one the logit lens.

    Args:
        model: supplies the final norm and the output head.
        hidden: one of `Activations.hidden_states`, or some of its rows.
        next_ids: the actual next token at position 0, 1, ...; as many as are known.
        top: how many of the likeliest ids a prediction has.
        n_vocab: ids from here on only pad the embedding and are left out.
    """
    found: list[Prediction] = []
    with torch.no_grad():
        for start in range(0, len(hidden), _ROWS):
            rows = hidden[start : start + _ROWS]
            logits = model.out_head(model.final_norm(rows)).float()[:, :n_vocab]
            found += _predictions(logits, next_ids[start : start + _ROWS], top)
    return found


def mean_loss(predictions: Iterable[Prediction]) -> float | None:
    """Mean cross entropy of the actual next tokens, in nats; None if none is known."""
    known = [prediction.logprob for prediction in predictions if prediction.logprob is not None]
    return -sum(known) / len(known) if known else None


def _predictions(logits: Tensor, next_ids: Sequence[int], top: int) -> Iterator[Prediction]:
    """(T, V) logits → a prediction for each row."""
    logprobs = F.log_softmax(logits, dim=-1)
    entropies = torch.special.entr(logprobs.exp()).sum(-1).tolist()
    values, indices = logprobs.topk(min(max(top, 2), logits.shape[-1]), dim=-1)
    for row, entropy in enumerate(entropies):
        best = tuple(zip(indices[row].tolist(), values[row].tolist(), strict=True))
        margin = best[0][1] - best[1][1] if len(best) > 1 else 0.0
        if row < len(next_ids):
            logprob = logprobs[row, next_ids[row]]
            rank = 1 + int((logprobs[row] > logprob).sum())
            yield Prediction(best[:top], entropy, margin, logprob.item(), rank)
        else:
            yield Prediction(best[:top], entropy, margin)


@dataclass(slots=True)
class _Recorded:
    """What the hooks have recorded; `parts` are the fields known of the block that runs."""

    attention_of: set[int]
    block_inputs: list[Tensor] = field(default_factory=list)
    last_output: Tensor = field(default_factory=lambda: torch.empty(0))
    blocks: list[BlockStats] = field(default_factory=list)
    parts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def _recording(model: GPTModel, attention_of: set[int]) -> Iterator[_Recorded]:
    """Hooks on every block, removed afterwards."""
    recorded = _Recorded(attention_of)
    handles = []
    try:
        for layer, block in enumerate(model.trf_blocks):
            assert isinstance(block, TransformerBlock)
            for module, hook in _hooks(recorded, layer, block):
                handles.append(module.register_forward_hook(hook))
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


_Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], None]


def _hooks(
    recorded: _Recorded, layer: int, block: TransformerBlock
) -> Iterator[tuple[nn.Module, _Hook]]:
    """The modules of one block in the order they run, each with its hook."""

    def norm(name: str) -> _Hook:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            assert isinstance(module, LayerNorm)
            before, after = moments(inputs[0][0]), moments(output[0])
            recorded.parts[name] = NormStats(f"trf_blocks.{layer}.{name}", before, after)

        return hook

    def attention(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, MultiHeadAttention)
        weights = attention_weights(module, inputs[0][0], layer)
        recorded.parts["heads"] = head_stats(weights)
        recorded.parts["attention"] = weights.cpu() if layer in recorded.attention_of else None
        recorded.parts["attention_adds"] = moments(output[0]).norm

    def gelu(_module: nn.Module, inputs: tuple[Any, ...], _output: Tensor) -> None:
        recorded.parts["suppressed"] = (inputs[0][0] < 0).double().mean(-1).cpu()

    def feed_forward(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        recorded.parts["feed_forward_adds"] = moments(output[0]).norm

    def block_end(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        recorded.block_inputs.append(inputs[0][0])
        recorded.last_output = output[0]
        recorded.blocks.append(BlockStats(**recorded.parts))
        recorded.parts = {}

    yield block.norm1, norm("norm1")
    yield block.att, attention
    yield block.norm2, norm("norm2")
    yield block.ff.layers[1], gelu
    yield block.ff, feed_forward
    yield block, block_end
