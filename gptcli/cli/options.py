"""Options that several commands share, each declared once: name, help and group.

Defaults are not here: those of sampling are the fields of `gptcli.sampling.params.SamplingParams`.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.models import OptionInfo

from gptcli.checkpoint.presets import BUILT_IN, PRESETS, own_temperature
from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.sampling.params import SamplingParams

MODEL, SAMPLING, STOPPING = "Model", "Sampling", "Length and stopping"
OUTPUT, MACHINE = "Output", "Machine"

DEFAULTS = SamplingParams()
MAX_SEED = 2**64 - 1

Dtypes = Literal["float32", "bfloat16", "float16", "auto"]
Widths = Literal["int8", "int4"]
Overflows = Literal["stop", "slide", "error"]


def option(panel: str, text: str, *names: str, metavar: str | None = None) -> OptionInfo:
    """What Typer is to know of an option: its group in the help, and what it does."""
    info: OptionInfo = typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar)
    return info


Model = Annotated[
    str | None,
    option(
        MODEL,
        "A preset, a model directory, a config or a .safetensors file; the built-in model"
        " where nothing is named.",
        "--model",
        "-m",
        metavar="TARGET",
    ),
]
Config = Annotated[
    Path | None,
    option(
        MODEL, "Config, YAML or JSON; alone: an untrained model.", "--config", "-c", metavar="FILE"
    ),
]
Weights = Annotated[
    Path | None,
    option(
        MODEL, "Weights, .safetensors or the index of shards.", "--weights", "-w", metavar="FILE"
    ),
]
Offline = Annotated[bool, option(MODEL, "Download nothing.", "--offline")]
CheckFinite = Annotated[
    bool,
    option(MODEL, "Look for NaN and infinity in the weights.", "--check-finite/--no-check-finite"),
]

Device = Annotated[str, option(MACHINE, "cpu, cuda, cuda:1, mps.", "--device", metavar="NAME")]
Dtype = Annotated[
    Dtypes, option(MACHINE, "Numbers to compute with; auto: the weights' own, if fast.", "--dtype")
]
Quantize = Annotated[
    Widths | None,
    option(MACHINE, "Round the weights to 8 or 4 bits: faster, nearly the same.", "--quantize"),
]
Lookup = Annotated[
    bool,
    option(MACHINE, "Guess tokens from the text so far; same text, sooner.", "--lookup"),
]
Draft = Annotated[
    str | None,
    option(
        MACHINE,
        "Guess tokens with a smaller model of the same tokenizer; same text, sooner.",
        "--draft",
        metavar="TARGET",
    ),
]
Threads = Annotated[
    int | None,
    option(MACHINE, "CPU threads; PyTorch's choice without it.", "--threads", metavar="N"),
]

Seed = Annotated[
    int | None,
    option(
        SAMPLING, "Same seed, same text; fresh without it (see --stats).", "--seed", metavar="N"
    ),
]
_TEMPERATURE = (
    f"Divides the logits; 0 is greedy. {DEFAULTS.temperature} without it,"
    f" {PRESETS[BUILT_IN].temperature} for the built-in model."
)
Temperature = Annotated[
    float | None, option(SAMPLING, _TEMPERATURE, "--temperature", "-t", metavar="X")
]
Greedy = Annotated[bool, option(SAMPLING, "Take the best token: --temperature 0.", "--greedy")]
TopK = Annotated[
    int | None, option(SAMPLING, "Keep the K best tokens.", "--top-k", "-k", metavar="K")
]
TopP = Annotated[
    float | None,
    option(
        SAMPLING,
        "Keep the fewest tokens of this total probability; 1 is off.",
        "--top-p",
        "-p",
        metavar="P",
    ),
]
MinP = Annotated[
    float | None,
    option(
        SAMPLING,
        "Keep tokens at least this probable, relative to the best.",
        "--min-p",
        metavar="P",
    ),
]
TypicalP = Annotated[
    float | None,
    option(
        SAMPLING,
        "Keep the most typical tokens of this total probability.",
        "--typical-p",
        metavar="P",
    ),
]
RepetitionPenalty = Annotated[
    float,
    option(
        SAMPLING,
        "Weaken tokens already in prompt or text; 1 is off.",
        "--repetition-penalty",
        metavar="X",
    ),
]
PresencePenalty = Annotated[
    float,
    option(SAMPLING, "Subtract from tokens already written.", "--presence-penalty", metavar="X"),
]
FrequencyPenalty = Annotated[
    float,
    option(SAMPLING, "Subtract each time a token was written.", "--frequency-penalty", metavar="X"),
]
NoRepeatNgram = Annotated[
    int,
    option(SAMPLING, "Never repeat a run of N tokens; 0 is off.", "--no-repeat-ngram", metavar="N"),
]
LogitBias = Annotated[
    list[str] | None,
    option(
        SAMPLING,
        "Add to a token's logit; ID=-inf bans it. Repeatable.",
        "--logit-bias",
        metavar="ID=X",
    ),
]

MaxNewTokens = Annotated[
    int, option(STOPPING, "Stop after N tokens.", "--max-new-tokens", "-n", metavar="N")
]
MinNewTokens = Annotated[
    int, option(STOPPING, "No end of text before N tokens.", "--min-new-tokens", metavar="N")
]
IgnoreEos = Annotated[bool, option(STOPPING, "Write on past the end of text.", "--ignore-eos")]
Stop = Annotated[
    list[str] | None,
    option(STOPPING, "Stop before this text. Repeatable.", "--stop", metavar="TEXT"),
]
KeepStop = Annotated[bool, option(STOPPING, "Print the stop text too.", "--keep-stop")]
TimeLimit = Annotated[
    float | None,
    option(STOPPING, "Stop writing after this long.", "--time-limit", metavar="SECONDS"),
]
Overflow = Annotated[
    Overflows,
    option(STOPPING, "When the context is full: stop, slide the window, or fail.", "--overflow"),
]
AllowEmpty = Annotated[
    bool, option("Input", "Let an empty prompt begin at the end-of-text token.", "--allow-empty")
]

Json = Annotated[bool, option(OUTPUT, "JSON in place of text.", "--json")]
Details = Annotated[bool, option(OUTPUT, "Print more than fits a screen.", "--details")]
Quiet = Annotated[bool, option(OUTPUT, "No notices and no progress on stderr.", "--quiet", "-q")]


def at_least(option: str, value: float | None, least: int) -> None:
    """Refuse a number below `least`, NaN and infinity; None passes.

    Raises:
        UsageError: with the range.
    """
    if value is not None and not least <= value < math.inf:
        kind = "an integer" if isinstance(value, int) else "a finite number"
        raise UsageError(option, f"must be {kind} >= {least}, got {value}")


def check_seed(seed: int | None) -> None:
    """Refuse a seed that 64 bits do not hold."""
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise UsageError("--seed", f"must be an integer >= 0 and < 2^64, got {seed}")


def check_stops(stops: list[str] | None) -> tuple[str, ...]:
    """The stop strings; an empty one would stop every text before it begins."""
    if stops and "" in stops:
        raise UsageError("--stop", "must not be empty")
    return tuple(stops or ())


def logit_biases(pairs: list[str] | None) -> tuple[tuple[int, float], ...]:
    """`["50256=-inf"]` → ids and biases."""
    return tuple(_bias(pair) for pair in pairs or ())


def _bias(pair: str) -> tuple[int, float]:
    token, _, bias = pair.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise UsageError("--logit-bias", f'must be ID=NUMBER, got "{shown(pair, 60)}"') from None


def temperature_of(given: float | None, model: str | None, *parts: Path | None) -> float:
    """What was given, else what suits the model that --model, --config and --weights name."""
    choices = (given, own_temperature(model, *parts), DEFAULTS.temperature)
    return next(choice for choice in choices if choice is not None)
