"""Parse one line of a batch's input into a record, or into the failure that answers it.

A record is `{"prompt": ..., "id": ...}`, and may set any field of `SamplingParams`, `special`,
`stop`, `num_samples`, `seed` and `logprobs` for itself. An OpenAI batch request for /v1/completions
is translated into one. A bad line fails alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gptcli.batch import openai
from gptcli.batch.fields import (
    REQUEST_FIELDS,
    BadRecordError,
    parse_logprobs,
    parse_num_samples,
    parse_params,
    parse_seed,
    parse_special,
    parse_stop,
    refuse_type,
    refuse_unknown,
    require_unicode,
)
from gptcli.batch.id_table import IdTable
from gptcli.batch.input_check import hint_of
from gptcli.batch.io.lines import MAX_LINE, Line
from gptcli.batch.job import JobSpec
from gptcli.core.errors import GptcliError
from gptcli.core.escape import described
from gptcli.core.files import strict_json
from gptcli.sampling.params import SamplingParams

MAX_ID = 1024
_FIELDS = ("prompt", "id", *REQUEST_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request.

    Attributes:
        line: its number in the input.
        sha256: of the line.
        id: the caller's name for it, None without one.
        prompt: text, or token ids.
        special: whether special tokens spelled in the prompt are read as such.
        seed: the record's own, None for the job's. With its own the text is that of `generate`.
        draw_name: what its random draws depend on beside the seed; "" with its own seed.
        logprobs: alternatives reported with each token; None: no log-probabilities.
        openai: what a response in OpenAI's shape repeats; None for our own shape.
        request: the record as it was read.
    """

    line: int
    sha256: str
    id: str | int | None
    prompt: str | tuple[int, ...]
    params: SamplingParams
    draw_name: str = ""
    special: bool = False
    stop: tuple[str, ...] = ()
    num_samples: int = 1
    seed: int | None = None
    logprobs: int | None = None
    openai: Mapping[str, Any] | None = None
    request: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_openai(self) -> bool:
        """Whether the answer has OpenAI's shape."""
        return self.openai is not None

    @property
    def echoed_logprobs(self) -> int | None:
        """As `logprobs`, for the tokens of a prompt that the answer echoes."""
        echoes = self.openai is not None and self.openai["echo"]
        return self.logprobs if echoes and self.prompt else None

    def failure(self, code: str, message: str) -> "Failure":
        """A failure that answers this record."""
        return Failure(self.line, self.sha256, self.id, code, message, self.is_openai)


@dataclass(frozen=True, slots=True)
class Failure:
    """A line whose answer is an error, with a code for programs and a message for people."""

    line: int
    sha256: str
    id: str | int | None
    code: str
    message: str
    is_openai: bool = False


class RecordReader:
    """Parses lines in order; a record whose id came before fails."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._ids = IdTable() if spec.check_ids and spec.form != "text" else None

    def __call__(self, line: Line) -> Record | Failure | None:
        """None for a blank line and for one of another shard."""
        shard = self._spec.shard
        is_ours = shard is None or shard.holds(line.number)
        if line.is_blank or not (is_ours or self._ids is not None):
            return None
        parsed = self._check_id(parse(line, self._spec))
        return parsed if is_ours else None

    def _check_id(self, parsed: Record | Failure) -> Record | Failure:
        if self._ids is None or parsed.id is None:
            return parsed
        before = self._ids.add(str(parsed.id), parsed.line)
        if before is None:
            return parsed
        message = f"line {before} has the same id"
        return Failure(
            parsed.line, parsed.sha256, parsed.id, "duplicate_id", message, parsed.is_openai
        )


def parse(line: Line, spec: JobSpec) -> Record | Failure:
    """Parse one line; never raises."""
    id, shape = None, False
    try:
        text = _text(line)
        if spec.form == "text":
            return _record(line, spec, None, {"prompt": text})
        request = _object(text)
        shape = openai.is_request(request)
        id = _id(request.get("custom_id" if shape else "id"))
        if shape:
            given, answer = openai.to_record(request, spec.openai)
            return _record(line, spec, id, given, request=request, openai=answer)
        refuse_unknown(request, _FIELDS)
        return _record(line, spec, id, request)
    except BadRecordError as problem:
        return Failure(line.number, line.sha256, id, problem.code, problem.message, shape)


def _id(value: object) -> str | int | None:
    if value is None or (type(value) is int and abs(value) < 2**63):
        return value
    if not isinstance(value, str):
        refuse_type("id", "text or an integer", value)
    require_unicode("id", value)
    if not 0 < len(value) <= MAX_ID:
        found = f"{len(value):,}"
        raise BadRecordError("wrong_value", f"id: expected 1 to {MAX_ID} characters, got {found}")
    return value


def _text(line: Line) -> str:
    if line.size > MAX_LINE:
        found = f"{line.size:,} bytes, expected at most {MAX_LINE:,}"
        raise BadRecordError("line_too_long", f"the line is too long ({found})")
    try:
        return line.data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line.data[error.start]:02x} at {error.start}"
        raise BadRecordError("not_utf8", f"not UTF-8 ({byte})") from None


def _object(text: str) -> dict[str, Any]:
    try:
        value = strict_json(text, "record")
    except GptcliError as error:
        problem = error.problem.removeprefix("line 1: ") + hint_of(text)
        raise BadRecordError("invalid_json", problem) from None
    if not isinstance(value, dict):
        problem = f"expected a JSON object, got {described(value)}"
        raise BadRecordError("not_an_object", problem + hint_of(text))
    return value


def _record(
    line: Line,
    spec: JobSpec,
    id: str | int | None,
    given: Mapping[str, Any],
    **of_openai: Any,
) -> Record:
    seed = parse_seed(given)
    return Record(
        line=line.number,
        sha256=line.sha256,
        id=id,
        prompt=_prompt(given, spec),
        params=parse_params(given, spec.params, spec.recommended),
        special=parse_special(given, spec.special),
        stop=parse_stop(given, spec.stop),
        num_samples=parse_num_samples(given, spec.num_samples),
        seed=seed,
        draw_name=spec.draw_name(line.number, id) if seed is None else "",
        logprobs=parse_logprobs(given),
        **{"request": given, **of_openai},
    )


def _prompt(given: Mapping[str, Any], spec: JobSpec) -> str | tuple[int, ...]:
    if "prompt" not in given:
        raise BadRecordError("missing_prompt", 'no field "prompt"')
    prompt = given["prompt"]
    if isinstance(prompt, str):
        require_unicode("prompt", prompt)
    elif not (
        isinstance(prompt, list) and all(type(id) is int and 0 <= id < 2**31 for id in prompt)
    ):
        refuse_type("prompt", "text or a list of token ids", prompt)
    if not prompt and not spec.allow_empty:
        raise BadRecordError("empty_prompt", "the prompt is empty (see --allow-empty)")
    return prompt if isinstance(prompt, str) else tuple(prompt)
