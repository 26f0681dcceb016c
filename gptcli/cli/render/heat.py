"""Numbers from 0 to 1 as a picture of characters: colours where there are some, else shades.

Knows no model. A picture is lines of (text, style) pieces; a line is at most as wide as was asked.
"""

from collections.abc import Iterator, Sequence

Spans = list[tuple[str, str]]
Matrix = Sequence[Sequence[float | None]]

SHADES = " ·░▒▓█"
_RAMP = ((20, 33, 61), (31, 78, 121), (42, 157, 143), (167, 201, 87), (255, 230, 109))
_BLOCK = "▀"  # the upper half of a cell; the lower half is its background


def color(value: float) -> str:
    """0 to 1 → "#rrggbb", from dark blue over green to yellow. Small values spread by the root."""
    at = _clamped(value) ** 0.5 * (len(_RAMP) - 1)
    low = min(int(at), len(_RAMP) - 2)
    share = at - low
    mixed = (round(a + (b - a) * share) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def shade(value: float) -> str:
    """0 to 1 → one of six characters; the empty one only for what rounds to nothing."""
    root = _clamped(value) ** 0.5
    return SHADES[min(int(root * len(SHADES)), len(SHADES) - 1)]


def _clamped(value: float) -> float:
    """Into 0 to 1; what is no number is nothing."""
    return min(value, 1.0) if value > 0 else 0.0


def cell(value: float | None, text: str, *, colored: bool) -> tuple[str, str]:
    """A cell as wide as `text`: `text` on the value's colour, or its shade. None is nothing."""
    if value is None:
        return " " * len(text), ""
    if colored:
        ink = "#000000" if value > 0.25 else "#ffffff"
        return text, f"{ink} on {color(value)}"
    return shade(value) * len(text), ""


def pooled(matrix: Matrix, size: int) -> list[list[float | None]]:
    """A square matrix → at most `size` by `size`, each the largest of those it stands for."""
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
    """A square matrix as `size` columns and half as many lines: two rows of it to a line."""
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
        return _BLOCK, color(upper)
    return _BLOCK, f"{color(upper)} on {color(lower)}"


def beside(pictures: Sequence[list[Spans]], gap: str = " ") -> list[Spans]:
    """Pictures of equal height side by side."""
    lines: list[Spans] = []
    for parts in zip(*pictures, strict=True):
        line: Spans = []
        for part in parts:
            line += [*part, (gap, "")]
        lines.append(line[:-1])
    return lines


def bar(share: float, width: int) -> str:
    """0 to 1 → a bar of at most `width` columns, drawn to an eighth of one."""
    eighths = round(_clamped(share) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
