"""SamplingParams: the sampling options, with defaults and limits."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from gptcli.core.errors import UsageError
from gptcli.core.escape import described, shown
from gptcli.core.files import decode_utf8, read_bounded
from gptcli.core.options import Option, check

# Below this temperature only the best token would have a weight anyway.
GREEDY_BELOW = 1e-5
MOST_BIAS = 1000  # as the limits of penalties: keeps logits in the range of float32
MOST_GRAMMAR_BYTES = 1 << 20
SAMPLING, STOPPING, FORM = "Sampling", "Length and stopping", "Constrained output"
CONSTRAINTS = ("json_schema", "regex", "choices", "grammar")


class Constraint(NamedTuple):
    """The one constraint field that is set, and its value."""

    kind: str
    source: str | tuple[str, ...]


def parse_bias(text: str) -> tuple[int, float]:
    """`50256=-inf` → token id and bias.

    Raises:
        UsageError: the text is not ID=NUMBER.
    """
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise UsageError("logit_bias", f'must be ID=NUMBER, got "{shown(text, 60)}"') from None


def read_schema(text: str) -> str:
    """A JSON schema, or the path of a file that holds one → the schema's text."""
    return text if text.lstrip().startswith("{") else read_grammar(text)


def read_grammar(path: str) -> str:
    """The text of a file.

    Raises:
        InputError: it cannot be read, is too large or is not UTF-8.
    """
    return decode_utf8(read_bounded(Path(path), MOST_GRAMMAR_BYTES), path)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a token is sampled.

    Bias, penalties and bans apply first, then temperature and filters, in the order of the fields.
    At most one of the last four fields constrains the completion (`gptcli.sampling.constraint`).

    Attributes:
        temperature: divides the logits; below 1e-5 sampling is greedy.
        top_k: how many of the likeliest tokens are kept; None keeps all.
        typical_p: keeps the tokens whose -log p is closest to the entropy (Meister et al., 2022);
            the only filter that may drop the likeliest token.
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt or
            completion (Keskar et al., 2019).
        frequency_penalty: is subtracted once for each occurrence in the completion.
        logit_bias: (id, bias) pairs; a bias of -inf bans the token.
        json_schema: the completion is JSON that this schema allows; its text or its value.
        regex: the completion matches this regular expression, in Rust's syntax.
        choices: the completion is one of these.
        grammar: the completion is in the language of this Lark grammar.

    Raises:
        UsageError: a value of the wrong type or out of range; `where` is the field.
    """

    max_new_tokens: Annotated[
        int, Option("Stop after N tokens.", STOPPING, short="-n", metavar="N", ge=0)
    ] = 400
    temperature: Annotated[
        float,
        Option(
            "Divides the logits; 0 is greedy. For the built-in model 0.6.",
            SAMPLING,
            short="-t",
            metavar="X",
            ge=0,
        ),
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
            "Weaken tokens already in prompt or text; 1 is off. For the built-in model 1.15.",
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
    json_schema: Annotated[
        str | Mapping[str, Any] | None,
        Option("Write JSON that this schema allows.", FORM, metavar="FILE|JSON", parse=read_schema),
    ] = None
    regex: Annotated[
        str | None, Option("Write text that matches this.", FORM, metavar="PATTERN")
    ] = None
    choices: Annotated[
        tuple[str, ...],
        Option(
            "Write this text, or another choice. Repeatable.", FORM, name="choice", metavar="TEXT"
        ),
    ] = ()
    grammar: Annotated[
        str | None,
        Option("Write text of this Lark grammar.", FORM, metavar="FILE", parse=read_grammar),
    ] = None

    def __post_init__(self) -> None:
        check(self)
        self._check_constraint()
        for pair in self.logit_bias:
            _check_bias(pair)
        if self.min_new_tokens > self.max_new_tokens:
            words = f"at most `max_new_tokens` ({self.max_new_tokens})"
            raise UsageError("min_new_tokens", f"must be {words}, got {self.min_new_tokens}")

    @property
    def constraint(self) -> "Constraint | None":
        """The constraint on the completion; None if there is none."""
        return next(self._constraints(), None)

    @property
    def greedy(self) -> bool:
        """Whether the token with the greatest logit is taken, and nothing is drawn."""
        return self.temperature < GREEDY_BELOW

    def with_recommended(self, values: Mapping[str, Any]) -> "SamplingParams":
        """With a model's recommended values; they are for drawing, so greedy params stay."""
        return self if self.greedy or not values else replace(self, **values)

    @property
    def penalizes(self) -> bool:
        """Whether bias, penalties or bans may change the logits."""
        return bool(
            self.logit_bias
            or self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.no_repeat_ngram
            or self.min_new_tokens
        )

    def _constraints(self) -> Iterator[Constraint]:
        if isinstance(self.json_schema, str):
            yield Constraint("json_schema", self.json_schema)
        elif self.json_schema is not None:
            yield Constraint("json_schema", json.dumps(self.json_schema))
        if self.regex is not None:
            yield Constraint("regex", self.regex)
        if self.choices:
            yield Constraint("choices", tuple(self.choices))
        if self.grammar is not None:
            yield Constraint("grammar", self.grammar)

    def _check_constraint(self) -> None:
        given = list(self._constraints())
        if len(given) > 1:
            raise UsageError(given[1].kind, f"cannot be used together with `{given[0].kind}`")
        if given:
            from gptcli.sampling.constraint import check_compiles  # noqa: PLC0415  # 0.1 s

            check_compiles(given[0])


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
