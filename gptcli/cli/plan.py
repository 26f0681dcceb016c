"""What one `generate` command was asked for, besides model and sampling; checked without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gptcli.cli.options import Overflows, at_least
from gptcli.core.errors import UsageError

Shows = Literal["probs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many, until when, and shown how.

    Attributes:
        show: "probs" colours the text by probability, or lists it where there is no colour.
        top: alternatives to list for each token.
        logprobs: whether the JSON has log-probabilities.
    """

    num_samples: int
    beams: int | None
    stop: tuple[str, ...]
    keep_stop: bool
    time_limit: float | None
    overflow: Overflows
    echo: bool
    json: bool
    logprobs: bool
    show: Shows | None
    top: int | None
    stats: bool
    raw: bool
    dry_run: bool
    lookup: bool = False
    draft: str | None = None

    def __post_init__(self) -> None:
        at_least("--num-samples", self.num_samples, 1)
        at_least("--beams", self.beams, 1)
        at_least("--top", self.top, 1)
        at_least("--time-limit", self.time_limit, 0)
        self._refuse("--show", self.show, {"--json": self.json, "--raw": self.raw})
        self._refuse("--raw", self.raw, {"--json": self.json, "--top": self.top})
        if self.logprobs and not self.json:
            raise UsageError("--logprobs", "needs --json", "To see them: --show probs")
        self._refuse("--lookup", self.lookup, {"--draft": self.draft})
        self._check_beams()

    @property
    def alternatives(self) -> int | None:
        """What to ask of the engine: None for no log-probabilities, else how many others."""
        wanted = self.logprobs or self.show is not None or self.top is not None
        return (self.top or 0) if wanted else None

    def is_single(self, *, quantized: bool) -> bool:
        """Whether the model is best arranged for one text at a time: there are no beams.

        A token and guesses to check are a few rows, which float weights would rather have packed.
        Rounded ones read a prompt in one way only for one text, guesses or not.
        """
        guesses = self.lookup or self.draft is not None
        return self.beams is None and (quantized or not guesses)

    def _check_beams(self) -> None:
        if self.beams is None:
            return
        others = {
            "--show": self.show,
            "--top": self.top,
            "--logprobs": self.logprobs,
            "--time-limit": self.time_limit,
            "--lookup": self.lookup,
            "--draft": self.draft,
            f"--overflow {self.overflow}": self.overflow != "stop",
        }
        self._refuse("--beams", self.beams, others)
        if self.num_samples > self.beams:
            problem = f"must be at most --beams ({self.beams}), got {self.num_samples}"
            raise UsageError("--num-samples", problem)

    @staticmethod
    def _refuse(option: str, value: object, others: Mapping[str, object]) -> None:
        for name, given in others.items():
            if value and given:
                raise UsageError(option, f"cannot be used together with {name}")
