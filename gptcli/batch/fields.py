"""Check and convert the fields of a batch record.

A new field needs a function here, a name in `REQUEST_FIELDS` and an attribute of
`gptcli.batch.request.Record`.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NoReturn

from gptcli.batch.job import MAX_SAMPLES
from gptcli.core.errors import UsageError
from gptcli.core.escape import described, shown
from gptcli.core.options import SEEDS
from gptcli.core.suggest import nearest
from gptcli.sampling.params import CONSTRAINTS, SamplingParams

SAMPLING_FIELDS = tuple(f.name for f in fields(SamplingParams))
MAX_TOP_LOGPROBS = 20
_ALIASES = {"max_tokens": "max_new_tokens", "max_length": "max_new_tokens", "n": "num_samples"}
REQUEST_FIELDS = (*SAMPLING_FIELDS, "special", "stop", "num_samples", "seed", "logprobs")


class BadRecordError(Exception):
    """An invalid record: only this record fails, not the job."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


def refuse_type(name: str, expected: str, value: object) -> NoReturn:
    """Raise the error of a value of another type: `name: expected text, got a list`."""
    raise BadRecordError("wrong_type", f"{name}: expected {expected}, got {described(value)}")


def refuse_unknown(request: Mapping[str, Any], known: tuple[str, ...], where: str = "") -> None:
    """Refuse the first unknown field, and suggest the nearest known one."""
    for name in request:
        if name not in known:
            near = nearest(name, known, _ALIASES)
            lacking = "prompt" in known and "prompt" not in request
            meant = f' (did you mean "{near}"?)' if near else ""
            meant = meant or (', and no field "prompt"' if lacking else "")
            raise BadRecordError(
                "unknown_field", f'unknown field "{where}{shown(name, 60)}"{meant}'
            )


def require_unicode(name: str, text: str) -> None:
    r"""Refuse lone surrogates, which JSON's \ud800 gives."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"a lone surrogate, U+{ord(text[error.start]):04X} at character {error.start + 1:,}"
        raise BadRecordError("not_unicode", f"{name}: not valid Unicode ({found})") from None


def parse_params(
    given: Mapping[str, Any], default: SamplingParams, recommended: Mapping[str, float]
) -> SamplingParams:
    """The job's sampling parameters, changed by those of the record; then the recommended ones."""
    changes = {name: given[name] for name in SAMPLING_FIELDS if name in given}
    # A record's constraint replaces the job's, whatever its kind.
    if any(changes.get(name) for name in CONSTRAINTS):
        changes = {"json_schema": None, "regex": None, "choices": (), "grammar": None, **changes}
    if changes.get("choices", ()) is None:
        changes["choices"] = ()
    if "logit_bias" in changes:
        changes["logit_bias"] = _biases(changes["logit_bias"])
    if type(changes.get("ignore_eos", False)) is not bool:
        refuse_type("ignore_eos", "true or false", changes["ignore_eos"])
    try:
        params = replace(default, **changes) if changes else default
    except UsageError as error:
        name = error.where.lstrip("-").replace("-", "_")
        raise BadRecordError("wrong_value", f"{name}: {error.problem}") from None
    others = {name: value for name, value in recommended.items() if name not in changes}
    return params.with_recommended(others)


def parse_special(given: Mapping[str, Any], default: bool) -> bool:
    """Whether special tokens spelled in the prompt are read as such."""
    value = given.get("special", default)
    if type(value) is not bool:
        refuse_type("special", "true or false", value)
    return value


def parse_stop(given: Mapping[str, Any], default: tuple[str, ...]) -> tuple[str, ...]:
    """The stop strings: one, a list, or null for none."""
    value = given.get("stop", list(default))
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        refuse_type("stop", "a text or a list of texts, none of them empty", value)
    for stop in stops:
        require_unicode("stop", stop)
    return tuple(stops)


def parse_num_samples(given: Mapping[str, Any], default: int) -> int:
    """The number of samples."""
    return _integer("num_samples", given.get("num_samples", default), 1, MAX_SAMPLES)


def parse_seed(given: Mapping[str, Any]) -> int | None:
    """The record's own seed."""
    value = given.get("seed")
    return None if value is None else _integer("seed", value, 0, SEEDS - 1)


def parse_logprobs(given: Mapping[str, Any], most: int = MAX_TOP_LOGPROBS) -> int | None:
    """Alternatives reported with each log-probability; None: no log-probabilities."""
    value = given.get("logprobs")
    return None if value is None else _integer("logprobs", value, 0, most)


def _integer(name: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        expected = f"an integer from {least} to {most}"
        raise BadRecordError("wrong_value", f"{name}: expected {expected}, got {described(value)}")
    return value


def _biases(value: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, dict):
        refuse_type("logit_bias", "an object of ids and numbers", value)
    return tuple((_token(id), _bias(bias)) for id, bias in value.items())


def _token(id: str) -> int:
    if not (id.isascii() and id.isdigit() and len(id) < 10):
        raise BadRecordError("wrong_value", f'logit_bias: "{shown(id, 60)}" is not a token id')
    return int(id)


def _bias(value: object) -> float:
    if value == "-inf":
        return -math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse_type("logit_bias", 'a number or "-inf"', value)
    return value
