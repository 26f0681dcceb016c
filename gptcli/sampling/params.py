"""SamplingParams: how a token is drawn from the logits, with its limits and defaults."""

import math
from dataclasses import dataclass
from typing import Annotated

from gptcli.core.errors import UsageError
from gptcli.core.escape import described, shown
from gptcli.core.options import Option, check

# Below this a division by the temperature would leave nothing but the best token anyway.
GREEDY_BELOW = 1e-5
MOST_BIAS = 1000  # like the limits of penalties: no product may leave float32
SAMPLING, STOPPING = "Sampling", "Length and stopping"


def parse_bias(text: str) -> tuple[int, float]:
    """`"50256=-inf"` → token id and bias.

    Raises:
        UsageError: not ID=NUMBER.
    """
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise UsageError("logit_bias", f'must be ID=NUMBER, got "{shown(text, 60)}"') from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a token is drawn: bias, penalties and bans first, then the filters in this order.

    Attributes:
        temperature: below 1e-5 the best token is taken (greedy).
        top_k: exactly this many tokens are kept; None keeps all.
        typical_p: keeps the tokens closest to the expected surprise (Meister et al., 2022); the
            only filter that may drop the best token.
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt or
            completion (Keskar et al., 2019).
        frequency_penalty: times the number of occurrences in the completion.
        logit_bias: (id, bias) pairs; a bias of -inf bans the token.

    Raises:
        UsageError: a value of the wrong type or out of range; `where` is the field.
    """

    max_new_tokens: Annotated[
        int, Option("Stop after N tokens.", STOPPING, short="-n", metavar="N", ge=0)
    ] = 400
    temperature: Annotated[
        float,
        Option("Divides the logits; 0 is greedy.", SAMPLING, short="-t", metavar="X", ge=0),
    ] = 0.8
    top_k: Annotated[
        int | None, Option("Keep the K best tokens.", SAMPLING, short="-k", metavar="K", ge=1)
    ] = None
    top_p: Annotated[
        float | None,
        Option(
            "Keep the fewest tokens of this total probability; 1 is off.",
            SAMPLING,
            short="-p",
            metavar="P",
            gt=0,
            le=1,
        ),
    ] = 0.95
    min_p: Annotated[
        float | None,
        Option(
            "Keep tokens at least this probable, relative to the best.",
            SAMPLING,
            metavar="P",
            ge=0,
            le=1,
        ),
    ] = None
    typical_p: Annotated[
        float | None,
        Option(
            "Keep the most typical tokens of this total probability.",
            SAMPLING,
            metavar="P",
            gt=0,
            le=1,
        ),
    ] = None
    repetition_penalty: Annotated[
        float,
        Option(
            "Weaken tokens already in prompt or text; 1 is off.",
            SAMPLING,
            metavar="X",
            ge=0.01,
            le=100,
        ),
    ] = 1.0
    presence_penalty: Annotated[
        float,
        Option("Subtract from tokens already written.", SAMPLING, metavar="X", ge=-100, le=100),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Option("Subtract each time a token was written.", SAMPLING, metavar="X", ge=-100, le=100),
    ] = 0.0
    no_repeat_ngram: Annotated[
        int, Option("Never repeat a run of N tokens; 0 is off.", SAMPLING, metavar="N", ge=0)
    ] = 0
    logit_bias: Annotated[
        tuple[tuple[int, float], ...],
        Option(
            "Add to a token's logit; ID=-inf bans it. Repeatable.",
            SAMPLING,
            metavar="ID=X",
            parse=parse_bias,
        ),
    ] = ()
    min_new_tokens: Annotated[
        int, Option("No end of text before N tokens.", STOPPING, metavar="N", ge=0)
    ] = 0
    ignore_eos: Annotated[bool, Option("Write on past the end of text.", STOPPING)] = False

    def __post_init__(self) -> None:
        check(self)
        for pair in self.logit_bias:
            _check_bias(pair)
        if self.min_new_tokens > self.max_new_tokens:
            words = f"at most `max_new_tokens` ({self.max_new_tokens})"
            raise UsageError("min_new_tokens", f"must be {words}, got {self.min_new_tokens}")

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


def _check_bias(pair: object) -> None:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise _bad_bias("(id, bias) pairs", pair)
    token, bias = pair
    if isinstance(token, bool) or not isinstance(token, int) or token < 0:
        raise _bad_bias("for a token id >= 0", token)
    if isinstance(bias, bool) or not isinstance(bias, int | float):
        raise _bad_bias("a number", bias)
    if bias != -math.inf and not abs(bias) <= MOST_BIAS:
        raise _bad_bias(f"a number >= -{MOST_BIAS} and <= {MOST_BIAS}, or -inf", bias)


def _bad_bias(words: str, found: object) -> UsageError:
    value = shown(found) if type(found) in {int, float} else described(found)
    return UsageError("logit_bias", f"must be {words}, got {value}")
