"""How `generate` shows a completion: as text, coloured by probability, as a table, or as JSON.

A view iterates over the completion, which generates it, and shows each piece at once.
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
_COLUMN = 32  # where the alternatives begin
# (least probability, style), in descending order.
_PROBABILITY_STYLES = (
    (0.8, "green"),
    (0.5, "cyan"),
    (0.2, "yellow"),
    (0.05, "magenta"),
    (0.0, "red"),
)


class View(Protocol):
    """Shows completions."""

    def show(self, completion: "Completion", sample: int) -> None:
        """Generate and show sample number `sample`."""


@dataclass(frozen=True, slots=True)
class TextView:
    """The exact text; on a terminal prompt and completion in different styles, and wrapped."""

    prompt: str
    raw: bool = False
    by_probability: bool = False
    wraps: bool = True

    def show(self, completion: "Completion", sample: int) -> None:
        """Write each piece at once; end the line even after an error."""
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
        return "" if token is None else probability_style(token.logprob)


@dataclass(frozen=True, slots=True)
class TableView:
    """A line for each token: number, probability, text, and the likeliest alternatives."""

    tokenizer: "Tokenizer"

    def show(self, completion: "Completion", sample: int) -> None:
        """Write each token's line at once."""
        output = console.Output(colored=True)
        numbered = (piece.token for piece in completion if piece.token is not None)
        for number, token in enumerate(numbered, 1):
            first, *more = self._lines(token)
            output.write(f"{number:>5} {percent(token.logprob)}  ")
            output.write(token_text(self.tokenizer, token.id), probability_style(token.logprob))
            output.write("\n".join([first, *more]) + "\n", "dim")

    def _lines(self, token: "Token") -> list[str]:
        """The alternatives: on the token's line if they fit or on a pipe, else below."""
        items = [
            f"{percent(logprob).strip()} {token_text(self.tokenizer, other)}"
            for other, logprob in token.top
        ]
        one_line = "  ".join(["", *items])
        used = _INDENT + len(token_text(self.tokenizer, token.id))
        if (
            not console.is_terminal(sys.stdout)
            or max(used, _COLUMN) + len(one_line) <= console.width()
        ):
            return [" " * (_COLUMN - used) + one_line if items else ""]
        indent = " " * _INDENT
        return ["", *(indent + line for line in filled_lines(items, console.width() - _INDENT))]


@dataclass(slots=True)
class BeamsView:
    """A line for each text of a beam search: its score, why it ended, and the text."""

    is_first: bool = True

    def show(self, completion: "Completion", sample: int) -> None:
        """Generate the completion, then write its line."""
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


def probability_style(logprob: float | None) -> str:
    """The style of a token with this log-probability."""
    p = math.exp(logprob) if logprob is not None else 0.0
    return next((style for least, style in _PROBABILITY_STYLES if p >= least), "")


def probability_legend() -> str:
    """What the styles of `probability_style` mean."""
    return "probability: " + ", ".join(
        f"{style} >= {least:.0%}" for least, style in _PROBABILITY_STYLES
    )


def percent(logprob: float | None) -> str:
    """A log-probability as a percentage, in six columns."""
    return f"{math.exp(logprob):6.1%}" if logprob is not None else " " * 6


def token_text(tokenizer: "Tokenizer", token: int) -> str:
    r"""A token in quotes, control characters escaped; incomplete UTF-8 as `\xe2`."""
    return f'"{shown(plain_token(tokenizer, token))}"'


def plain_token(tokenizer: "Tokenizer", token: int) -> str:
    r"""A token as it is; incomplete UTF-8 as `\xe2`."""
    return tokenizer.token_bytes(token).decode("utf-8", errors="backslashreplace")


def filled_lines(items: Iterable[str], width: int) -> Iterator[str]:
    """Lines of as many items as fit, two blanks apart."""
    line = ""
    for item in items:
        if line and len(line) + 2 + len(item) > width:
            yield line
            line = item
        else:
            line = f"{line}  {item}" if line else item
    if line:
        yield line


@dataclass(slots=True)
class Run:
    """What all samples of one `generate` have in common."""

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
    """One JSON object for each sample, when it is complete."""

    run: Run
    echo: bool
    logprobs: bool

    def show(self, completion: "Completion", sample: int) -> None:
        """Generate the completion, then print it."""
        tokens = [piece.token for piece in completion if piece.token is not None]
        value = sample_document(self.run, completion, sample, echo=self.echo)
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


def sample_document(
    run: Run, completion: "Completion", sample: int, *, echo: bool
) -> dict[str, Any]:
    """The JSON of one sample; `text` is what TextView would print."""
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
        "tokens_per_second": tokens_per_second(len(generation.ids), generation.seconds),
    }


def stats_text(run: Run, completions: list["Completion"]) -> str:
    """What `--stats` prints."""
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


def tokens_per_second(tokens: int, seconds: float) -> float | None:
    """None if there are no tokens or no time has passed."""
    return round(tokens / seconds, 2) if tokens and seconds > 0 else None


def _speed(tokens: int, seconds: float) -> str:
    per_second = tokens_per_second(tokens, seconds)
    speed = f" ({per_second:,.1f} tokens/s)" if per_second is not None else ""
    return f"{plural(tokens, 'token')} in {seconds:.3f} s{speed}"
