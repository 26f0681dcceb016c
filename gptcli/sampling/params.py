"""SamplingParams: how tokens are chosen, with every default and allowed range."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown

# Below this a division by the temperature would leave nothing but the best token anyway.
GREEDY_BELOW = 1e-5


class _Range(NamedTuple):
    """What a field may hold: `words` finish the sentence "must be …"."""

    words: str
    holds: Callable[[float], bool]
    whole: bool = False
    optional: bool = False


_COUNT = _Range("an integer >= 0", lambda x: x >= 0, whole=True)
# Bounds that nobody meets, so that no product of a penalty leaves float32.
_AMOUNT = _Range("a number >= -100 and <= 100", lambda x: abs(x) <= 100)
MOST_BIAS = 1000
_MASS = _Range("a number > 0 and <= 1", lambda x: 0 < x <= 1, optional=True)
_RANGES = {
    "max_new_tokens": _COUNT,
    "temperature": _Range("a finite number >= 0", lambda x: 0 <= x < math.inf),
    "top_k": _Range("an integer >= 1", lambda x: x >= 1, whole=True, optional=True),
    "top_p": _MASS,
    "min_p": _Range("a number >= 0 and <= 1", lambda x: 0 <= x <= 1, optional=True),
    "typical_p": _MASS,
    "repetition_penalty": _Range("a number >= 0.01 and <= 100", lambda x: 0.01 <= x <= 100),
    "presence_penalty": _AMOUNT,
    "frequency_penalty": _AMOUNT,
    "no_repeat_ngram": _COUNT,
    "min_new_tokens": _COUNT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """From logits to a token: penalties and bans first, then the filters in the order below.

    Attributes:
        max_new_tokens: stop after this many.
        temperature: divides the logits; below 1e-5 the best token is taken (greedy).
        top_k: keep exactly this many of the best tokens; None keeps all.
        top_p: keep the fewest best tokens whose probabilities sum to this; None keeps all.
        min_p: keep tokens at least this fraction as probable as the best; None keeps all.
        typical_p: keep the fewest tokens closest to the expected surprise whose
            probabilities sum to this; the only filter that may drop the best token.
        repetition_penalty: divides positive and multiplies negative logits of tokens already
            in prompt or completion; 1 is off.
        presence_penalty: taken from the logit of every token already in the completion.
        frequency_penalty: the same, once for each time it is there.
        no_repeat_ngram: no run of this many tokens occurs twice; 0 is off.
        logit_bias: (id, bias) pairs added to the logits; a bias of -inf bans the token.
        min_new_tokens: the end-of-text token is banned until there are this many.
        ignore_eos: the end-of-text token does not end the completion.

    Raises:
        UsageError: a value out of range; `where` is the option, `--top-p`.
    """

    max_new_tokens: int = 400
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = 0.95
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_new_tokens: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if (allowed := _RANGES.get(field.name)) is not None:
                _check(field.name, getattr(self, field.name), allowed)
        for pair in self.logit_bias:
            _check_bias(pair)
        if self.min_new_tokens > self.max_new_tokens:
            words = f"at most --max-new-tokens ({self.max_new_tokens})"
            raise _out_of_range("min_new_tokens", words, self.min_new_tokens)

    @property
    def greedy(self) -> bool:
        """Whether the best token is taken and nothing is drawn."""
        return self.temperature < GREEDY_BELOW

    @property
    def penalizes(self) -> bool:
        """Whether anything but the filters can change the logits."""
        return bool(
            self.logit_bias
            or self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.no_repeat_ngram
            or self.min_new_tokens
        )


def _check(name: str, value: object, allowed: _Range) -> None:
    if value is None and allowed.optional:
        return
    right_type = isinstance(value, int) if allowed.whole else isinstance(value, int | float)
    if not right_type or isinstance(value, bool) or not allowed.holds(value):  # type: ignore[arg-type]
        raise _out_of_range(name, allowed.words, value)


def _check_bias(pair: tuple[int, float]) -> None:
    token, bias = pair
    if isinstance(token, bool) or not isinstance(token, int) or token < 0:
        raise _out_of_range("logit_bias", "for a token id >= 0", token)
    if isinstance(bias, bool) or not isinstance(bias, int | float):
        raise _out_of_range("logit_bias", "a number", bias)
    if bias != -math.inf and not abs(bias) <= MOST_BIAS:
        words = f"a number >= -{MOST_BIAS} and <= {MOST_BIAS}, or -inf"
        raise _out_of_range("logit_bias", words, bias)


def _out_of_range(name: str, words: str, value: object) -> UsageError:
    return UsageError("--" + name.replace("_", "-"), f"must be {words}, got {shown(value)}")
