"""Escape control, bidirectional and invisible characters, so that text is safe to show.

Files and model output can contain escape sequences, which a terminal would execute.
"""

import re
from collections.abc import Iterable, Mapping

# Control characters (C0 without newline and tab, DEL, C1), bidirectional controls, the two
# line separators, the byte-order mark, tag characters and lone surrogates.
_UNSAFE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\U000e0000-\U000e007f\ud800-\udfff"
)
_UNSAFE_IN_TEXT = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_LINE = re.compile(f"[\t\n{_UNSAFE}]")


def visible(text: str) -> str:
    r"""Text for a terminal: unsafe characters become `\x1b` or `\u202e`; newline and tab stay."""
    return _UNSAFE_IN_TEXT.sub(_name, text)


def shown(value: object, limit: int = 200) -> str:
    """A value as one line of a message: as `visible`, with newline and tab escaped, and cut."""
    text = str(value)
    cut = text[:limit]
    more = f"... (+{len(text) - limit} more)" if len(text) > limit else ""
    return _UNSAFE_IN_LINE.sub(_name, cut) + more


def listed(items: Iterable[object], limit: int = 5) -> str:
    """Items for a message, at most `limit` of them: `a, b, c, ... (+4 more)`."""
    all_items = list(items)
    more = [f"... (+{len(all_items) - limit} more)"] if len(all_items) > limit else []
    return ", ".join([shown(item) for item in all_items[:limit]] + more)


def described(value: object) -> str:
    """A value for `expected ..., found ...`: its type in words, and a text or number itself."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{shown(value)}"'
    if isinstance(value, int | float):
        return f"the number {shown(value)}"
    if isinstance(value, Mapping):
        return "a mapping"
    return (
        "a list" if isinstance(value, list | tuple) else f"a value of type {type(value).__name__}"
    )


def _name(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return {9: r"\t", 10: r"\n", 13: r"\r"}.get(code, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
