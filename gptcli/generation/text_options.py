"""Generation options beside sampling, as fields that several dataclasses share."""

from typing import Annotated, Literal

from gptcli.core.errors import UsageError
from gptcli.core.options import SEEDS, Option
from gptcli.sampling.params import SAMPLING, STOPPING

INPUT = "Input"
Overflows = Literal["stop", "slide", "error"]

Seed = Annotated[
    int | None,
    Option(
        "The same seed gives the same text; without it, a fresh seed.",
        SAMPLING,
        metavar="N",
        ge=0,
        lt=SEEDS,
    ),
]
Stop = Annotated[
    tuple[str, ...], Option("Stop before this text. Repeatable.", STOPPING, metavar="TEXT")
]
KeepStop = Annotated[bool, Option("Print the stop text too.", STOPPING)]
Overflow = Annotated[
    Overflows, Option("When the context is full: stop, slide the window, or fail.", STOPPING)
]
NumSamples = Annotated[int, Option("Write N texts for each prompt.", SAMPLING, metavar="N", ge=1)]
Special = Annotated[
    bool,
    Option("Read special tokens spelled in the text, such as <|endoftext|>, as tokens.", INPUT),
]
AllowEmpty = Annotated[bool, Option("Let an empty prompt start at the end-of-text token.", INPUT)]


def check_stops(stops: tuple[str, ...]) -> None:
    """Refuse an empty stop string, which would stop every text before it begins.

    Raises:
        UsageError: there is one.
    """
    if "" in stops:
        raise UsageError("stop", "must not be empty")
