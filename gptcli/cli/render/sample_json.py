"""The JSON record of one sample, and the statistics in words."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptcli.cli.render import console
from gptcli.cli.render.sample_views import plain_token

if TYPE_CHECKING:
    from gptcli.generation.decode import Token
    from gptcli.generation.speculative import Drafter, Speculation
    from gptcli.generation.text_stream import Completion
    from gptcli.tokenizer.tokenizer import Tokenizer

SCHEMA = "gptcli.generate/1"


@dataclass(slots=True)
class Run:
    """What all samples of one command have in common."""

    model: str
    text: str
    ids: list[int]
    tokenizer: "Tokenizer"
    seed: int
    load_seconds: float
    prefill_seconds: float = 0.0
    drafter: "Drafter | None" = None
    speculation: "Speculation | None" = None


@dataclass(frozen=True, slots=True)
class JsonView:
    """One object a sample, when it is complete."""

    run: Run
    echo: bool
    logprobs: bool

    def show(self, completion: "Completion", sample: int) -> None:
        """Drain the completion, then print it."""
        tokens = [piece.token for piece in completion if piece.token is not None]
        value = record(self.run, completion, sample, echo=self.echo)
        if self.logprobs:
            value["logprobs"] = [self._logprob(token) for token in tokens]
        console.print_json(value)

    def _logprob(self, token: "Token") -> dict[str, Any]:
        top = [self._entry(other, logprob) for other, logprob in token.top]
        return {**self._entry(token.id, token.logprob), "top": top}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        finite = logprob is not None and math.isfinite(logprob)
        text = plain_token(self.run.tokenizer, token)
        return {"id": token, "text": text, "logprob": logprob if finite else None}


def record(run: Run, completion: "Completion", sample: int, *, echo: bool) -> dict[str, Any]:
    """Everything there is to know of one sample; `text` is what plain output would be."""
    generation = completion.generation
    return {
        "schema": SCHEMA,
        "model": run.model,
        "prompt": run.text,
        "completion": completion.text,
        "text": (run.text if echo else "") + completion.text,
        "finish_reason": completion.finish_reason,
        "stop": completion.stop,
        "seed": run.seed,
        "sample": sample,
        "prompt_tokens": len(run.ids),
        "new_tokens": len(generation.ids),
        "prompt_ids": run.ids,
        "ids": list(generation.ids),
        "seconds": {
            "load": round(run.load_seconds, 6),
            "prefill": round(run.prefill_seconds, 6),
            "decode": round(generation.seconds, 6),
        },
        "tokens_per_second": rate(len(generation.ids), generation.seconds),
    }


def statistics(run: Run, completions: list["Completion"]) -> str:
    """What `--stats` says: a line for the prompt and one for each sample."""
    lines = [
        f"model {run.model}, seed {run.seed}, loaded in {run.load_seconds:.2f} s",
        f"prompt: {_speed(len(run.ids), run.prefill_seconds)}",
    ]
    for completion in completions:
        generation = completion.generation
        speed = _speed(len(generation.ids), generation.seconds)
        lines.append(f"new: {speed}, finish reason {completion.finish_reason}")
    if (guesses := run.speculation) is not None:
        share = f" ({guesses.accepted / guesses.guessed:.0%})" if guesses.guessed else ""
        lines.append(f"guessed: {guesses.guessed:,} tokens, {guesses.accepted:,} right{share}")
    return "\n".join(lines)


def rate(tokens: int, seconds: float) -> float | None:
    """Tokens per second, None where there is nothing to divide."""
    return round(tokens / seconds, 2) if tokens and seconds > 0 else None


def _speed(tokens: int, seconds: float) -> str:
    per_second = rate(tokens, seconds)
    speed = f" ({per_second:,.1f} tokens/s)" if per_second is not None else ""
    return f"{tokens:,} tokens in {seconds:.3f} s{speed}"
