"""What happens inside a model for one text: activations, attention, the logit lens.

The book's `GPTModel` is run once, unchanged, with hooks on its modules; only the attention weights,
which the fused kernel never shows, are computed again from the same inputs. Statistics are float64
sums of the model's own activations.

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

_ROWS = 128  # positions whose logits are held at once


@dataclass(frozen=True, slots=True)
class Moments:
    """Each (T,), over the E numbers of a position; the variance is biased, the norm Euclidean."""

    mean: Tensor
    variance: Tensor
    norm: Tensor


@dataclass(frozen=True, slots=True)
class Norm:
    """A LayerNorm by its name in the model, and the activations before and after it."""

    name: str
    before: Moments
    after: Moments


@dataclass(frozen=True, slots=True)
class Heads:
    """Each (H,), the mean over query positions, of attention weights that sum to 1.

    Attributes:
        entropy: in nats; 0 where a head looks at one token alone.
        first: the weight on the first token.
        previous: the weight on the token before; 0 for a text of one token.
        itself: the weight on the token itself.
    """

    entropy: Tensor
    first: Tensor
    previous: Tensor
    itself: Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """One transformer block.

    Attributes:
        norm1, norm2: before attention and before the feed-forward network.
        attention_adds, feed_forward_adds: (T,) norms of what they add to the residual stream.
        suppressed: (T,) share of the activation's inputs below 0, of which GELU lets at most
            -0.17 through.
        heads: where the heads look.
        attention: (H, T, T) weights, query by key, if they were asked for.
    """

    norm1: Norm
    norm2: Norm
    attention_adds: Tensor
    feed_forward_adds: Tensor
    suppressed: Tensor
    heads: Heads
    attention: Tensor | None


@dataclass(frozen=True, slots=True)
class Activations:
    """One text in one model.

    Attributes:
        ids: the text.
        hidden: L + 1 tensors (T, E): the residual stream before the first block, after each.
        blocks: the L blocks.
        final_norm: the norm before the output head.
    """

    ids: tuple[int, ...]
    hidden: tuple[Tensor, ...]
    blocks: tuple[Block, ...]
    final_norm: Norm


@dataclass(frozen=True, slots=True)
class Prediction:
    """The next token's distribution at one position; logarithms are natural.

    Attributes:
        best: the likeliest ids with their log-probabilities, in order.
        entropy: of the whole distribution, in nats.
        margin: log-probability of the best id less that of the second.
        logprob, rank: of the token that does come next, 1 for the likeliest; None at the end.
    """

    best: tuple[tuple[int, float], ...]
    entropy: float
    margin: float
    logprob: float | None = None
    rank: int | None = None


def record_activations(
    model: GPTModel, ids: Sequence[int], maps: Collection[int] = ()
) -> Activations:
    """Run the model once over `ids`, at most context_length of them, in evaluation mode.

    Args:
        model: float32 for numbers worth comparing.
        ids: at least one.
        maps: the blocks whose attention weights are kept; they take H T^2 numbers each.

    Raises:
        ValueError: no ids, or more than the context.
    """
    if not ids:
        raise ValueError("activations need at least one token")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), _recording(model, set(maps)) as recorded:
            model(torch.tensor([list(ids)], device=model.device), last=True)
            hidden = (*recorded.stream, recorded.leaving)
            after = model.final_norm(hidden[-1])
    finally:
        model.train(was_training)
    final = Norm("final_norm", moments(hidden[-1]), moments(after))
    return Activations(tuple(ids), hidden, tuple(recorded.blocks), final)


def moments(x: Tensor) -> Moments:
    """(T, E) → three (T,) in float64, on the CPU."""
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
    hidden = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def packed(weights: Tensor) -> bytes:
    """(H, T, T) attention weights → a byte each, 255 sqrt(weight), as far as the diagonal.

    Head after head, row after row: H T (T + 1) / 2 bytes, exact to 0.4% of the largest weight.
    """
    rows, columns = torch.tril_indices(weights.shape[1], weights.shape[2])
    levels = (weights[:, rows, columns].sqrt() * 255).round().to(torch.uint8)
    return levels.numpy().tobytes()


def heads(weights: Tensor) -> Heads:
    """(H, T, T) attention weights → where each head looks."""
    weights = weights.double()
    before = weights.diagonal(-1, 1, 2).sum(-1) / max(weights.shape[1] - 1, 1)
    return Heads(
        entropy=torch.special.entr(weights).sum(-1).mean(-1).cpu(),
        first=weights[..., 0].mean(-1).cpu(),
        previous=before.cpu(),
        itself=weights.diagonal(0, 1, 2).mean(-1).cpu(),
    )


def predictions(
    model: GPTModel,
    hidden: Tensor,
    coming: Sequence[int] = (),
    top: int = 5,
    n_vocab: int | None = None,
) -> list[Prediction]:
    """(T, E) of the residual stream → the output head's prediction at each position.

    After the last block this is the model's own answer, after an earlier one the logit lens.

    Args:
        model: supplies the final norm and the output head.
        hidden: a tensor of `Activations.hidden`, or some of its rows.
        coming: the tokens that follow position 0, 1, ...; as many as are known.
        top: how many of the likeliest ids a prediction lists.
        n_vocab: ids from here on only pad the embedding and are never chosen.
    """
    found: list[Prediction] = []
    with torch.no_grad():
        for start in range(0, len(hidden), _ROWS):
            rows = hidden[start : start + _ROWS]
            logits = model.out_head(model.final_norm(rows)).float()[:, :n_vocab]
            found += _predictions(logits, coming[start : start + _ROWS], top)
    return found


def mean_loss(predictions: Iterable[Prediction]) -> float | None:
    """Mean of -logprob of the tokens that followed, in nats; None for a single token."""
    known = [prediction.logprob for prediction in predictions if prediction.logprob is not None]
    return -sum(known) / len(known) if known else None


def _predictions(logits: Tensor, coming: Sequence[int], top: int) -> Iterator[Prediction]:
    """(T, V) logits → a prediction for each row."""
    logprobs = F.log_softmax(logits, dim=-1)
    entropies = torch.special.entr(logprobs.exp()).sum(-1).tolist()
    values, indices = logprobs.topk(min(max(top, 2), logits.shape[-1]), dim=-1)
    for row, entropy in enumerate(entropies):
        best = tuple(zip(indices[row].tolist(), values[row].tolist(), strict=True))
        margin = best[0][1] - best[1][1] if len(best) > 1 else 0.0
        if row < len(coming):
            own = logprobs[row, coming[row]]
            rank = 1 + int((logprobs[row] > own).sum())
            yield Prediction(best[:top], entropy, margin, own.item(), rank)
        else:
            yield Prediction(best[:top], entropy, margin)


@dataclass(slots=True)
class _Recorded:
    """What the hooks have recorded so far; `parts` is what is known of the current block."""

    maps: set[int]
    stream: list[Tensor] = field(default_factory=list)
    leaving: Tensor = field(default_factory=lambda: torch.empty(0))
    blocks: list[Block] = field(default_factory=list)
    parts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def _recording(model: GPTModel, maps: set[int]) -> Iterator[_Recorded]:
    """Hooks on every block while the model runs; none is left afterwards."""
    recorded = _Recorded(maps)
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
    """The modules of one block, in the order they run, and the hook of each."""

    def norm(name: str) -> _Hook:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            assert isinstance(module, LayerNorm)
            full = f"trf_blocks.{layer}.{name}"
            recorded.parts[name] = Norm(full, moments(inputs[0][0]), moments(output[0]))

        return hook

    def attention(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, MultiHeadAttention)
        weights = attention_weights(module, inputs[0][0], layer)
        recorded.parts["heads"] = heads(weights)
        recorded.parts["attention"] = weights.cpu() if layer in recorded.maps else None
        recorded.parts["attention_adds"] = moments(output[0]).norm

    def gelu(_module: nn.Module, inputs: tuple[Any, ...], _output: Tensor) -> None:
        recorded.parts["suppressed"] = (inputs[0][0] < 0).double().mean(-1).cpu()

    def feed_forward(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        recorded.parts["feed_forward_adds"] = moments(output[0]).norm

    def whole(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        recorded.stream.append(inputs[0][0])
        recorded.leaving = output[0]
        recorded.blocks.append(Block(**recorded.parts))
        recorded.parts = {}

    yield block.norm1, norm("norm1")
    yield block.att, attention
    yield block.norm2, norm("norm2")
    yield block.ff.layers[1], gelu
    yield block.ff, feed_forward
    yield block, whole
