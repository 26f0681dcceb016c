"""Draw the loss curve as text, SVG or PNG."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, MARGIN = 800, 480, 60
_COLOURS = ("#2f6db5", "#c8502d", "#4f9150")
_TICKS = 5
_EIGHTHS = " ▁▂▃▄▅▆▇█"
# The letters of axes and legends, 3 x 5 pixels; each row is an octal digit.
_GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717",
    "6": "74757", "7": "71111", "8": "75757", "9": "75717", ".": "00002", "-": "00700",
    "a": "07357", "b": "44757", "d": "11757", "e": "07647", "g": "75717", "i": "20222",
    "l": "44446", "n": "07555", "o": "07557", "p": "07574", "r": "05644", "s": "07637",
    "t": "27223", "v": "05552", "y": "05517", "k": "45655",
}  # fmt: skip

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Named lines of (step, value) points, and their scale in a picture."""

    lines: dict[str, Points]

    def to_pixels(self, point: tuple[float, float]) -> tuple[float, float]:
        """A point → pixels from the left and from the top."""
        (left, right), (low, high) = self.bounds(0), self.bounds(1)
        x = (point[0] - left) / ((right - left) or 1)
        y = (point[1] - low) / ((high - low) or 1)
        return MARGIN + x * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 2 * MARGIN)

    def bounds(self, axis: int) -> tuple[float, float]:
        """Lowest and highest value on an axis: 0 for steps, 1 for values."""
        values = [point[axis] for line in self.lines.values() for point in line]
        return (min(values), max(values)) if values else (0.0, 1.0)

    def ticks(self, axis: int) -> list[tuple[float, str]]:
        """Evenly spaced values on an axis, and their labels."""
        low, high = self.bounds(axis)
        values = [low + (high - low) * i / (_TICKS - 1) for i in range(_TICKS)]
        return [(value, f"{value:.0f}" if axis == 0 else f"{value:.2f}") for value in values]


def svg(chart: Chart) -> bytes:
    """The chart as an SVG document."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for value, label in chart.ticks(0):
        x, _ = chart.to_pixels((value, chart.bounds(1)[0]))
        parts.append(_svg_text(x, HEIGHT - MARGIN + 20, label, "middle"))
    for value, label in chart.ticks(1):
        _, y = chart.to_pixels((chart.bounds(0)[0], value))
        rule = f'x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}"'
        parts += [f'<line {rule} stroke="#ddd"/>', _svg_text(MARGIN - 8, y + 4, label, "end")]
    for number, (name, line) in enumerate(chart.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(chart.to_pixels, line))
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            _svg_text(WIDTH - MARGIN, MARGIN + 18 * number, name, "end", colour),
        ]
    return "\n".join([*parts, "</svg>\n"]).encode()


def _svg_text(x: float, y: float, text: str, anchor: str, fill: str = "#333") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
    return f"<text {place}>{escape(text)}</text>"


def png(chart: Chart) -> bytes:
    """The chart as a PNG image."""
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for value, label in chart.ticks(0):
        x, _ = chart.to_pixels((value, chart.bounds(1)[0]))
        _draw_text(image, label, int(x) - 4 * len(label), HEIGHT - MARGIN + 10, "#333333")
    for value, label in chart.ticks(1):
        _, y = chart.to_pixels((chart.bounds(0)[0], value))
        image[int(y), MARGIN : WIDTH - MARGIN] = 0xDD
        _draw_text(image, label, MARGIN - 8 - 8 * len(label), int(y) - 5, "#333333")
    for number, (name, line) in enumerate(chart.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        _draw_line(image, [chart.to_pixels(point) for point in line], colour)
        _draw_text(image, name, WIDTH - MARGIN - 8 * len(name), MARGIN - 10 + 18 * number, colour)
    return _png_bytes(image)


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _draw_line(image: NDArray[np.uint8], points: Points, colour: str) -> None:
    """Draw a line through the points, two pixels wide."""
    for (x0, y0), (x1, y1) in pairwise(points):
        count = int(max(abs(x1 - x0), abs(y1 - y0))) + 2
        xs = np.linspace(x0, x1, count).round().astype(int)
        ys = np.linspace(y0, y1, count).round().astype(int)
        image[ys, xs] = image[ys + 1, xs] = _rgb(colour)


def _draw_text(image: NDArray[np.uint8], text: str, x: int, y: int, colour: str) -> None:
    """Draw text in letters of 6 x 10 pixels; a letter without a glyph is a gap."""
    for number, letter in enumerate(text):
        for row, bits in enumerate(_GLYPHS.get(letter, "")):
            for column in range(3):
                if int(bits, 8) & (4 >> column):
                    top, left = y + 2 * row, x + 8 * number + 2 * column
                    image[top : top + 2, left : left + 2] = _rgb(colour)


def _png_bytes(image: NDArray[np.uint8]) -> bytes:
    """PNG's signature, header, data and end (W3C, "Portable Network Graphics", section 5)."""
    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def binned(values: Sequence[float], width: int) -> list[float]:
    """Average neighbours → at most `width` values."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    parts = (values[a:b] for a, b in pairwise(edges))
    return [sum(part) / len(part) for part in parts]


def text_curve(values: Sequence[float], *, width: int = 72, height: int = 8) -> str:
    """A bar chart of the values as text, labelled with the highest and the lowest."""
    if not values:
        return ""
    means = binned(values, max(1, width - 9))
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    eighths = [1 + round((mean - low) / span * (8 * height - 1)) for mean in means]
    lines = []
    for row in reversed(range(height)):
        bars = "".join(_EIGHTHS[max(0, min(8, count - 8 * row))] for count in eighths)
        label = {height - 1: f"{high:8.3f}", 0: f"{low:8.3f}"}.get(row, " " * 8)
        lines.append(f"{label} {bars}".rstrip())
    return "\n".join(lines)
