"""Terminal output as an SVG file, drawn by Rich.

Rich's own template fetches a font from the network; this one uses fonts of the reader's system.
"""

import io

from gptcli.core.escape import visible

WIDTH = 100
_FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" \
xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font: {char_height}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font: bold 18px system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Picture:
    """A `Canvas` whose text becomes an SVG picture."""

    def __init__(self, width: int = WIDTH) -> None:
        from rich.console import Console

        self.width = width
        self._console = Console(
            record=True,
            file=io.StringIO(),
            width=width,
            height=24,
            force_terminal=True,
            color_system="truecolor",
            no_color=False,
            force_jupyter=False,
            legacy_windows=False,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def write(self, text: str, style: str = "") -> None:
        """Add a piece of text."""
        self._console.out(visible(text), style=style, highlight=False, end="")

    def svg(self, title: str) -> str:
        """The SVG of everything written so far; it refers to no other file."""
        return self._console.export_svg(title=title, code_format=_FORMAT, clear=False)
