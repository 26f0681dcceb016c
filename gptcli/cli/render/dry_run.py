"""The report of `generate --dry-run` and its JSON: tokens and memory, without reading weights.

The JSON has the schema "gptcli.dry-run/1": model, prompt_tokens, context_length, max_new_tokens (as
many as fit), end_of_context (in words), parameters, weights_bytes, cache_bytes, dtype.
"""

from typing import TYPE_CHECKING, Any

from gptcli.cli.generate_options import GenerateOptions
from gptcli.cli.render import console
from gptcli.core.errors import InputError
from gptcli.core.units import bytes_text, plural
from gptcli.sampling.params import SamplingParams

if TYPE_CHECKING:
    from gptcli.checkpoint.resolve import Target
    from gptcli.model.config import GPTConfig

SCHEMA = "gptcli.dry-run/1"


def show_dry_run(
    target: "Target",
    params: SamplingParams,
    options: GenerateOptions,
    ids: list[int],
    dtype: str,
) -> None:
    """Print the estimates as a table, or as JSON.

    Raises:
        InputError: there is no config to compute from.
    """
    if target.config is None:
        raise InputError(target.name, "no config beside the weights", "Name one with --config")
    facts = _estimates(target.name, target.config, params, options, len(ids), dtype)
    if options.json:
        console.print_json({"schema": SCHEMA, **facts})
        return
    from gptcli.cli.render.table import Report

    report = Report()
    report.title(f"{facts.pop('model')}: a dry run")
    report.pairs([(key.replace("_", " "), _words(key, value)) for key, value in facts.items()])


def _estimates(
    name: str,
    config: "GPTConfig",
    params: SamplingParams,
    options: GenerateOptions,
    prompt: int,
    dtype: str,
) -> dict[str, Any]:
    """Token counts and bytes of one run with `prompt` prompt tokens."""
    from gptcli.model.memory_estimate import generation_memory
    from gptcli.model.parameters import BYTES, cache_bytes, count

    most = params.max_new_tokens
    # One token more than the context: the last new token needs no position.
    room = max(0, config.context_length - prompt + 1)
    cache_dtype = dtype if dtype in BYTES else "float32"
    return {
        "model": name,
        "prompt_tokens": prompt,
        "context_length": config.context_length,
        "max_new_tokens": most if options.overflow == "slide" else min(most, room),
        "end_of_context": _outcome(prompt, most, room, config.context_length, options.overflow),
        "parameters": count(config).total,
        "weights_bytes": generation_memory(config, dtype, 1, 1).weights,
        "cache_bytes": (options.beams or 1)
        * cache_bytes(config, min(prompt + most, config.context_length), cache_dtype),
        "dtype": dtype,
    }


def _outcome(prompt: int, most: int, room: int, context: int, overflow: str) -> str:
    if prompt > context:
        dropped = f"the first {prompt - context:,} prompt tokens are dropped"
        return dropped if overflow == "slide" else "the prompt is too long: exit 2"
    if most <= room:
        return "not reached"
    ends = {"stop": "the text ends", "slide": "the window slides", "error": "exit 1"}
    return f"reached after {plural(room, 'new token')}: {ends[overflow]}"


def _words(key: str, value: object) -> str:
    if key.endswith("_bytes"):
        assert isinstance(value, int)
        return f"{value:,} ({bytes_text(value)})"
    return f"{value:,}" if isinstance(value, int) else str(value)
