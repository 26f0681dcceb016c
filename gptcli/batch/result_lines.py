"""Write and parse the lines of a batch's output: a header, then one line per record, in ASCII JSON.

Equal jobs write equal lines.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptcli.batch import openai
from gptcli.batch.job import FORMAT, JobSpec, Shard
from gptcli.batch.logprobs import TokenLogprob, as_json, as_openai, concatenated, text_length
from gptcli.batch.request import Failure, Record
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.version import __version__

HEADER_BEGINS = b'{"gptcli": "batch", '
# Keys of the header that must agree, in the order in which differences are reported.
_IDENTITY = ("config", "weights", "tokenizer", "dtype", "machine", "shard", "version", "format")


@dataclass(frozen=True, slots=True)
class Sample:
    """One completed sample; `ids` and `logprobs` without the end-of-text token.

    `logprobs` is None where none were asked for.
    """

    text: str
    ids: Sequence[int]
    finish_reason: str
    stop: str | None
    logprobs: Sequence[TokenLogprob] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a record.

    `truncated` counts the tokens cut from the prompt's beginning; `prompt_logprobs` has an entry
    for each of `prompt_ids`, or is None where none were asked for.
    """

    record: Record
    prompt: str
    prompt_ids: Sequence[int]
    truncated: int
    samples: Sequence[Sample]
    prompt_logprobs: Sequence[TokenLogprob] | None = None


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """A line of an existing output."""

    line: int
    sha256: str
    is_ok: bool
    data: bytes
    value: Mapping[str, Any]


def header(spec: JobSpec, identity: Mapping[str, Any]) -> bytes:
    """The first line: version, model and options."""
    value = {
        "gptcli": "batch",
        "format": spec.format,
        "version": __version__,
        **identity,
        "shard": None if spec.shard is None else str(spec.shard),
        "options": spec.options(),
    }
    return _line(value)


def read_header(data: bytes, name: str) -> dict[str, Any]:
    """Parse the first line of an output.

    Raises:
        InputError: it is not one.
    """
    value = _object(data)
    if (
        value is None
        or value.get("gptcli") != "batch"
        or not isinstance(value.get("options"), dict)
    ):
        raise InputError(name, "its first line is not a gptcli batch header")
    return value


def spec_of(header: Mapping[str, Any], name: str) -> JobSpec:
    """The options in a header.

    Raises:
        InputError: another version of gptcli wrote the header, or it was edited.
    """
    format = header.get("format")
    if type(format) is not int or not 1 <= format <= FORMAT:
        found = f"its header has an unknown format ({shown(format, 60)}, expected 1 to {FORMAT})"
        raise InputError(name, found, "A newer version of gptcli may have written it")
    try:
        shard = Shard.parse(header["shard"]) if header.get("shard") else None
        return JobSpec.of(header["options"], shard, format)
    except (UsageError, TypeError, ValueError, KeyError, AttributeError):
        raise InputError(name, "the options in its header cannot be used") from None


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """How a header differs from the expected one, a phrase each; empty if they are of one job."""
    phrases = []
    for key in _IDENTITY:
        if key == "machine" and ("machine" in found) != ("machine" in expected):
            phrases.append(f"{_engine(found)} instead of {_engine(expected)}")
        elif found.get(key) != expected.get(key):
            values = f"{_brief(found.get(key))} instead of {_brief(expected.get(key))}"
            phrases.append(f"other {key} ({values})")
    # A header of an older version lacks newer options; it then did what today's default does.
    defaults = {**JobSpec().options(), "openai": None}
    given, wanted = ({**defaults, **header.get("options", {})} for header in (found, expected))
    for key in dict.fromkeys((*given, *wanted)):
        if given.get(key) != wanted.get(key):
            option = "OpenAI defaults" if key == "openai" else f"`{key}`"
            phrases.append(
                f"{option} {_brief(given.get(key))} instead of {_brief(wanted.get(key))}"
            )
    return phrases


def _engine(header: Mapping[str, Any]) -> str:
    """The engine that a header was written by: only PyTorch's results depend on the machine."""
    machine = header.get("machine")
    return "the native engine" if machine is None else f"PyTorch ({_brief(machine)})"


def render(result: Answer | Failure, spec: JobSpec) -> bytes:
    """The output line of one record."""
    return _failed(result) if isinstance(result, Failure) else _answered(result, spec)


def read_result(data: bytes) -> RecordedAnswer | None:
    """Parse an output line, given without its newline; None if it is not one."""
    value = _object(data)
    if value is None:
        return None
    line, digest, status = value.get("line"), value.get("input_sha256"), value.get("status")
    if type(line) is not int or not isinstance(digest, str) or status not in {"ok", "error"}:
        return None
    return RecordedAnswer(line, digest, status == "ok", data + b"\n", value)


def _answered(answer: Answer, spec: JobSpec) -> bytes:
    record = answer.record
    value = _common_keys(record, "ok")
    samples = [_sample(sample, answer, spec.ids) for sample in answer.samples]
    if spec.echo:
        value["request"] = record.request
    if answer.truncated:
        value["truncated"] = answer.truncated
    if record.openai is not None:
        count = len(answer.prompt_ids)
        value["response"] = openai.response(
            record.line, record.openai, answer.prompt, samples, count
        )
        value["error"] = None
        return _line(value)
    value["prompt_tokens"] = len(answer.prompt_ids)
    value.update({"samples": samples} if record.num_samples > 1 else samples[0])
    return _line(value)


def _failed(failure: Failure) -> bytes:
    value = _common_keys(failure, "error")
    if failure.is_openai:
        value["response"] = openai.error_response(failure.line, failure.code, failure.message)
    value["error"] = {"code": failure.code, "message": failure.message}
    return _line(value)


def _common_keys(record: Record | Failure, status: str) -> dict[str, Any]:
    common = {"status": status, "input_sha256": record.sha256}
    if record.is_openai:
        ids = {"id": f"batch_req_{record.line}", "custom_id": record.id}
        return {"line": record.line, **ids, **common}
    return {"line": record.line, "id": record.line if record.id is None else record.id, **common}


def _sample(sample: Sample, answer: Answer, with_ids: bool) -> dict[str, Any]:
    value: dict[str, Any] = {
        "completion": sample.text,
        "finish_reason": sample.finish_reason,
        "new_tokens": len(sample.ids),
    }
    if sample.stop is not None:
        value["stop"] = sample.stop
    if with_ids:
        value["ids"] = list(sample.ids)
    if sample.logprobs is not None:
        if answer.record.is_openai:
            value["logprobs"] = _openai_logprobs(sample, answer)
        else:
            value["logprobs"] = as_json(sample.logprobs)
    return value


def _openai_logprobs(sample: Sample, answer: Answer) -> dict[str, Any]:
    """OpenAI's shape, the echoed prompt's first."""
    count = answer.record.logprobs or 0
    end = None if sample.stop is None else len(sample.text)
    new = as_openai(sample.logprobs or (), count, end)
    if answer.prompt_logprobs is None:
        return new
    prompt = as_openai(answer.prompt_logprobs, count, None)
    # The beginning of a truncated prompt has no tokens any more.
    starts_at = max(0, len(answer.prompt) - text_length(answer.prompt_logprobs))
    return concatenated(prompt, starts_at, new, len(answer.prompt))


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode("ascii") + b"\n"


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _brief(value: object) -> str:
    """A value of a header for a message, digests cut to 12 digits."""
    if isinstance(value, Mapping):
        return ", ".join(_brief(part) for part in value.values())
    text = shown(value, 60)
    kind, colon, digest = text.rpartition(":")
    is_digest = len(digest) == 64 and digest.isalnum()
    return f"{kind}{colon}{digest[:12]}" if is_digest else text
