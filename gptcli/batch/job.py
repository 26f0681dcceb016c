"""JobSpec: the options that determine a batch's output, and not its speed.

The output's header holds them, so that a job can be resumed or replayed from there.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.core.options import Option, check
from gptcli.generation.text_options import (
    INPUT,
    AllowEmpty,
    KeepStop,
    NumSamples,
    Overflow,
    Special,
    Stop,
    check_stops,
)
from gptcli.sampling.params import CONSTRAINTS, SamplingParams

Form = Literal["json", "text", "table"]
JOB, OUTPUT = "Job", "Output"
MAX_SAMPLES = 1000
# Version of the output. In 1 a record's draws were named by its line; in 2 by its id if it has one,
# and OpenAI requests get OpenAI's defaults.
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `count`-th line of the input, from line `index` on.

    Raises:
        UsageError: not 1 <= index <= count.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count <= 1_000_000:
            raise UsageError("shard", f"must be I/N with 1 <= I <= N, got {self}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`"2/8"` → the second of eight."""
        index, _, count = text.partition("/")
        if not (_is_number(index) and _is_number(count)):
            raise UsageError("shard", f'must be I/N, such as 1/4, got "{shown(text, 60)}"')
        return cls(int(index), int(count))

    def holds(self, line: int) -> bool:
        """Whether a line, counted from 1, belongs to this part."""
        return (line - 1) % self.count == self.index - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIDefaults:
    """Values of fields that an OpenAI request leaves out: those of OpenAI's completions API."""

    max_new_tokens: int = 16
    temperature: float = 1.0
    top_p: float | None = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What a job is asked for. Jobs with equal specs, models and inputs write equal bytes.

    Attributes:
        seed: with the record's name, the sample's number and the position it decides a draw.
        params: sampling of records that set none of their own.
        recommended: the model's values for sampling options that neither the command line nor a
            record gives; a greedy record does without.
        stop: strings that end a text, left out of it unless `keep_stop`.
        overflow: what happens at the end of the context; "error" fails the record.
        num_samples: completions per record.
        form: JSON Lines, plain lines, or the rows of a table.
        column: the column of prompts, of a table.
        special: read special tokens that a prompt spells as tokens, not as text.
        allow_empty: let an empty prompt begin at the end-of-text token.
        truncate_prompt: cut the beginning of a prompt that leaves no room for the new tokens.
        check_ids: fail a record whose id came before.
        ids: put the new tokens' ids in the output.
        echo: put each request in the output.
        openai: defaults of OpenAI requests, in place of `params`; None: they have none.
        shard: the part of the input to answer.
        format: version of the output; decides `draw_name`.
    """

    seed: int = 0
    params: SamplingParams = field(default_factory=SamplingParams)
    recommended: Mapping[str, float] = field(default_factory=dict)
    stop: Stop = ()
    keep_stop: KeepStop = False
    overflow: Overflow = "stop"
    num_samples: NumSamples = 1
    form: Form = "json"
    column: Annotated[
        str | None,
        Option("A table's column of prompts.", INPUT, metavar="NAME", default="prompt"),
    ] = None
    special: Special = False
    allow_empty: AllowEmpty = False
    truncate_prompt: Annotated[
        Literal["left"] | None,
        Option("Cut a prompt's beginning to make room for the new tokens.", INPUT),
    ] = None
    check_ids: Annotated[
        bool, Option("Fail a record whose id came before.", INPUT, name="id-check")
    ] = True
    ids: Annotated[bool, Option("Add the ids of the new tokens to the output.", OUTPUT)] = False
    echo: Annotated[
        bool, Option("Add each request to the output; replay then needs no input.", OUTPUT)
    ] = False
    openai: OpenAIDefaults | None = OpenAIDefaults()
    shard: Annotated[
        Shard | None,
        Option(
            "Answer every N-th line from line I on; gptcli merge joins the shards.",
            JOB,
            metavar="I/N",
            parse=Shard.parse,
        ),
    ] = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        check(self)
        check_stops(self.stop)
        if self.num_samples > MAX_SAMPLES:
            problem = f"must be at most {MAX_SAMPLES:,}, got {self.num_samples:,}"
            raise UsageError("num_samples", problem)

    def draw_name(self, line: int, id: str | int | None) -> str:
        """The name that a record's random draws depend on: its id, or its line if it has none."""
        return str(line) if id is None or self.format == 1 else f"id:{id}"

    def options(self) -> dict[str, Any]:
        """The options for the header, as JSON; shard and format have keys of their own there."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        del own["params"], own["shard"], own["format"]
        own["openai"] = self.openai and asdict(self.openai)
        sampling = asdict(self.params)
        sampling["logit_bias"] = [[id, _json_bias(bias)] for id, bias in self.params.logit_bias]
        sampling["choices"] = list(self.params.choices)
        for name in CONSTRAINTS:
            if not sampling[name]:  # as in the headers of before there were constraints
                del sampling[name]
        if not self.recommended:  # as in the headers of other models
            del own["recommended"]
        return {**sampling, **own, "stop": list(self.stop)}

    @classmethod
    def of(
        cls, options: Mapping[str, Any], shard: Shard | None = None, format: int = FORMAT
    ) -> "JobSpec":
        """The spec that `options()` came from.

        Raises:
            UsageError: a value is out of range.
            TypeError, ValueError, KeyError: the options are not those of a spec.
        """
        values = dict(options)
        names = {f.name for f in fields(SamplingParams)}
        sampling = {name: values.pop(name) for name in names if name in values}
        biases = tuple((id, float(bias)) for id, bias in sampling.pop("logit_bias", ()))
        choices = tuple(sampling.pop("choices", ()))
        params = SamplingParams(**sampling, logit_bias=biases, choices=choices)
        SamplingParams(**values.get("recommended", {}))  # checks the values
        stop = tuple(values.pop("stop", ()))
        openai = values.pop("openai", None)
        values["openai"] = None if openai is None else OpenAIDefaults(**openai)
        return cls(**values, params=params, stop=stop, shard=shard, format=format)


def _json_bias(bias: float) -> float | str:
    return "-inf" if bias == -math.inf else bias


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
