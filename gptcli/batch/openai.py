"""OpenAI's batch format for /v1/completions: translate requests to records, and answers back.

`created` is 0 and ids are line numbers, so that equal jobs write equal bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gptcli.batch.fields import (
    REQUEST_FIELDS,
    BadRecordError,
    parse_logprobs,
    refuse_type,
    refuse_unknown,
)
from gptcli.batch.job import OpenAIDefaults
from gptcli.core.escape import shown

_REQUEST = ("custom_id", "method", "url", "body")
URL = "/v1/completions"
_RENAMED = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "n": "num_samples"}
_OWN_FIELDS = ("prompt", *REQUEST_FIELDS)
_IGNORED = ("model", "user")  # they change nothing here
# Not supported: any other value is refused, because it would be ignored.
_FIXED = {"suffix": (None, ""), "stream": (None, False), "best_of": (None, 1)}
_MAX_LOGPROBS = 5
_BODY = (*_OWN_FIELDS, *_RENAMED, *_IGNORED, *_FIXED, "echo", "response_format")


def is_request(record: Mapping[str, Any]) -> bool:
    """Whether a record has OpenAI's form."""
    return "custom_id" in record or "body" in record


def to_record(
    request: Mapping[str, Any], defaults: OpenAIDefaults | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request → the fields of a record, and what its response will repeat.

    Raises:
        BadRecordError: another endpoint, or an unknown or unsupported field.
    """
    refuse_unknown(request, _REQUEST)
    _require_endpoint(request)
    body = request.get("body")
    if not isinstance(body, dict):
        refuse_type("body", "an object", body)
    refuse_unknown(body, _BODY, "body.")
    for name, allowed in _FIXED.items():
        if body.get(name) not in allowed:
            raise BadRecordError("unsupported", f"body.{name}: not supported")
    parse_logprobs(body, _MAX_LOGPROBS)  # OpenAI's limit is lower than ours
    given = {name: value for name, value in body.items() if value is not None}
    fields = {
        _RENAMED.get(name, name): given[name] for name in given if name in (*_OWN_FIELDS, *_RENAMED)
    }
    if "prompt" in fields:
        fields["prompt"] = _single(fields["prompt"])
    if (form := given.get("response_format")) is not None:
        fields["json_schema"] = _schema(form)
    fields = {**asdict(defaults), **fields} if defaults else fields
    model = body.get("model")
    return fields, {
        "model": model if isinstance(model, str) else "gptcli",
        "echo": body.get("echo") is True,
    }


def response(
    line: int,
    request: Mapping[str, Any],
    prompt: str,
    samples: Sequence[Mapping[str, Any]],
    prompt_tokens: int,
) -> dict[str, Any]:
    """The response to a request that succeeded.

    `samples` are in our own shape, but their `logprobs` in OpenAI's.
    """
    new = sum(sample["new_tokens"] for sample in samples)
    choices = [
        {
            "index": index,
            "text": (prompt if request["echo"] else "") + sample["completion"],
            "logprobs": sample.get("logprobs"),
            "finish_reason": "stop" if sample["finish_reason"] == "stop" else "length",
        }
        for index, sample in enumerate(samples)
    ]
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new,
        "total_tokens": prompt_tokens + new,
    }
    body = {
        "id": f"cmpl-{line}",
        "object": "text_completion",
        "created": 0,
        "model": request["model"],
        "choices": choices,
        "usage": usage,
    }
    return {"status_code": 200, "request_id": f"req-{line}", "body": body}


def error_response(line: int, code: str, message: str) -> dict[str, Any]:
    """The response to a request that failed."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return {"status_code": 400, "request_id": f"req-{line}", "body": {"error": error}}


def _require_endpoint(request: Mapping[str, Any]) -> None:
    url, method = request.get("url", URL), request.get("method", "POST")
    if url != URL:
        raise BadRecordError("unsupported", f'url: expected {URL}, got "{shown(url, 60)}"')
    if method != "POST":
        raise BadRecordError("unsupported", f'method: expected POST, got "{shown(method, 60)}"')


def _schema(form: object) -> Any:
    """The JSON schema of a `response_format`; None for plain text."""
    form = form if isinstance(form, dict) else {}
    kind = form.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        problem = "expected type text, json_object or json_schema"
        raise BadRecordError("unsupported", f"response_format: {problem}")
    named = form.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise BadRecordError(
            "wrong_type", "response_format: expected json_schema.schema, an object"
        )
    return schema


def _single(prompt: object) -> object:
    """The prompt in a list of one prompt; several are refused."""
    if not isinstance(prompt, list) or not prompt or not isinstance(prompt[0], str | list):
        return prompt
    if len(prompt) > 1:
        found = f"{len(prompt)} prompts, expected one text or one list of token ids"
        raise BadRecordError("unsupported", f"prompt: several in one request ({found})")
    return prompt[0]
