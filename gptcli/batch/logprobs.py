"""Log-probabilities of tokens as JSON: in our own shape and in OpenAI's.

Natural logarithms under the model's own logits, before any filter.
"""

import codecs
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class TokenLogprob(NamedTuple):
    """A token, its log-probability, and the likeliest tokens in its place, best first."""

    id: int
    token: bytes
    logprob: float
    top: "tuple[TokenLogprob, ...]" = ()


def as_json(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """The shape of `generate --json --logprobs`."""
    return [{**_entry(entry), "top": [_entry(other) for other in entry.top]} for entry in logprobs]


def as_openai(logprobs: Sequence[TokenLogprob], count: int, end: int | None) -> dict[str, Any]:
    """OpenAI's four lists, one value for each token that begins before `end`.

    `text_offset` counts characters of the choice's text. With a `count` of 0 there are no
    alternatives; otherwise the chosen token is among them, as OpenAI's API has it.
    """
    offsets = _offsets(logprobs)
    kept = [
        (entry, at) for entry, at in zip(logprobs, offsets, strict=True) if end is None or at < end
    ]
    return {
        "tokens": [_name(entry.token) for entry, _ in kept],
        "token_logprobs": [_finite(entry.logprob) for entry, _ in kept],
        "top_logprobs": [_alternatives(entry) for entry, _ in kept] if count else None,
        "text_offset": [at for _, at in kept],
    }


def concatenated(
    before: Mapping[str, Any], starts_at: int, after: Mapping[str, Any], length: int
) -> dict[str, Any]:
    """The lists of a prompt of `length` characters, from `starts_at` on, and of what follows it."""
    tops = before["top_logprobs"], after["top_logprobs"]
    moved = ((before["text_offset"], starts_at), (after["text_offset"], length))
    return {
        "tokens": before["tokens"] + after["tokens"],
        "token_logprobs": before["token_logprobs"] + after["token_logprobs"],
        "top_logprobs": None if None in tops else tops[0] + tops[1],
        "text_offset": [at + more for offsets, more in moved for at in offsets],
    }


def text_length(logprobs: Sequence[TokenLogprob]) -> int:
    """The number of characters that the tokens decode to."""
    return len(b"".join(entry.token for entry in logprobs).decode("utf-8", errors="replace"))


def _alternatives(entry: TokenLogprob) -> dict[str, float | None] | None:
    if math.isnan(entry.logprob):
        return None  # the first token has no logits before it
    return {_name(other.token): _finite(other.logprob) for other in (*entry.top, entry)}


def _offsets(logprobs: Sequence[TokenLogprob]) -> list[int]:
    """Where each token's text begins; a token inside a character has the character's beginning."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offsets, length = [], 0
    for entry in logprobs:
        offsets.append(length)
        length += len(decoder.decode(entry.token))
    return offsets


def _entry(entry: TokenLogprob) -> dict[str, Any]:
    text = entry.token.decode("utf-8", errors="backslashreplace")
    return {"id": entry.id, "text": text, "logprob": _finite(entry.logprob)}


def _name(token: bytes) -> str:
    """The token's text; bytes that are not UTF-8 are spelled as OpenAI spells them."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
