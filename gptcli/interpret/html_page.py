"""Self-contained HTML page with the results of `inspect`.

The page's own script and style are in `html/`. A content security policy in the page allows these
two, by their hashes, and nothing else: no request leaves it.
"""

import base64
import html
import json
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any

from gptcli.version import __version__

MOST_MAP_BYTES = 1 << 24  # of attention weights; more than this is slow to open on a phone
# In the order in which they run.
SCRIPTS = ("base", "charts", "text", "attention", "blocks", "treemap", "main")


def page(
    files_document: Mapping[str, Any],
    probe_document: Mapping[str, Any] | None = None,
    maps: Mapping[int, bytes] | None = None,
) -> str:
    """The page's HTML.

    Args:
        files_document: what `inspect --json` prints.
        probe_document: what `inspect --prompt --gradients --json` prints.
        maps: by block, the attention weights as `activations.packed_attention` packs them.
    """
    maps = maps or {}
    fits = sum(map(len, maps.values())) <= MOST_MAP_BYTES
    encoded = {layer: base64.b64encode(data).decode() for layer, data in maps.items()}
    data = {
        "version": __version__,
        "files": files_document,
        "probe": probe_document,
        "maps": encoded if fits else {},
        "maps_note": "" if fits else "The text is too long for a page with all of its maps.",
    }
    script = "".join(_part(f"{name}.js") for name in SCRIPTS)
    style = _part("page.css")
    own = f"script-src {_hash(script)}; style-src {_hash(style)}"
    parts = {
        "POLICY": f"default-src 'none'; img-src data:; {own}",
        "TITLE": html.escape(f"{files_document['name']} - gptcli inspect"),
        "STYLE": style,
        "DATA": _json(data),
        "SCRIPT": script,
    }
    # One pass over the template, so that nothing in the data is taken for a placeholder.
    pieces = _part("page.html").split("@")
    return "".join(parts.get(piece, piece) for piece in pieces)


def _part(name: str) -> str:
    return files("gptcli.interpret").joinpath("html", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """JSON without "<", so that it cannot end its script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
