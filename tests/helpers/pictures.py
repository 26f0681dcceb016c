"""The pictures of README.md and docs: real runs on a terminal, as SVG.

`python tests/helpers/pictures.py [NAME...]` makes them again, all or the named ones.
"""

import os
import pty
import select
import struct
import sys
import termios
from fcntl import ioctl
from itertools import groupby
from pathlib import Path

import pyte

from gptcli.cli.render.svg import Picture

IMAGES = Path(__file__).parents[2] / "docs" / "images"
COLUMNS = 80
RUNS = {
    "terminal": ["generate", "One day, a little girl named Lucy", "--seed", "3"],
    "generate-probs": [
        "generate",
        "Once upon a time",
        "--show",
        "probs",
        "--seed",
        "4",
        "-n",
        "90",
    ],
    "count-params": ["count-params", "gpt2-124m", "gpt2"],
    "inspect": ["inspect", "gpt2-124m"],
    "inspect-prompt": ["inspect", "--prompt", "Once upon a time, there was a little"],
}
NAMES = {"brown": "yellow"}  # what pyte calls it


class Screen(pyte.Screen):
    """A screen tall enough for all of a run, which shows dim text as grey."""

    def __init__(self) -> None:
        super().__init__(COLUMNS, 100)
        self.set_mode(pyte.modes.LNM)

    def select_graphic_rendition(self, *attributes: int, **rest: object) -> None:
        grey = [90 if attribute == 2 else attribute for attribute in attributes]
        super().select_graphic_rendition(*grey, **rest)


def run(arguments: list[str]) -> Screen:
    """Run gptcli on a terminal of its own, and return its screen at the end."""
    screen = Screen()
    stream = pyte.ByteStream(screen)
    stream.feed(b"\x1b[1m$ gptcli " + " ".join(map(quoted, arguments)).encode() + b"\x1b[0m\n")
    process, terminal = pty.fork()
    if process == 0:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "HF_HUB_OFFLINE": "1"}
        for name in ("NO_COLOR", "COLUMNS"):
            os.environ.pop(name, None)
        os.execv(sys.executable, [sys.executable, "-m", "gptcli", *arguments])
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", screen.lines, COLUMNS, 0, 0))
    while select.select([terminal], [], [], 120)[0]:
        try:
            received = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        stream.feed(received)
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"{arguments} failed:\n" + "\n".join(screen.display).strip())
    return screen


def quoted(argument: str) -> str:
    return f'"{argument}"' if " " in argument else argument


def picture(screen: Screen, title: str) -> str:
    """A screen as SVG, without the empty lines below."""
    drawn = Picture(COLUMNS)
    last = max(row for row, line in enumerate(screen.display) if line.strip())
    for row in range(last + 1):
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        for same, group in groupby(cells, key=style):
            drawn.write("".join(cell.data for cell in group), same)
        drawn.write("\n")
    return drawn.svg(title)


def style(cell: pyte.screens.Char) -> str:
    parts = ["bold"] if cell.bold else []
    if cell.fg != "default":
        parts.append(color(cell.fg))
    if cell.bg != "default":
        parts += ["on", color(cell.bg)]
    return " ".join(parts)


def color(name: str) -> str:
    if len(name) == 6 and all(letter in "0123456789abcdef" for letter in name):
        return f"#{name}"
    plain = name.removeprefix("bright")
    plain = NAMES.get(plain, plain)
    return f"bright_{plain}" if name.startswith("bright") else plain


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or RUNS:
        text = picture(run(RUNS[name]), "gptcli")
        (IMAGES / f"{name}.svg").write_text(text, encoding="utf-8")
