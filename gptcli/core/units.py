"""Format and parse byte sizes; format counts."""

import re

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown

_SIZES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(?:([kmgt])(i?)b?|b)?", re.ASCII | re.IGNORECASE)
_POWERS = "kmgt"


def bytes_text(count: float, unit: str | None = None, digits: int = 1) -> str:
    """`5.9 GiB`, `621.8 MiB`, `12 bytes`; `unit` fixes the unit, for sizes in a table."""
    unit = unit or next((name for name, size in _SIZES.items() if count >= size), None)
    if unit is None:
        return plural(round(count), "byte")
    return f"{count / _SIZES[unit]:,.{digits}f} {unit}"


def parse_bytes(text: str, field: str) -> int:
    """Parse `8GB` (10^9), `8gib` (2^30), `512 M` or `1000000` → bytes.

    Raises:
        UsageError: not a size; `where` is `field`.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        hint = "For example 8GB, 512MB or 1.5GiB"
        raise UsageError(field, f'expected a size, got "{shown(text)}"', hint)
    base = 1024 if match[3] else 1000
    power = _POWERS.index(match[2].lower()) + 1 if match[2] else 0
    return int(float(match[1]) * base**power)


def plural(count: int, noun: str) -> str:
    """`1 tensor`, `1,234 tensors`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
