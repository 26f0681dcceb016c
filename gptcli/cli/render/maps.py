"""The logit lens and attention maps on a terminal.

Knows no files and runs no model: everything it draws is in a `Looked`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len

from gptcli.cli.looked import LENS_TOP, Inside, Looked
from gptcli.cli.render.heat import Matrix, Spans, beside, cell, pooled, thumbnail
from gptcli.cli.render.report import QUIET, Report
from gptcli.cli.render.sample_views import token_text
from gptcli.cli.render.table import GAP, Row, folded

if TYPE_CHECKING:
    from gptcli.interpret.activations import Reading

_TOKEN = 8  # columns of a token in a grid, its gap not counted
_LABEL = 10  # columns of a row's name
_THUMBNAIL = 16  # the most columns of one map among many
_UNLIMITED = 100  # columns where nothing limits them


def show_lens(report: Report, looked: Looked, inside: Inside) -> None:
    """What the model would say after each block: the last token, then one word for each place."""
    report.heading("Logit lens: what the output head makes of each block")
    last = [row[-1] for row in inside.lens]
    report.rows(list(_lens_rows(looked, last, report.width)))
    if len(inside.lens[0]) > 1:
        report.spans([[]])
        report.spans(_lens_grid(report, looked, inside))


def _stage(index: int) -> str:
    return f"block {index - 1}" if index else "embedding"


def _lens_rows(looked: Looked, last: "Sequence[Reading]", width: int | None) -> Iterator[Row]:
    """As many candidates for the next token as fit, the likeliest at the least."""
    cells = [
        [f"{token_text(looked.tokenizer, id)} {math.exp(p):.0%}" for id, p in reading.best]
        for reading in last
    ]
    for count in range(LENS_TOP, 0, -1):
        widths = [max(map(cell_len, column[:count])) for column in cells]
        if width is None or 2 + _LABEL + count * (max(widths) + len(GAP)) <= width:
            break
    for index, candidates in enumerate(cells):
        yield Row((_stage(index), *candidates[:count]), "  ", "    ")


def _lens_grid(report: Report, looked: Looked, inside: Inside) -> Iterator[Spans]:
    """Blocks downwards, places to the right: the last ones, as many as fit."""
    room = (report.width or _UNLIMITED) - 2 - _LABEL
    count = max(1, min(len(inside.lens[0]), room // (_TOKEN + 1)))
    label = f"  {'after':<{_LABEL}}"
    words = [_word(looked, id) for id in looked.ids[-count:]]
    yield [(label + " ".join(words), QUIET)]
    for index, row in enumerate(inside.lens):
        line: Spans = [(f"  {_stage(index):<{_LABEL}}", "")]
        for reading in row[-count:]:
            id, logprob = reading.best[0]
            word = _word(looked, id)
            value = math.exp(logprob)
            line.append(cell(value, word, colored=True) if report.colored else (word, ""))
            line.append((" ", ""))
        yield line


def _word(looked: Looked, id: int) -> str:
    """A token in exactly _TOKEN columns; its blank at the beginning is not shown."""
    text = token_text(looked.tokenizer, id)[1:-1].removeprefix(" ")
    piece = next(folded(text, _TOKEN), "")
    return piece + " " * (_TOKEN - cell_len(piece))


def show_maps(report: Report, looked: Looked, inside: Inside) -> None:
    """One map by itself with its tokens, or all heads as a grid of small ones."""
    if not inside.maps:
        return
    if len(inside.maps) == looked.config.n_layers * looked.config.n_heads > 1:
        _show_grid(report, looked, inside)
        return
    for layer, head in inside.maps:
        report.heading(f"Attention of head {layer}.{head}: each line a token, where it looks")
        report.spans(_map(report, looked, _causal(inside, layer, head)))
        report.points(_strongest(looked, inside, layer, head), QUIET)


def _causal(inside: Inside, layer: int, head: int) -> Matrix:
    weights = inside.probe.blocks[layer].attention
    assert weights is not None, "the maps to show are kept"
    rows = weights[head].tolist()
    return [[*row[: i + 1], *[None] * (len(row) - i - 1)] for i, row in enumerate(rows)]


def _map(report: Report, looked: Looked, matrix: Matrix) -> Iterator[Spans]:
    """A cell is two columns if there is room, one if not; then several tokens share one."""
    room = (report.width or _UNLIMITED) - 6 - _TOKEN - 1
    wide = 2 if 2 * len(matrix) <= room else 1
    small = pooled(matrix, room // wide)
    step = -(-len(matrix) // len(small))
    indent = " " * (6 + _TOKEN)
    marks = "".join(f"{i * step:<{10 * wide}}" for i in range(0, len(small), 10))
    yield [(f"{indent} {marks[: room + 1]}".rstrip(), QUIET)]
    for index, row in enumerate(small):
        word = _word(looked, looked.ids[index * step])
        line: Spans = [(f"{index * step:>5} ", QUIET), (f"{word} ", "")]
        for value in row[: index + 1]:
            line.append(cell(value, " " * wide, colored=report.colored))
        yield _joined(line)


def _strongest(looked: Looked, inside: Inside, layer: int, head: int) -> Iterator[str]:
    """Where the last token looks, in words."""
    weights = inside.probe.blocks[layer].attention
    assert weights is not None, "the maps to show are kept"
    values, places = weights[head, -1].topk(min(3, weights.shape[-1]))
    found = [
        f"{token_text(looked.tokenizer, looked.ids[place])} at {place} {value:.0%}"
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]
    yield f"the last token looks at {', '.join(found)}"


def _show_grid(report: Report, looked: Looked, inside: Inside) -> None:
    step = -(-len(looked.ids) // _THUMBNAIL)
    size = max(4, -(-len(looked.ids) // step))  # 4 columns for its name
    many = max(1, ((report.width or _UNLIMITED) - 6) // (size + 1))
    report.heading("Attention of all heads: a token looks along a line, from top to bottom")
    heads = looked.config.n_heads
    for layer in range(looked.config.n_layers):
        for first in range(0, heads, many):
            some = range(first, min(first + many, heads))
            pictures = [
                thumbnail(_causal(inside, layer, head), size, colored=report.colored)
                for head in some
            ]
            names = " ".join(f"{f'{layer}.{head}':<{size}}"[:size] for head in some)
            report.spans([[(f"  {names}", QUIET)]])
            report.spans(_joined([("  ", ""), *line]) for line in beside(pictures))


def _joined(line: Spans) -> Spans:
    """Neighbours of one style as one piece: a terminal is written to once for them."""
    joined: Spans = []
    for text, style in line:
        if joined and joined[-1][1] == style:
            joined[-1] = joined[-1][0] + text, style
        else:
            joined.append((text, style))
    return joined
