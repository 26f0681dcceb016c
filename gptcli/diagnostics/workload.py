"""The sizes that a benchmark measures, and how often."""

from dataclasses import dataclass
from typing import Annotated

from gptcli.core.errors import UsageError
from gptcli.core.options import Option, check

WORK = "What is measured"
_LIMITED_BY_CONTEXT = ("prompt", "prefill", "new_tokens", "row_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Sizes in tokens; `fitted` makes defaults smaller for a short context.

    Attributes:
        prompt: of the single sequence, and of each in the batch.
        new_tokens: the first of them is timed by itself.
        product: side of the square matrices whose matmul is the machine's FLOP/s.
    """

    prefill: Annotated[int, Option("Prefill N tokens.", WORK, metavar="N", ge=1)] = 512
    prompt: Annotated[
        int, Option("Decode after a prompt of N tokens.", WORK, metavar="N", ge=1)
    ] = 32
    new_tokens: Annotated[
        int, Option("Decode N tokens, one text alone.", WORK, short="-n", metavar="N", ge=2)
    ] = 128
    rows: Annotated[int, Option("Decode N texts at once; 0: none.", WORK, metavar="N", ge=0)] = 32
    row_tokens: Annotated[
        int, Option("Decode N tokens in each of them.", WORK, metavar="N", ge=1)
    ] = 64
    runs: Annotated[
        int, Option("Repeat everything N times.", WORK, short="-r", metavar="N", ge=1)
    ] = 5
    product: Annotated[
        int, Option("Side of the matrices that measure the machine.", WORK, metavar="N", ge=1)
    ] = 2048

    def __post_init__(self) -> None:
        check(self)


def fitted(context: int, **given: int | None) -> Workload:
    """The workload for a context; sizes that are None get their default, or what the context holds.

    Raises:
        UsageError: a given size is too small, or too large for the context.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    default = Workload(
        **{name: value for name, value in asked.items() if name not in _LIMITED_BY_CONTEXT}
    )
    prompt = asked.setdefault("prompt", min(default.prompt, max(context // 2, 1)))
    # The last new token is never fed back, so it may stand one past the context.
    most = {"prefill": context, "prompt": context - 1}
    most |= dict.fromkeys(("new_tokens", "row_tokens"), max(context + 1 - prompt, 2))
    for name in _LIMITED_BY_CONTEXT:
        value = asked.setdefault(name, min(getattr(default, name), most[name]))
        if value > most[name]:
            problem = f"must be <= {most[name]} with this context of {context:,}, got {value:,}"
            raise UsageError(name, problem)
    return Workload(**asked)
