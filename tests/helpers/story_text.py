"""A small text with something to learn: who did what, a sentence a line."""

import random
from pathlib import Path

NAMES, VERBS, THINGS = (
    ["Tom", "Ann", "Ben", "Sue"],
    ["saw", "found", "lost"],
    ["ball", "cat", "hat"],
)


def stories(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["\n".join(_sentences(draw)) for _ in range(count)]


def _sentences(draw: random.Random) -> list[str]:
    name = draw.choice(NAMES)
    lines = draw.randint(1, 6)
    return [f"{name} {draw.choice(VERBS)} a {draw.choice(THINGS)}." for _ in range(lines)]


def write_stories(path: Path, count: int = 120, seed: int = 0) -> Path:
    path.write_text("".join(f"{story}\n<|endoftext|>\n" for story in stories(count, seed)))
    return path
