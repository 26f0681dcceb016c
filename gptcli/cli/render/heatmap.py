"""Heat maps of values from 0 to 1, and attention weights as heat maps.

In colour where there is colour, else in shades of block characters. A picture is a list of lines,
each of them a list of (text, style).
"""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from gptcli.cli.render.completion_views import token_text
from gptcli.cli.render.table import QUIET, Report
from gptcli.cli.render.word_wrap import folded
from gptcli.cli.text_analysis import ForwardPass, TextAnalysis

Spans = list[tuple[str, str]]
Matrix = Sequence[Sequence[float | None]]

SHADES = " ·░▒▓█"
_RAMP = ((20, 33, 61), (31, 78, 121), (42, 157, 143), (167, 201, 87), (255, 230, 109))
_UPPER_HALF = "▀"  # the lower half is the background
_MAX_THUMBNAIL = 16  # columns of one map among many
TOKEN_WIDTH = 8  # columns of a token in a grid, without the gap
PIPE_WIDTH = 100  # columns of a picture on a pipe


def color(value: float) -> str:
    """0 to 1 → "#rrggbb", from dark blue to yellow; the square root spreads small values."""
    place = _clamped(value) ** 0.5 * (len(_RAMP) - 1)
    low = min(int(place), len(_RAMP) - 2)
    share = place - low
    mixed = (round(a + (b - a) * share) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def shade(value: float) -> str:
    """0 to 1 → one of six shades; the square root spreads small values."""
    root = _clamped(value) ** 0.5
    return SHADES[min(int(root * len(SHADES)), len(SHADES) - 1)]


def _clamped(value: float) -> float:
    """Clamp to 0..1; NaN becomes 0."""
    return min(value, 1.0) if value > 0 else 0.0


def cell(value: float | None, text: str, *, colored: bool) -> tuple[str, str]:
    """`text` on the value's colour, or a shade of the same width; blanks for None."""
    if value is None:
        return " " * len(text), ""
    if colored:
        ink = "#000000" if value > 0.25 else "#ffffff"
        return text, f"{ink} on {color(value)}"
    return shade(value) * len(text), ""


def pooled(matrix: Matrix, size: int) -> list[list[float | None]]:
    """Max-pool a square matrix to at most `size` by `size`."""
    step = -(-len(matrix) // size)
    if step == 1:
        return [list(row) for row in matrix]
    starts = range(0, len(matrix), step)
    return [
        [_largest(row[j : j + step] for row in matrix[i : i + step]) for j in starts]
        for i in starts
    ]


def _largest(rows: Iterator[Sequence[float | None]]) -> float | None:
    return max((value for row in rows for value in row if value is not None), default=None)


def thumbnail(matrix: Matrix, size: int, *, colored: bool) -> list[Spans]:
    """Draw a square matrix with `size` columns and half as many lines, two rows on each."""
    small = pooled(matrix, size)
    if len(small) % 2:
        small.append([None] * len(small[0]))
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        spans = [_half(a, b, colored=colored) for a, b in zip(upper, lower, strict=True)]
        lines.append([*spans, (" " * (size - len(spans)), "")])
    return lines


def _half(upper: float | None, lower: float | None, *, colored: bool) -> tuple[str, str]:
    known = [value for value in (upper, lower) if value is not None]
    if not known:
        return " ", ""
    if not colored:
        return shade(max(known)), ""
    if upper is None:
        return "▄", color(lower or 0.0)
    if lower is None:
        return _UPPER_HALF, color(upper)
    return _UPPER_HALF, f"{color(upper)} on {color(lower)}"


def side_by_side(pictures: Sequence[list[Spans]], gap: str = " ") -> list[Spans]:
    """Pictures of equal height side by side."""
    lines: list[Spans] = []
    for parts in zip(*pictures, strict=True):
        line: Spans = []
        for part in parts:
            line += [*part, (gap, "")]
        lines.append(line[:-1])
    return lines


def bar(share: float, width: int) -> str:
    """0 to 1 → a bar of at most `width` columns, to an eighth of a column."""
    eighths = round(_clamped(share) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def show_maps(report: Report, analysis: TextAnalysis, forward: ForwardPass) -> None:
    """Draw the chosen heads with their tokens, or all heads as a grid of thumbnails."""
    if not forward.maps:
        return
    if len(forward.maps) == analysis.config.n_layers * analysis.config.n_heads > 1:
        _show_grid(report, analysis, forward)
        return
    for layer, head in forward.maps:
        report.heading(f"Attention of head {layer}.{head}: each line a token, where it looks")
        report.spans(_map(report, analysis, _visible_weights(forward, layer, head)))
        report.bullets(_strongest(analysis, forward, layer, head), QUIET)


def _visible_weights(forward: ForwardPass, layer: int, head: int) -> Matrix:
    weights = forward.activations.blocks[layer].attention
    assert weights is not None, "the maps to show are kept"
    rows = weights[head].tolist()
    return [[*row[: i + 1], *[None] * (len(row) - i - 1)] for i, row in enumerate(rows)]


def _map(report: Report, analysis: TextAnalysis, matrix: Matrix) -> Iterator[Spans]:
    """Cells of two columns; of one where room is short, and then tokens are pooled too."""
    room = (report.width or PIPE_WIDTH) - 6 - TOKEN_WIDTH - 1
    cell_width = 2 if 2 * len(matrix) <= room else 1
    small = pooled(matrix, room // cell_width)
    step = -(-len(matrix) // len(small))
    indent = " " * (6 + TOKEN_WIDTH)
    marks = "".join(f"{i * step:<{10 * cell_width}}" for i in range(0, len(small), 10))
    yield [(f"{indent} {marks[: room + 1]}".rstrip(), QUIET)]
    for index, row in enumerate(small):
        token = token_cell(analysis, analysis.ids[index * step])
        line: Spans = [(f"{index * step:>5} ", QUIET), (f"{token} ", "")]
        for value in row[: index + 1]:
            line.append(cell(value, " " * cell_width, colored=report.colored))
        yield _joined(line)


def _strongest(
    analysis: TextAnalysis, forward: ForwardPass, layer: int, head: int
) -> Iterator[str]:
    """The tokens that the last token attends to most, in words."""
    weights = forward.activations.blocks[layer].attention
    assert weights is not None, "the maps to show are kept"
    values, places = weights[head, -1].topk(min(3, weights.shape[-1]))
    found = [
        f"{token_text(analysis.tokenizer, analysis.ids[place])} at {place} {value:.0%}"
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]
    yield f"the last token looks at {', '.join(found)}"


def _show_grid(report: Report, analysis: TextAnalysis, forward: ForwardPass) -> None:
    step = -(-len(analysis.ids) // _MAX_THUMBNAIL)
    size = max(4, -(-len(analysis.ids) // step))  # 4 columns for the name
    per_line = max(1, ((report.width or PIPE_WIDTH) - 6) // (size + 1))
    report.heading("Attention of all heads: a token looks along a line, from top to bottom")
    heads = analysis.config.n_heads
    for layer in range(analysis.config.n_layers):
        for first in range(0, heads, per_line):
            some = range(first, min(first + per_line, heads))
            pictures = [
                thumbnail(_visible_weights(forward, layer, head), size, colored=report.colored)
                for head in some
            ]
            names = " ".join(f"{f'{layer}.{head}':<{size}}"[:size] for head in some)
            report.spans([[(f"  {names}", QUIET)]])
            report.spans(_joined([("  ", ""), *line]) for line in side_by_side(pictures))


def _joined(line: Spans) -> Spans:
    """Join neighbours of one style, so that they are one write to the terminal."""
    joined: Spans = []
    for text, style in line:
        if joined and joined[-1][1] == style:
            joined[-1] = joined[-1][0] + text, style
        else:
            joined.append((text, style))
    return joined


def token_cell(analysis: TextAnalysis, id: int) -> str:
    """A token cut or padded to TOKEN_WIDTH columns, without a leading blank."""
    text = token_text(analysis.tokenizer, id)[1:-1].removeprefix(" ")
    piece = next(folded(text, TOKEN_WIDTH), "")
    return piece + " " * (TOKEN_WIDTH - cell_len(piece))
