"""The JSON of `inspect --prompt` and `--gradients`, schema "gptcli.probe/1".

One object; numbers have seven digits, and null stands for what is not finite.

    name, config        as in `inspect --json`
    seed                of an untrained model, null for a trained one
    text, tokens        the text; for each token position, id, text, bytes (hex), and given the
                        tokens before it logprob and rank (null for the first), then entropy of
                        what may follow it
    prompt              null without --prompt
      loss, perplexity  mean of -logprob over all tokens but the first, and its exponential
      next              entropy, margin, top: [{id, text, probability, logprob, rank}]
      blocks            one for each: norm1, norm2 {name, before, after {mean, variance, norm}},
                        attention_adds, feed_forward_adds, suppressed, leaving, heads [{entropy,
                        first, previous, itself}], by_position {entering, attention_adds,
                        feed_forward_adds, suppressed}
      final_norm        as norm1
      lens              first_position, readings: before the first block and after each, for each
                        position {entropy, logprob, rank, top: [[id, logprob]]}; vocabulary: id
                        to text
      maps              [{layer, head, weights}], weights[query][key] for key <= query
    gradients           null without --gradients
      loss              {with_shortcuts, without_shortcuts}
      parameters        [{name, with_shortcuts, without_shortcuts}], mean absolute gradients
      demonstration     the book's five layers: {with_shortcuts, without_shortcuts}, each
                        {computed, published}

Logarithms are natural. `margin` is between the two likeliest tokens' log-probabilities.
Statistics without by_position are means over all positions. `norm`, `*_adds`, `entering` and
`leaving` are Euclidean norms; `variance` is biased; `suppressed` is the share of GELU inputs < 0.
"""

import math
from typing import TYPE_CHECKING, Any

from gptcli.cli.looked import Inside, Looked
from gptcli.cli.render.counted import config_document
from gptcli.cli.render.sample_views import plain_token

if TYPE_CHECKING:
    from torch import Tensor

    from gptcli.interpret.activations import Block, Moments, Norm, Reading
    from gptcli.interpret.gradients import Gradients

SCHEMA = "gptcli.probe/1"


def document(looked: Looked) -> dict[str, Any]:
    """The object that --json prints."""
    return {
        "schema": SCHEMA,
        "name": looked.name,
        "config": config_document(looked.config, knows_heads=True),
        "seed": looked.seed,
        "text": looked.text,
        "tokens": tokens(looked),
        "prompt": _inside(looked, looked.inside) if looked.inside else None,
        "gradients": _gradients(looked.gradients) if looked.gradients else None,
    }


def tokens(looked: Looked) -> list[dict[str, Any]]:
    """Each token of the text, and what the model thought of it."""
    found = []
    readings = looked.inside.readings if looked.inside else []
    for position, id in enumerate(looked.ids):
        token = {"position": position, "id": id, "text": plain_token(looked.tokenizer, id)}
        token["bytes"] = looked.tokenizer.token_bytes(id).hex()
        if readings:
            before = readings[position - 1] if position else None
            token["logprob"] = number(before.logprob) if before else None
            token["rank"] = before.rank if before else None
            token["entropy"] = number(readings[position].entropy)
        found.append(token)
    return found


def number(value: float | None) -> float | None:
    """Seven digits, which is what float32 holds; None for what JSON cannot say."""
    return float(f"{value:.7g}") if value is not None and math.isfinite(value) else None


def _inside(looked: Looked, inside: Inside) -> dict[str, Any]:
    from gptcli.interpret.activations import mean_loss

    mean = mean_loss(inside.readings)
    leaving = [float(hidden.double().norm(dim=-1).mean()) for hidden in inside.probe.hidden[1:]]
    return {
        "loss": number(mean),
        "perplexity": number(math.exp(min(mean, 700))) if mean is not None else None,
        "next": _next(looked, inside.next),
        "blocks": [
            {**_block(block), "leaving": number(norm)}
            for block, norm in zip(inside.probe.blocks, leaving, strict=True)
        ],
        "final_norm": _norm(inside.probe.final_norm),
        "lens": _lens(looked, inside),
        "maps": [_map(inside, layer, head) for layer, head in inside.maps],
    }


def _next(looked: Looked, reading: "Reading") -> dict[str, Any]:
    top = [
        {
            "id": id,
            "text": plain_token(looked.tokenizer, id),
            "probability": number(math.exp(logprob)),
            "logprob": number(logprob),
            "rank": rank,
        }
        for rank, (id, logprob) in enumerate(reading.best, 1)
    ]
    return {"entropy": number(reading.entropy), "margin": number(reading.margin), "top": top}


def _block(block: "Block") -> dict[str, Any]:
    by_position = {
        "entering": block.norm1.before.norm,
        "attention_adds": block.attention_adds,
        "feed_forward_adds": block.feed_forward_adds,
        "suppressed": block.suppressed,
    }
    heads = block.heads
    columns = {name: _numbers(getattr(heads, name)) for name in heads.__slots__}
    return {
        "norm1": _norm(block.norm1),
        "norm2": _norm(block.norm2),
        "attention_adds": _mean(block.attention_adds),
        "feed_forward_adds": _mean(block.feed_forward_adds),
        "suppressed": _mean(block.suppressed),
        "heads": [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ],
        "by_position": {name: _numbers(values) for name, values in by_position.items()},
    }


def _norm(norm: "Norm") -> dict[str, Any]:
    return {
        "name": norm.name,
        "before": _moments(norm.before),
        "after": _moments(norm.after),
    }


def _moments(moments: "Moments") -> dict[str, float | None]:
    return {
        "mean": _mean(moments.mean),
        "variance": _mean(moments.variance),
        "norm": _mean(moments.norm),
    }


def _lens(looked: Looked, inside: Inside) -> dict[str, Any]:
    named = {id for row in inside.lens for reading in row for id, _ in reading.best}
    return {
        "first_position": len(looked.ids) - len(inside.lens[0]),
        "readings": [[_reading(reading) for reading in row] for row in inside.lens],
        "vocabulary": {str(id): plain_token(looked.tokenizer, id) for id in sorted(named)},
    }


def _reading(reading: "Reading") -> dict[str, Any]:
    return {
        "entropy": number(reading.entropy),
        "logprob": number(reading.logprob),
        "rank": reading.rank,
        "top": [[id, number(logprob)] for id, logprob in reading.best],
    }


def _map(inside: Inside, layer: int, head: int) -> dict[str, Any]:
    weights = inside.probe.blocks[layer].attention
    assert weights is not None, "the maps to show are kept"
    rows = weights[head].tolist()
    cut = [[number(value) for value in row[: i + 1]] for i, row in enumerate(rows)]
    return {"layer": layer, "head": head, "weights": cut}


def _gradients(both: "tuple[Gradients, Gradients]") -> dict[str, Any]:
    from gptcli.interpret.gradients import PUBLISHED, demonstration

    plain = zip(*(found.mean_absolute.items() for found in both), strict=True)
    return {
        "loss": _with_and_without(*(number(found.loss) for found in both)),
        "parameters": [
            {"name": name, **_with_and_without(number(ours), number(without))}
            for (name, ours), (_, without) in plain
        ],
        "demonstration": _with_and_without(
            *(
                {
                    "computed": [number(value) for value in demonstration(shortcut)],
                    "published": [number(value) for value in PUBLISHED[shortcut]],
                }
                for shortcut in (True, False)
            )
        ),
    }


def _with_and_without(ours: object, without: object) -> dict[str, Any]:
    return {"with_shortcuts": ours, "without_shortcuts": without}


def _mean(values: "Tensor") -> float | None:
    return number(values.mean().item())


def _numbers(values: "Tensor") -> list[float | None]:
    return [number(value) for value in values.tolist()]
