"""The loss curve as text: one column a bin of steps, eighths of a character high.

Knows no terminal; `gptcli.train.loss_plot` draws the same numbers as a picture.
"""

from collections.abc import Sequence
from itertools import pairwise

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def binned(values: Sequence[float], width: int) -> list[float]:
    """At most `width` means of neighbours, in order."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    parts = (values[a:b] for a, b in pairwise(edges))
    return [sum(part) / len(part) for part in parts]


def text_curve(values: Sequence[float], *, width: int = 72, height: int = 8) -> str:
    """A bar chart of the values, with the highest, lowest and last beside it."""
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
