"""How `generate` shows a completion: plain text, coloured by probability, a table, or JSON.

A view drains the completion it is given, so the text appears as it is made.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gptcli.cli.render import console
from gptcli.core.escape import shown
from gptcli.core.units import plural

if TYPE_CHECKING:
    from gptcli.generation.decode import Token
    from gptcli.generation.speculative import Drafter, Speculation
    from gptcli.generation.text_stream import Completion
    from gptcli.tokenizer.tokenizer import Tokenizer

SCHEMA = "gptcli.generate/1"
PROMPT_STYLE, COMPLETION_STYLE = "bold", "green"
_INDENT = 14  # columns before a token in a table
_COLUMN = 32  # where its alternatives begin
# Probability at least → style; read from the top.
_GRADES = ((0.8, "green"), (0.5, "cyan"), (0.2, "yellow"), (0.05, "magenta"), (0.0, "red"))


class View(Protocol):
    """Drains a completion and shows it."""

    def show(self, completion: "Completion", sample: int) -> None:
        """Show sample number `sample`; text appears while it is generated."""


@dataclass(frozen=True, slots=True)
class TextView:
    """The exact text; on a terminal prompt and completion in different styles, and wrapped."""

    prompt: str
    raw: bool = False
    by_probability: bool = False
    wraps: bool = True

    def show(self, completion: "Completion", sample: int) -> None:
        """Write pieces as they come; end the line even if an error ends the text."""
        output = console.Output(raw=self.raw, colored=self.by_probability, wraps=self.wraps)
        try:
            output.write(self.prompt, PROMPT_STYLE)
            for piece in completion:
                output.write(piece, self._style(piece.token))
        finally:
            output.end()

    def _style(self, token: "Token | None") -> str:
        if not self.by_probability:
            return COMPLETION_STYLE
        return "" if token is None else grade(token.logprob)


@dataclass(frozen=True, slots=True)
class TableView:
    """A line for each token: number, probability, text, and the likeliest alternatives."""

    tokenizer: "Tokenizer"

    def show(self, completion: "Completion", sample: int) -> None:
        """Write each token's line as soon as it is sampled."""
        output = console.Output(colored=True)
        numbered = (piece.token for piece in completion if piece.token is not None)
        for number, token in enumerate(numbered, 1):
            first, *more = self._lines(token)
            output.write(f"{number:>5} {percent(token.logprob)}  ")
            output.write(token_text(self.tokenizer, token.id), grade(token.logprob))
            output.write("\n".join([first, *more]) + "\n", "dim")

    def _lines(self, token: "Token") -> list[str]:
        """The alternatives: beside the token where they fit, on a pipe always, else below."""
        items = [
            f"{percent(logprob).strip()} {token_text(self.tokenizer, other)}"
            for other, logprob in token.top
        ]
        beside = "  ".join(["", *items])
        taken = _INDENT + len(token_text(self.tokenizer, token.id))
        if (
            not console.is_terminal(sys.stdout)
            or max(taken, _COLUMN) + len(beside) <= console.width()
        ):
            return [" " * (_COLUMN - taken) + beside if items else ""]
        indent = " " * _INDENT
        return ["", *(indent + line for line in packed(items, console.width() - _INDENT))]


@dataclass(slots=True)
class BeamsView:
    """A line for each text of a beam search: its score, why it ended, and the text."""

    is_first: bool = True

    def show(self, completion: "Completion", sample: int) -> None:
        """Drain the completion, then write its line."""
        for _piece in completion:
            pass
        output = console.Output(colored=True)
        if self.is_first:
            output.write(
                "    score  ended    text (score: mean log-probability of a token)\n", "dim"
            )
            self.is_first = False
        assert completion.score is not None
        output.write(f"{completion.score:9.4f}  {completion.finish_reason:<7}  ")
        output.write(f'"{shown(completion.text)}"\n')


def grade(logprob: float | None) -> str:
    """The style of a token with this log-probability."""
    p = math.exp(logprob) if logprob is not None else 0.0
    return next((style for least, style in _GRADES if p >= least), "")


def legend() -> str:
    """What the styles mean, for stderr."""
    return "probability: " + ", ".join(f"{style} >= {least:.0%}" for least, style in _GRADES)


def percent(logprob: float | None) -> str:
    """A probability in six columns."""
    return f"{math.exp(logprob):6.1%}" if logprob is not None else " " * 6


def token_text(tokenizer: "Tokenizer", token: int) -> str:
    r"""One token between quotes; bytes that are only part of a character as `\xe2`."""
    return f'"{shown(plain_token(tokenizer, token))}"'


def plain_token(tokenizer: "Tokenizer", token: int) -> str:
    """One token as text, control characters included."""
    return tokenizer.token_bytes(token).decode("utf-8", errors="backslashreplace")


def packed(items: Iterable[str], room: int) -> Iterator[str]:
    """Items two blanks apart, as many on a line as fit."""
    line = ""
    for item in items:
        if line and len(line) + 2 + len(item) > room:
            yield line
            line = item
        else:
            line = f"{line}  {item}" if line else item
    if line:
        yield line


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
    """The JSON of one sample; `text` is what plain output would be."""
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
        **({} if completion.score is None else {"score": completion.score}),
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
        incomplete = ", incomplete" if generation.is_incomplete else ""
        lines.append(f"new: {speed}, finish reason {completion.finish_reason}{incomplete}")
    if (drafts := run.speculation) is not None:
        share = f" ({drafts.accepted / drafts.drafted:.0%})" if drafts.drafted else ""
        lines.append(
            f"drafted: {plural(drafts.drafted, 'token')}, {drafts.accepted:,} accepted{share}"
        )
    return "\n".join(lines)


def rate(tokens: int, seconds: float) -> float | None:
    """Tokens per second, None where there is nothing to divide."""
    return round(tokens / seconds, 2) if tokens and seconds > 0 else None


def _speed(tokens: int, seconds: float) -> str:
    per_second = rate(tokens, seconds)
    speed = f" ({per_second:,.1f} tokens/s)" if per_second is not None else ""
    return f"{plural(tokens, 'token')} in {seconds:.3f} s{speed}"
