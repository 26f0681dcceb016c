"""Log-probabilities of a text's tokens, in the shape of our own records and in OpenAI's.

They are natural logarithms, under the model's own logits, before any filter.
"""

import codecs
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Score(NamedTuple):
    """A token, its log-probability, and the likeliest in its place with theirs, best first."""

    id: int
    token: bytes
    logprob: float
    top: "tuple[Score, ...]" = ()


def as_ours(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """As `generate --json --logprobs` has them."""
    return [{**_entry(score), "top": [_entry(other) for other in score.top]} for score in scores]


def as_openai(scores: Sequence[Score], count: int, end: int | None) -> dict[str, Any]:
    """OpenAI's four lists, a value a token; those that begin at or past `end` are left out.

    `text_offset` counts characters of the choice's text. With a `count` of 0 there are no
    alternatives; otherwise the chosen token is among them, as the protocol has it.
    """
    offsets = _offsets(scores)
    kept = [
        (score, at) for score, at in zip(scores, offsets, strict=True) if end is None or at < end
    ]
    return {
        "tokens": [_name(score.token) for score, _ in kept],
        "token_logprobs": [_finite(score.logprob) for score, _ in kept],
        "top_logprobs": [_alternatives(score) for score, _ in kept] if count else None,
        "text_offset": [at for _, at in kept],
    }


def joined(
    before: Mapping[str, Any], starts_at: int, after: Mapping[str, Any], length: int
) -> dict[str, Any]:
    """Two of them as one: what is scored of a text of `length` characters, and what follows it."""
    tops = before["top_logprobs"], after["top_logprobs"]
    moved = ((before["text_offset"], starts_at), (after["text_offset"], length))
    return {
        "tokens": before["tokens"] + after["tokens"],
        "token_logprobs": before["token_logprobs"] + after["token_logprobs"],
        "top_logprobs": None if None in tops else tops[0] + tops[1],
        "text_offset": [at + more for offsets, more in moved for at in offsets],
    }


def characters(scores: Sequence[Score]) -> int:
    """The number of characters that the tokens decode to."""
    return len(b"".join(score.token for score in scores).decode("utf-8", errors="replace"))


def _alternatives(score: Score) -> dict[str, float | None] | None:
    if math.isnan(score.logprob):
        return None  # the first token has no logits before it
    return {_name(other.token): _finite(other.logprob) for other in (*score.top, score)}


def _offsets(scores: Sequence[Score]) -> list[int]:
    """Where each token begins; one that continues a character, where that does."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offsets, length = [], 0
    for score in scores:
        offsets.append(length)
        length += len(decoder.decode(score.token))
    return offsets


def _entry(score: Score) -> dict[str, Any]:
    text = score.token.decode("utf-8", errors="backslashreplace")
    return {"id": score.id, "text": text, "logprob": _finite(score.logprob)}


def _name(token: bytes) -> str:
    """Its text; bytes that are none are spelt as OpenAI spells them."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
