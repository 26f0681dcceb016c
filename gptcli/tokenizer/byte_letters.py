"""The printable letters that byte-level BPE writes bytes with, as GPT-2 introduced them.

Vocabulary and merges files hold text, and a token may be any bytes. So each of the 256 bytes has
a letter: printable Latin-1 characters stand for themselves, the others for U+0100 and what follows.
"""

from collections.abc import Mapping

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)

# In the order of GPT-2's first 256 ids.
BYTE_OF_LETTER: Mapping[str, int] = {
    **{chr(byte): byte for byte in _PRINTABLE},
    **{chr(256 + i): byte for i, byte in enumerate(_OTHERS)},
}

# The same for `str.translate`; a Latin-1 letter that stands for no byte becomes one that cannot.
_BYTES = {**dict.fromkeys(range(256), 0x100), **{ord(k): v for k, v in BYTE_OF_LETTER.items()}}


def bytes_of(letters: str) -> bytes | None:
    """The bytes that letters stand for; None if one of them stands for no byte."""
    try:
        return letters.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:
        return None
