"""The printable letters that stand for bytes in byte-level BPE (GPT-2's `bytes_to_unicode`).

Vocabulary and merges files hold text, but a token may be any bytes. So each of the 256 bytes has a
letter: a printable Latin-1 byte its own character, the others U+0100 and up.
"""

from collections.abc import Mapping

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)

# In the order of GPT-2's first 256 ids.
BYTE_OF_LETTER: Mapping[str, int] = {
    **{chr(byte): byte for byte in _PRINTABLE},
    **{chr(256 + i): byte for i, byte in enumerate(_OTHERS)},
}

# The same for `str.translate`; other Latin-1 letters become U+0100, which Latin-1 cannot encode.
_BYTES = {**dict.fromkeys(range(256), 0x100), **{ord(k): v for k, v in BYTE_OF_LETTER.items()}}


def bytes_of(letters: str) -> bytes | None:
    """The bytes that letters stand for; None if one of them stands for no byte."""
    try:
        return letters.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:
        return None
