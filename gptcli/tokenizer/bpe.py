"""Byte-level BPE as merges describe it, in the terms of tiktoken: one rank for each token.

A list of merges says which pairs may be joined, and in which order; tiktoken joins any two
neighbours whose bytes together have a rank, lowest first. The two agree for a vocabulary exactly
when each token's own bytes fall into the pair of its merge just before that merge, which is what
is checked here: then no text whatever can be joined in another way. Knows no files.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import pairwise

from gptcli.core.escape import shown

MAX_TOKEN_BYTES = 1024

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)

# GPT-2 writes a token as text with one printable letter a byte; these are the bytes in the order
# of GPT-2's first 256 ids.
BYTE_OF_LETTER: Mapping[str, int] = {
    **{chr(byte): byte for byte in _PRINTABLE},
    **{chr(256 + i): byte for i, byte in enumerate(_OTHERS)},
}

# The same for `str.translate`; a Latin-1 letter that is none of them becomes one that cannot be.
_BYTES = {**dict.fromkeys(range(256), 0x100), **{ord(k): v for k, v in BYTE_OF_LETTER.items()}}

# SHA-256 of GPT-2's own merges, a line each: known to be sound, and most models have them.
GPT2_MERGES = "04e3597d7996f292ca9b8b7285ca4d58a6ae171ac47d73fc7140ceb0c7a6bbc0"


class MergeError(ValueError):
    """Merges that tiktoken's ranks cannot reproduce, or that are no BPE at all."""


def token_bytes(letters: str) -> bytes:
    """The bytes that GPT-2's letters stand for.

    Raises:
        MergeError: a letter stands for none.
    """
    try:
        return letters.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:
        raise MergeError("a letter stands for no byte") from None


def ranks_of_merges(merges: Sequence[tuple[str, str]]) -> dict[bytes, int]:
    """Merges, first to last, as letters → rank of each token: the bytes first, then the merges.

    Raises:
        MergeError: names the merge by its number, counted from 1.
    """
    ranks = {bytes([byte]): rank for rank, byte in enumerate(BYTE_OF_LETTER.values())}
    if sha256("\n".join(map(" ".join, merges)).encode(errors="replace")).hexdigest() == GPT2_MERGES:
        ranks.update((token_bytes(left + right), 256 + i) for i, (left, right) in enumerate(merges))
        return ranks
    halves: dict[bytes, tuple[bytes, bytes]] = {}
    for number, pair in enumerate(merges, 1):
        try:
            left, right = token_bytes(pair[0]), token_bytes(pair[1])
            _check(left, right, ranks, halves)
        except MergeError as error:
            raise MergeError(f"merge {number:,} ({shown(' '.join(pair))}): {error}") from None
        ranks[left + right] = len(ranks)
        halves[left + right] = (left, right)
    return ranks


def _check(
    left: bytes,
    right: bytes,
    ranks: Mapping[bytes, int],
    halves: Mapping[bytes, tuple[bytes, bytes]],
) -> None:
    token = left + right
    if left not in ranks or right not in ranks:
        raise MergeError("joins a token that no earlier merge makes")
    if token in ranks:
        raise MergeError("makes a token that an earlier merge makes")
    if len(token) > MAX_TOKEN_BYTES:
        raise MergeError(f"makes a token of {len(token):,} bytes (at most {MAX_TOKEN_BYTES:,})")
    if not _stays_apart(left, right, ranks, halves):
        raise MergeError("tiktoken's BPE joins these bytes in another way")


def _stays_apart(
    left: bytes,
    right: bytes,
    ranks: Mapping[bytes, int],
    halves: Mapping[bytes, tuple[bytes, bytes]],
) -> bool:
    """Whether BPE on the bytes of left + right never joins across the border between the two.

    Goes back in time: undoes the latest merge beside the border, and asks whether what then
    touches there would have been joined before that merge. Among equal ranks the leftmost pair is
    joined first, hence the one more where the right half is undone.
    """
    while len(left) > 1 or len(right) > 1:
        # A byte's rank is below every merge's, so the longer history is undone first.
        if ranks[left] > ranks[right]:
            before = ranks[left]
            left = halves[left][1]
        else:
            before = ranks[right] + 1
            right = halves[right][0]
        if ranks.get(left + right, before) < before:
            return False
    return True


def in_order(ids: Sequence[int]) -> bool:
    """Whether ids rise from each to the next, so that they can serve as ranks."""
    return all(a < b for a, b in pairwise(ids))
