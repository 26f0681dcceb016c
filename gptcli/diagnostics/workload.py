"""What the benchmark measures, and how often."""

from dataclasses import dataclass, fields

from gptcli.core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The one home of the defaults, which a short context makes smaller (`fitted`).

    Attributes:
        prefill: tokens of the prompt that is read.
        prompt: tokens of the prompt that writing begins with, alone and in the batch.
        new_tokens: written after it by one text alone; the first is timed by itself.
        rows: texts of the batch; 0 leaves it out.
        row_tokens: written in each of them.
        runs: how often all of it is done.
        product: side of the matrices of the machine's own product.
    """

    prefill: int = 512
    prompt: int = 32
    new_tokens: int = 128
    rows: int = 32
    row_tokens: int = 64
    runs: int = 5
    product: int = 2048

    def __post_init__(self) -> None:
        for field in fields(self):
            least, value = _LEAST.get(field.name, 1), getattr(self, field.name)
            if value < least:
                raise UsageError(_option(field.name), f"must be >= {least}, got {value}")


_LEAST = {"rows": 0, "new_tokens": 2}


def fitted(context: int, **given: int | None) -> Workload:
    """The workload for a context: what is None has its default, or what the context holds.

    Raises:
        UsageError: a given number is too small, or too large for the context.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    default = Workload(**{name: value for name, value in asked.items() if name not in _LONG})
    prompt = asked.setdefault("prompt", min(default.prompt, max(context // 2, 1)))
    # The last token is not read, so it may stand one past the context.
    most = {"prefill": context, "prompt": context - 1}
    most |= dict.fromkeys(("new_tokens", "row_tokens"), max(context + 1 - prompt, 2))
    for name in _LONG:
        value = asked.setdefault(name, min(getattr(default, name), most[name]))
        if value > most[name]:
            problem = f"must be <= {most[name]} with this context of {context:,}, got {value:,}"
            raise UsageError(_option(name), problem)
    return Workload(**asked)


_LONG = ("prompt", "prefill", "new_tokens", "row_tokens")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
