"""The report of `inspect --prompt`: tokens, what may come next, and each block by its numbers.

Knows no files and runs no model: everything it prints is in a `Looked`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len

from gptcli.cli.looked import Inside, Looked
from gptcli.cli.render.fitting import show_rows
from gptcli.cli.render.heat import bar
from gptcli.cli.render.maps import show_lens, show_maps
from gptcli.cli.render.report import QUIET, Report
from gptcli.cli.render.sample_views import token_text
from gptcli.cli.render.table import Row
from gptcli.core.escape import shown

if TYPE_CHECKING:
    from gptcli.interpret.activations import Block, Norm, Reading

MOST_TOKENS = 64  # lines of the table of tokens; --json has all
_INKS = ("black on cyan", "black on yellow", "black on green", "black on magenta")
_BAR = 12


def show(report: Report, looked: Looked, inside: Inside) -> None:
    """Print all of it."""
    _show_tokens(report, looked, inside)
    _show_next(report, looked, inside)
    _show_blocks(report, inside)
    _show_norms(report, inside)
    _show_heads(report, inside)
    show_lens(report, looked, inside)
    show_maps(report, looked, inside)


def _show_tokens(report: Report, looked: Looked, inside: Inside) -> None:
    from gptcli.interpret.activations import mean_loss

    count, context = len(looked.ids), looked.config.context_length
    report.heading(f"Tokens ({count:,} of at most {context:,})")
    if report.colored:
        report.spans(_pieces(looked, report.width or 80))
        report.spans([[]])
    first = max(0, count - MOST_TOKENS)
    if first:
        report.points([f"the last {MOST_TOKENS} of them"], QUIET)
    header = Row(("at", "id", "token", "probability", "rank", "bytes"), "  ", "    ", QUIET)
    rows = [_token(looked, inside, position) for position in range(first, count)]
    show_rows(report, [header, *rows], right=(1, 3, 4), optional=(5, 4))
    mean = mean_loss(inside.readings)
    if mean is not None:
        perplexity = math.exp(min(mean, 700))
        report.points([f"loss {mean:.4f} nats a token, perplexity {perplexity:,.2f}"], QUIET)


def _pieces(looked: Looked, width: int) -> Iterator[list[tuple[str, str]]]:
    """The text, each token in another colour than the ones beside it."""
    line: list[tuple[str, str]] = []
    used = 0
    for position, id in enumerate(looked.ids):
        text = token_text(looked.tokenizer, id)[1:-1]
        if used and used + cell_len(text) > width:
            yield line
            line, used = [], 0
        line.append((text, _INKS[position % len(_INKS)]))
        used += cell_len(text)
    yield line


def _token(looked: Looked, inside: Inside, position: int) -> Row:
    id = looked.ids[position]
    before = inside.readings[position - 1] if position else inside.next
    cells = (
        str(position),
        str(id),
        token_text(looked.tokenizer, id),
        "" if before.logprob is None else f"{math.exp(before.logprob):.2%}",
        "" if before.rank is None else f"{before.rank:,}",
        looked.tokenizer.token_bytes(id).hex(" "),
    )
    return Row(cells, "  ", "    ")


def _show_next(report: Report, looked: Looked, inside: Inside) -> None:
    reading = inside.next
    report.heading("What may come next")
    alike = math.exp(min(reading.entropy, 700))
    report.pairs(
        [
            ("entropy", f"{reading.entropy:.4f} nats, as of {alike:,.1f} equally likely tokens"),
            ("margin", f"{reading.margin:.4f} in log-probability between the first two"),
        ]
    )
    rows = list(_candidates(looked, reading))
    show_rows(report, rows, right=(0, 1, 2, 4), optional=(2, 3, 4))


def _candidates(looked: Looked, reading: "Reading") -> Iterator[Row]:
    yield Row(("rank", "probability", "log-probability", "", "id", "token"), "  ", "    ", QUIET)
    for rank, (id, logprob) in enumerate(reading.best, 1):
        p = math.exp(logprob)
        text = token_text(looked.tokenizer, id)
        cells = (str(rank), f"{p:.4%}", f"{logprob:.4f}", bar(p, _BAR), str(id), text)
        yield Row(cells, "  ", "    ")


def _show_blocks(report: Report, inside: Inside) -> None:
    report.heading("The residual stream: norms, and what each block adds (means over positions)")
    names = ("block", "enters", "attention", "", "feed-forward", "", "leaves", "GELU<0")
    rows = [Row(names, "  ", "    ", QUIET)]
    norms = [float(hidden.double().norm(dim=-1).mean()) for hidden in inside.probe.hidden]
    for layer, block in enumerate(inside.probe.blocks):
        rows.append(_block(layer, block, norms[layer], norms[layer + 1]))
    show_rows(report, rows, right=range(1, len(names)), optional=(3, 5, 1, 6))
    report.points(
        [
            "a share is of what enters the block",
            "GELU<0: the share of its inputs that it suppresses, to at least -0.17",
        ],
        QUIET,
    )


def _block(layer: int, block: "Block", enters: float, leaves: float) -> Row:
    added = (block.attention_adds.mean().item(), block.feed_forward_adds.mean().item())
    shares = [text for norm in added for text in (f"{norm:.2f}", _share(norm, enters))]
    suppressed = f"{block.suppressed.mean().item():.1%}"
    return Row((str(layer), f"{enters:.2f}", *shares, f"{leaves:.2f}", suppressed), "  ", "    ")


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _show_norms(report: Report, inside: Inside) -> None:
    report.heading("LayerNorm: before → after (means over positions)")
    names = ("", "mean", "variance", "norm", "→ mean", "→ variance", "→ norm")
    rows = [Row(names, "  ", "    ", QUIET)]
    probe = inside.probe
    every = [norm for block in probe.blocks for norm in (block.norm1, block.norm2)]
    rows += [_norm(norm) for norm in (*every, probe.final_norm)]
    show_rows(report, rows, right=range(1, len(names)), optional=(6, 3, 1, 4))


def _norm(norm: "Norm") -> Row:
    numbers = [
        _fixed(value.mean().item(), digits)
        for moments in (norm.before, norm.after)
        for value, digits in ((moments.mean, 3), (moments.variance, 3), (moments.norm, 2))
    ]
    return Row((norm.name.removeprefix("trf_blocks."), *numbers), "  ", "    ")


def _fixed(value: float, digits: int) -> str:
    """A number without the sign of what rounds to nothing."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _show_heads(report: Report, inside: Inside) -> None:
    report.heading("Attention entropy of each head (nats, means over positions)")
    blocks = inside.probe.blocks
    count = len(blocks[0].heads.entropy)
    rows = [Row(("block", *(str(head) for head in range(count))), "  ", "    ", QUIET)]
    for layer, block in enumerate(blocks):
        rows.append(Row((str(layer), *_decimals(block.heads.entropy.tolist())), "  ", "    "))
    report.rows(rows, right=range(1, count + 1))
    length = len(inside.probe.ids)
    most = sum(math.log(seen) for seen in range(1, length + 1)) / length
    report.points([f"0 looks at one token, {most:.2f} at all alike"], QUIET)


def _decimals(values: Sequence[float]) -> list[str]:
    return [f"{value:.2f}" for value in values]


def title(looked: Looked) -> str:
    """What the report is about, in one line."""
    untrained = "" if looked.seed is None else f", untrained, seed {looked.seed}"
    return f"{shown(looked.name)}{untrained}"
