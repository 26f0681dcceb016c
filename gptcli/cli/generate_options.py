"""Options of `generate` beside model and sampling; checked without importing torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from gptcli.cli.options import OUTPUT, Json
from gptcli.core.errors import UsageError
from gptcli.core.options import Option, check
from gptcli.generation.model_spec import MACHINE
from gptcli.generation.text_options import (
    KeepStop,
    NumSamples,
    Overflow,
    Special,
    Stop,
    check_stops,
)
from gptcli.sampling.params import SAMPLING, STOPPING

ShowMode = Literal["probs"]
SAMPLING_ONLY = ("temperature", "greedy", "top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """Number of samples, stopping, speculation, and how completions are shown.

    Attributes:
        show: "probs" colours each token by its probability, or prints a table without colour.
        top: alternatives to list for each token; with `beams`, how many of their texts to list.
        logprobs: whether the JSON has log-probabilities.
        draft: the draft model of speculative decoding.
        lookup: speculative decoding with drafts from the text so far.
    """

    special: Special = False
    stop: Stop = ()
    keep_stop: KeepStop = False
    time_limit: Annotated[
        float | None, Option("Stop decoding after this long.", STOPPING, metavar="SECONDS", ge=0)
    ] = None
    overflow: Overflow = "stop"
    beams: Annotated[
        int | None,
        Option(
            "Beam search with N beams for the likeliest text; no sampling.",
            SAMPLING,
            metavar="N",
            ge=1,
        ),
    ] = None
    num_samples: NumSamples = 1
    echo: Annotated[bool, Option("Print the prompt before the text.", OUTPUT)] = True
    json: Json = False
    logprobs: Annotated[bool, Option("Add log-probabilities to the JSON.", OUTPUT)] = False
    show: Annotated[
        ShowMode | None,
        Option("Colour each token by its probability; without colour, a table.", OUTPUT),
    ] = None
    top: Annotated[
        int | None,
        Option(
            "List the N likeliest tokens at each position, or the N best texts of `beams`.",
            OUTPUT,
            metavar="N",
            ge=1,
        ),
    ] = None
    wrap: Annotated[
        bool,
        Option(
            "Wrap lines between words on a terminal; copied text then has these line breaks.",
            OUTPUT,
        ),
    ] = True
    stats: Annotated[bool, Option("Print seed, counts and speed to stderr.", OUTPUT)] = False
    raw: Annotated[bool, Option("Send control characters to the terminal as they are.", OUTPUT)] = (
        False
    )
    dry_run: Annotated[
        bool, Option("Print token counts and memory, and generate nothing.", OUTPUT)
    ] = False
    lookup: Annotated[
        bool, Option("Speculative decoding from the text so far: same text, sooner.", MACHINE)
    ] = False
    draft: Annotated[
        str | None,
        Option(
            "Speculative decoding with a smaller model of the same tokenizer: same text, sooner.",
            MACHINE,
            metavar="TARGET",
        ),
    ] = None

    def __post_init__(self) -> None:
        check(self)
        check_stops(self.stop)
        self._refuse("show", self.show, {"json": self.json, "raw": self.raw})
        self._refuse("raw", self.raw, {"json": self.json, "top": self.top})
        if self.logprobs and not self.json:
            raise UsageError("logprobs", "needs `json`", "To see them, use `show=probs`")
        self._refuse("lookup", self.lookup, {"draft": self.draft})
        self._check_beams()

    @property
    def alternatives(self) -> int | None:
        """Alternatives per token to compute; None: no log-probabilities."""
        wanted = self.logprobs or self.show is not None or self.top is not None
        return (self.top or 0) if wanted else None

    def refuse_unused(self, is_given: Callable[[str], bool]) -> None:
        """Refuse sampling options with a beam search, which draws nothing.

        Raises:
            UsageError: one of them was given.
        """
        if self.beams is not None:
            self._refuse("beams", self.beams, {name: is_given(name) for name in SAMPLING_ONLY})

    def _check_beams(self) -> None:
        if self.beams is None:
            return
        others = {
            "show": self.show,
            "logprobs": self.logprobs,
            "time_limit": self.time_limit,
            "lookup": self.lookup,
            "draft": self.draft,
            f"overflow={self.overflow}": self.overflow != "stop",
        }
        self._refuse("beams", self.beams, others)
        self._refuse("top", self.top, {"num_samples": self.num_samples > 1})
        for name, count in (("num_samples", self.num_samples), ("top", self.top or 1)):
            if count > self.beams:
                raise UsageError(name, f"must be at most `beams` ({self.beams}), got {count}")

    @staticmethod
    def _refuse(option: str, value: object, others: Mapping[str, object]) -> None:
        for name, given in others.items():
            if value and given:
                raise UsageError(option, f"cannot be used together with `{name}`")
