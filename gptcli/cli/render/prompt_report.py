"""The report of `inspect --prompt` and its JSON: tokens, predictions, each block's activations.

The JSON has the schema "gptcli.probe/1". One object; numbers have seven digits, and null stands
for what is not finite.

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
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from gptcli.cli.render.completion_views import plain_token, token_text
from gptcli.cli.render.console import json_number
from gptcli.cli.render.count_params_report import config_document
from gptcli.cli.render.gradient_report import gradients_document
from gptcli.cli.render.heatmap import (
    PIPE_WIDTH,
    TOKEN_WIDTH,
    Spans,
    bar,
    cell,
    show_maps,
    token_cell,
)
from gptcli.cli.render.table import GAP, QUIET, Report, Row, body_row, evenly_spaced, header_row
from gptcli.cli.text_analysis import LENS_TOP, ForwardPass, TextAnalysis
from gptcli.core.escape import shown

if TYPE_CHECKING:
    from torch import Tensor

    from gptcli.interpret.activations import BlockStats, Moments, NormStats, Prediction

SCHEMA = "gptcli.probe/1"
_LABEL = 10  # columns of a row's name in the logit lens
SHORT, SHORT_CANDIDATES = 8, 5  # tokens and candidates without --details
MOST_TOKENS = 64  # lines of the table of tokens; --json has all
_INKS = ("black on cyan", "black on yellow", "black on green", "black on magenta")
_BAR = 12


def show(
    report: Report,
    analysis: TextAnalysis,
    forward: ForwardPass,
    *,
    details: bool = False,
    candidates: int | None = None,
) -> None:
    """Print tokens, the next token and a line for each block; with `details` everything.

    `candidates` is how many next tokens to list; None is SHORT_CANDIDATES.
    """
    if details:
        _show_everything(report, analysis, forward)
    else:
        report.paragraph(_summary(analysis, forward))
        _show_tokens(report, analysis, forward, SHORT)
        report.heading(f"Next token (entropy {forward.next.entropy:.2f} nats)")
        best = forward.next.best[: candidates or SHORT_CANDIDATES]
        report.table(list(_candidates(analysis, best)), right=(0, 1, 2, 4), optional=(2, 3, 4))
        report.heading("Norms of the residual stream, what is added to it, and the logit lens")
        header, *rows = _block_summaries(analysis, forward)
        report.table([header, *evenly_spaced(rows)], right=range(1, 5), optional=(4, 1))
    show_maps(report, analysis, forward)
    if not details:
        report.blank_line()
        report.more_details("every token, LayerNorm, each head's entropy, the whole logit lens")


def _summary(analysis: TextAnalysis, forward: ForwardPass) -> str:
    from gptcli.interpret.activations import mean_loss

    count, context = len(analysis.ids), analysis.config.context_length
    text = f"{count:,} of at most {context:,} tokens"
    mean = mean_loss(forward.predictions)
    if mean is None:
        return text
    return f"{text}, loss {mean:.4f} nats a token, perplexity {math.exp(min(mean, 700)):,.2f}"


def _block_summaries(analysis: TextAnalysis, forward: ForwardPass) -> Iterator[Row]:
    """A row for the embedding and each block: means over positions, lens of the last one."""
    yield header_row("after", "norm", "attention", "feed-forward", "head entropy", "says next")
    norms = forward.activations.residual_norms()
    for stage, norm in enumerate(norms):
        id, logprob = forward.lens[stage][-1].best[0]
        says = f"{token_text(analysis.tokenizer, id)} {math.exp(logprob):.0%}"
        adds: tuple[str, ...] = ("", "", "")
        if stage:
            block = forward.activations.blocks[stage - 1]
            added = (block.attention_adds.mean().item(), block.feed_forward_adds.mean().item())
            shares = (f"+{_share(part, norms[stage - 1])}" for part in added)
            adds = (*shares, f"{block.heads.entropy.mean().item():.2f}")
        yield body_row(_stage(stage), f"{norm:.2f}", *adds, says)


def _show_everything(report: Report, analysis: TextAnalysis, forward: ForwardPass) -> None:
    count, context = len(analysis.ids), analysis.config.context_length
    report.heading(f"Tokens ({count:,} of at most {context:,})")
    _show_tokens(report, analysis, forward, MOST_TOKENS)
    report.paragraph(_summary(analysis, forward), QUIET)
    _show_next(report, analysis, forward)
    _show_blocks(report, forward)
    _show_norms(report, forward)
    _show_heads(report, forward)
    show_lens(report, analysis, forward)


def _show_tokens(report: Report, analysis: TextAnalysis, forward: ForwardPass, most: int) -> None:
    """The text coloured by token, and a row for each of the last `most` tokens."""
    count = len(analysis.ids)
    if report.colored:
        report.spans(list(_pieces(analysis, report.width or 80))[: None if most > SHORT else 3])
    first = max(0, count - most)
    if first:
        report.paragraph(f"  the last {most} of them:", QUIET)
    header = header_row("at", "id", "token", "probability", "rank", "bytes")
    rows = [_token_row(analysis, forward, position) for position in range(first, count)]
    report.table([header, *rows], right=(1, 3, 4), optional=(5, 4))


def _pieces(analysis: TextAnalysis, width: int) -> Iterator[list[tuple[str, str]]]:
    """Lines of the text, neighbouring tokens in different colours."""
    line: list[tuple[str, str]] = []
    used = 0
    for position, id in enumerate(analysis.ids):
        text = token_text(analysis.tokenizer, id)[1:-1]
        if used and used + cell_len(text) > width:
            yield line
            line, used = [], 0
        line.append((text, _INKS[position % len(_INKS)]))
        used += cell_len(text)
    yield line


def _token_row(analysis: TextAnalysis, forward: ForwardPass, position: int) -> Row:
    id = analysis.ids[position]
    before = forward.predictions[position - 1] if position else forward.next
    return body_row(
        str(position),
        str(id),
        token_text(analysis.tokenizer, id),
        "" if before.logprob is None else f"{math.exp(before.logprob):.2%}",
        "" if before.rank is None else f"{before.rank:,}",
        analysis.tokenizer.token_bytes(id).hex(" "),
    )


def _show_next(report: Report, analysis: TextAnalysis, forward: ForwardPass) -> None:
    prediction = forward.next
    report.heading("What may come next")
    equally_likely = math.exp(min(prediction.entropy, 700))
    report.pairs(
        [
            (
                "entropy",
                f"{prediction.entropy:.4f} nats, as of {equally_likely:,.1f} equally likely tokens",
            ),
            ("margin", f"{prediction.margin:.4f} in log-probability between the first two"),
        ]
    )
    rows = list(_candidates(analysis, prediction.best))
    report.table(rows, right=(0, 1, 2, 4), optional=(2, 3, 4))


def _candidates(analysis: TextAnalysis, best: Sequence[tuple[int, float]]) -> Iterator[Row]:
    yield header_row("rank", "probability", "log-probability", "", "id", "token")
    for rank, (id, logprob) in enumerate(best, 1):
        p = math.exp(logprob)
        text = token_text(analysis.tokenizer, id)
        yield body_row(str(rank), f"{p:.4%}", f"{logprob:.4f}", bar(p, _BAR), str(id), text)


def _show_blocks(report: Report, forward: ForwardPass) -> None:
    report.heading("The residual stream: norms, and what each block adds (means over positions)")
    names = ("block", "enters", "attention", "", "feed-forward", "", "leaves", "GELU<0")
    rows = [header_row(*names)]
    norms = forward.activations.residual_norms()
    for layer, block in enumerate(forward.activations.blocks):
        rows.append(_block_row(layer, block, norms[layer], norms[layer + 1]))
    report.table(rows, right=range(1, len(names)), optional=(3, 5, 1, 6))
    report.bullets(
        [
            "a share is of what enters the block",
            "GELU<0: the share of its inputs that it suppresses, to at least -0.17",
        ],
        QUIET,
    )


def _block_row(layer: int, block: "BlockStats", enters: float, leaves: float) -> Row:
    added = (block.attention_adds.mean().item(), block.feed_forward_adds.mean().item())
    shares = [text for norm in added for text in (f"{norm:.2f}", _share(norm, enters))]
    suppressed = f"{block.suppressed.mean().item():.1%}"
    return body_row(str(layer), f"{enters:.2f}", *shares, f"{leaves:.2f}", suppressed)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _show_norms(report: Report, forward: ForwardPass) -> None:
    report.heading("LayerNorm: before → after (means over positions)")
    names = ("", "mean", "variance", "norm", "→ mean", "→ variance", "→ norm")
    rows = [header_row(*names)]
    activations = forward.activations
    norms = [norm for block in activations.blocks for norm in (block.norm1, block.norm2)]
    rows += [_norm_row(norm) for norm in (*norms, activations.final_norm)]
    report.table(rows, right=range(1, len(names)), optional=(6, 3, 1, 4))


def _norm_row(norm: "NormStats") -> Row:
    numbers = [
        _fixed(value.mean().item(), digits)
        for moments in (norm.before, norm.after)
        for value, digits in ((moments.mean, 3), (moments.variance, 3), (moments.norm, 2))
    ]
    return body_row(norm.name.removeprefix("trf_blocks."), *numbers)


def _fixed(value: float, digits: int) -> str:
    """A number with `digits` decimals; never "-0.000"."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _show_heads(report: Report, forward: ForwardPass) -> None:
    report.heading("Attention entropy of each head (nats, means over positions)")
    blocks = forward.activations.blocks
    count = len(blocks[0].heads.entropy)
    rows = [header_row("block", *(str(head) for head in range(count)))]
    for layer, block in enumerate(blocks):
        entropies = (f"{entropy:.2f}" for entropy in block.heads.entropy.tolist())
        rows.append(body_row(str(layer), *entropies))
    report.rows(rows, right=range(1, count + 1))
    length = len(forward.activations.ids)
    uniform = sum(math.log(seen) for seen in range(1, length + 1)) / length
    report.bullets([f"0 looks at one token, {uniform:.2f} at all alike"], QUIET)


def title(analysis: TextAnalysis) -> str:
    """The report's first line: the model's name, and the seed of an untrained one."""
    untrained = "" if analysis.seed is None else f", untrained, seed {analysis.seed}"
    return f"{shown(analysis.name)}{untrained}"


def show_lens(report: Report, analysis: TextAnalysis, forward: ForwardPass) -> None:
    """The logit lens: candidates after the last token, then the likeliest at each position."""
    report.heading("Logit lens: what the output head makes of each block")
    last = [row[-1] for row in forward.lens]
    report.rows(list(_lens_rows(analysis, last, report.width)))
    if len(forward.lens[0]) > 1:
        report.spans([[]])
        report.spans(_lens_grid(report, analysis, forward))


def _stage(index: int) -> str:
    return f"block {index - 1}" if index else "embedding"


def _lens_rows(
    analysis: TextAnalysis, last: "Sequence[Prediction]", width: int | None
) -> Iterator[Row]:
    """As many candidates for the next token as fit, at least the likeliest."""
    cells = [
        [f"{token_text(analysis.tokenizer, id)} {math.exp(p):.0%}" for id, p in prediction.best]
        for prediction in last
    ]
    for count in range(LENS_TOP, 0, -1):
        widths = [max(map(cell_len, column[:count])) for column in cells]
        if width is None or 2 + _LABEL + count * (max(widths) + len(GAP)) <= width:
            break
    for index, candidates in enumerate(cells):
        yield body_row(_stage(index), *candidates[:count])


def _lens_grid(report: Report, analysis: TextAnalysis, forward: ForwardPass) -> Iterator[Spans]:
    """Blocks downwards, positions to the right: as many of the last positions as fit."""
    room = (report.width or PIPE_WIDTH) - 2 - _LABEL
    count = max(1, min(len(forward.lens[0]), room // (TOKEN_WIDTH + 1)))
    label = f"  {'after':<{_LABEL}}"
    tokens = [token_cell(analysis, id) for id in analysis.ids[-count:]]
    yield [(label + " ".join(tokens), QUIET)]
    for index, row in enumerate(forward.lens):
        line: Spans = [(f"  {_stage(index):<{_LABEL}}", "")]
        for prediction in row[-count:]:
            id, logprob = prediction.best[0]
            token, p = token_cell(analysis, id), math.exp(logprob)
            line.append(cell(p, token, colored=True) if report.colored else (token, ""))
            line.append((" ", ""))
        yield line


def document(analysis: TextAnalysis) -> dict[str, Any]:
    """The object that --json prints."""
    return {
        "schema": SCHEMA,
        "name": analysis.name,
        "config": config_document(analysis.config, knows_heads=True),
        "seed": analysis.seed,
        "text": analysis.text,
        "tokens": _tokens_document(analysis),
        "prompt": _forward_document(analysis, analysis.forward) if analysis.forward else None,
        "gradients": gradients_document(analysis.gradients) if analysis.gradients else None,
    }


def _tokens_document(analysis: TextAnalysis) -> list[dict[str, Any]]:
    """Each token of the text, with its log-probability and rank."""
    found = []
    predictions = analysis.forward.predictions if analysis.forward else []
    for position, id in enumerate(analysis.ids):
        token = {"position": position, "id": id, "text": plain_token(analysis.tokenizer, id)}
        token["bytes"] = analysis.tokenizer.token_bytes(id).hex()
        if predictions:
            before = predictions[position - 1] if position else None
            token["logprob"] = json_number(before.logprob) if before else None
            token["rank"] = before.rank if before else None
            token["entropy"] = json_number(predictions[position].entropy)
        found.append(token)
    return found


def _forward_document(analysis: TextAnalysis, forward: ForwardPass) -> dict[str, Any]:
    from gptcli.interpret.activations import mean_loss

    mean = mean_loss(forward.predictions)
    _, *leaving = forward.activations.residual_norms()
    return {
        "loss": json_number(mean),
        "perplexity": json_number(math.exp(min(mean, 700))) if mean is not None else None,
        "next": _next_document(analysis, forward.next),
        "blocks": [
            {**_block_document(block), "leaving": json_number(norm)}
            for block, norm in zip(forward.activations.blocks, leaving, strict=True)
        ],
        "final_norm": _norm_document(forward.activations.final_norm),
        "lens": _lens_document(analysis, forward),
        "maps": [_map_document(forward, layer, head) for layer, head in forward.maps],
    }


def _next_document(analysis: TextAnalysis, prediction: "Prediction") -> dict[str, Any]:
    top = [
        {
            "id": id,
            "text": plain_token(analysis.tokenizer, id),
            "probability": json_number(math.exp(logprob)),
            "logprob": json_number(logprob),
            "rank": rank,
        }
        for rank, (id, logprob) in enumerate(prediction.best, 1)
    ]
    return {
        "entropy": json_number(prediction.entropy),
        "margin": json_number(prediction.margin),
        "top": top,
    }


def _block_document(block: "BlockStats") -> dict[str, Any]:
    by_position = {
        "entering": block.norm1.before.norm,
        "attention_adds": block.attention_adds,
        "feed_forward_adds": block.feed_forward_adds,
        "suppressed": block.suppressed,
    }
    heads = block.heads
    columns = {name: _numbers(getattr(heads, name)) for name in heads.__slots__}
    return {
        "norm1": _norm_document(block.norm1),
        "norm2": _norm_document(block.norm2),
        "attention_adds": _mean(block.attention_adds),
        "feed_forward_adds": _mean(block.feed_forward_adds),
        "suppressed": _mean(block.suppressed),
        "heads": [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ],
        "by_position": {name: _numbers(values) for name, values in by_position.items()},
    }


def _norm_document(norm: "NormStats") -> dict[str, Any]:
    return {
        "name": norm.name,
        "before": _moments_document(norm.before),
        "after": _moments_document(norm.after),
    }


def _moments_document(moments: "Moments") -> dict[str, float | None]:
    return {
        "mean": _mean(moments.mean),
        "variance": _mean(moments.variance),
        "norm": _mean(moments.norm),
    }


def _lens_document(analysis: TextAnalysis, forward: ForwardPass) -> dict[str, Any]:
    ids = {id for row in forward.lens for prediction in row for id, _ in prediction.best}
    return {
        "first_position": len(analysis.ids) - len(forward.lens[0]),
        "readings": [
            [_prediction_document(prediction) for prediction in row] for row in forward.lens
        ],
        "vocabulary": {str(id): plain_token(analysis.tokenizer, id) for id in sorted(ids)},
    }


def _prediction_document(prediction: "Prediction") -> dict[str, Any]:
    return {
        "entropy": json_number(prediction.entropy),
        "logprob": json_number(prediction.logprob),
        "rank": prediction.rank,
        "top": [[id, json_number(logprob)] for id, logprob in prediction.best],
    }


def _map_document(forward: ForwardPass, layer: int, head: int) -> dict[str, Any]:
    weights = forward.activations.blocks[layer].attention
    assert weights is not None, "the maps to show are kept"
    rows = weights[head].tolist()
    visible = [[json_number(value) for value in row[: i + 1]] for i, row in enumerate(rows)]
    return {"layer": layer, "head": head, "weights": visible}


def _mean(values: "Tensor") -> float | None:
    return json_number(values.mean().item())


def _numbers(values: "Tensor") -> list[float | None]:
    return [json_number(value) for value in values.tolist()]
