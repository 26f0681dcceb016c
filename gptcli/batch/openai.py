"""OpenAI's batch format for /v1/completions: translate its requests, and our answers back.

`created` is 0 and ids are made of line numbers, so that equal jobs write equal bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gptcli.batch.fields import (
    OWN_FIELDS,
    BadRecordError,
    own_logprobs,
    refuse_type,
    refuse_unknown,
)
from gptcli.batch.job import OpenAIDefaults
from gptcli.core.escape import shown

_REQUEST = ("custom_id", "method", "url", "body")
URL = "/v1/completions"
_RENAMED = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "n": "num_samples"}
_OURS = ("prompt", *OWN_FIELDS)
_UNUSED = ("model", "user")  # of no consequence here
# Asking for nothing is all that these can do; anything else would be ignored in silence.
_ONLY = {"suffix": (None, ""), "stream": (None, False), "best_of": (None, 1)}
_MOST_ALTERNATIVES = 5
_BODY = (*_OURS, *_RENAMED, *_UNUSED, *_ONLY, "echo", "response_format")


def is_request(record: Mapping[str, Any]) -> bool:
    """Whether a record has OpenAI's form."""
    return "custom_id" in record or "body" in record


def as_ours(
    request: Mapping[str, Any], defaults: OpenAIDefaults | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request → our fields, and what its answer will need.

    Raises:
        BadRecordError: it is for something else, or asks for what there is not here.
    """
    refuse_unknown(request, _REQUEST)
    _require_endpoint(request)
    body = request.get("body")
    if not isinstance(body, dict):
        refuse_type("body", "an object", body)
    refuse_unknown(body, _BODY, "body.")
    for name, allowed in _ONLY.items():
        if body.get(name) not in allowed:
            raise BadRecordError("unsupported", f"body.{name}: not supported")
    own_logprobs(body, _MOST_ALTERNATIVES)  # fewer than in records of our own
    given = {name: value for name, value in body.items() if value is not None}
    ours = {_RENAMED.get(name, name): given[name] for name in given if name in (*_OURS, *_RENAMED)}
    if "prompt" in ours:
        ours["prompt"] = _single(ours["prompt"])
    if (form := given.get("response_format")) is not None:
        ours["json_schema"] = _schema(form)
    ours = {**asdict(defaults), **ours} if defaults else ours
    model = body.get("model")
    return ours, {
        "model": model if isinstance(model, str) else "gptcli",
        "echo": body.get("echo") is True,
    }


def answer(
    line: int,
    request: Mapping[str, Any],
    prompt: str,
    samples: Sequence[Mapping[str, Any]],
    prompt_tokens: int,
) -> dict[str, Any]:
    """The response to a request that succeeded; `samples` are our own answers.

    Their `logprobs` are in OpenAI's shape already.
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


def refusal(line: int, code: str, message: str) -> dict[str, Any]:
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
    """The JSON schema that a `response_format` asks for; None for text of any kind."""
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
    """A list of one prompt is that prompt; one of several is not supported."""
    if not isinstance(prompt, list) or not prompt or not isinstance(prompt[0], str | list):
        return prompt
    if len(prompt) > 1:
        found = f"{len(prompt)} prompts, expected one text or one list of token ids"
        raise BadRecordError("unsupported", f"prompt: a request a prompt ({found})")
    return prompt[0]
