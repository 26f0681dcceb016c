"""Benchmark loading, prefill, decode and batches, against the machine's own rates.

Every run loads the model anew, measures it through the loop that generates, then a batch, then the
machine itself: all that is compared was measured within seconds.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from gptcli.core.memory import peak_bytes, resident_bytes
from gptcli.diagnostics import machine
from gptcli.diagnostics.machine import Machine
from gptcli.diagnostics.workload import Workload
from gptcli.engine.interface import Engine, Logits, Span
from gptcli.generation.decode import Generation, Prompt
from gptcli.generation.scheduler import Job, Scheduler
from gptcli.generation.sequence import Sequence as Text
from gptcli.model.config import GPTConfig
from gptcli.model.memory_estimate import decode_bytes, weight_bytes
from gptcli.model.parameters import decode_flops, prefill_flops
from gptcli.sampling.params import SamplingParams

_WARM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One run, in seconds; bytes where it says so.

    Attributes:
        load: until the model is ready.
        prefill: reading the long prompt.
        first: from the short prompt's ids to the first token.
        decode: all tokens after the first.
        batch: the whole batch, prompts too; None without one.
        outside: of `decode`, what was not spent in the engine: choosing tokens.
        peak: bytes, the most the process has held by the end of decoding, above what it held
            before the model was loaded; only of the first run, and where the system tells. On a
            GPU the most that was allocated there.
        machine: the machine's own rates.
    """

    load: float
    prefill: float
    first: float
    decode: float
    batch: float | None
    outside: float
    peak: int | None
    machine: Machine


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The middle one, the least and the greatest."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Reached:
    """A rate of the model next to the machine's own of the same run, and their ratio."""

    model: Spread
    machine: Spread
    share: Spread


@dataclass(frozen=True, slots=True)
class Report:
    """What the runs say.

    Attributes:
        load: seconds.
        first: seconds from a short prompt's ids to the first token.
        prefill, decode, batch: tokens/s; the batch's are the new ones, its prompts' time counts.
        token: seconds a token of `decode`.
        outside: seconds a token that are not spent in the engine.
        memory: bytes/s that decoding must move.
        products: FLOP/s of reading the prompt.
        batch_products: FLOP/s of the batch, prompts too.
        copy: bytes/s of the machine's copy.
        weights: bytes of weights that a token reads.
        peak: bytes, see `Run`.
    """

    load: Spread
    first: Spread
    prefill: Spread
    decode: Spread
    batch: Spread | None
    token: Spread
    outside: Spread
    memory: Reached
    products: Reached
    batch_products: Reached | None
    copy: Spread
    weights: int
    peak: int | None


def run(
    load: Callable[[], Engine], work: Workload, width: str, threads: int, device: str = "cpu"
) -> Run:
    """One run of a workload that the context holds.

    Args:
        load: gives the model; it is timed.
        work: what to measure.
        width: of its weights: a dtype, "int8" or "int4".
        threads: that compute.
        device: where.
    """
    before, peak_before = resident_bytes(), peak_bytes()
    start = perf_counter()
    engine = _Timed(load())
    config = engine.config
    loaded = perf_counter() - start
    ids = _ids(config, max(work.prefill, work.prompt))
    long, short = ids[: work.prefill], ids[: work.prompt]
    _write(engine, long, 1)  # what is done once for each shape is done here
    _write(engine, short, min(_WARM_TOKENS, work.new_tokens))
    start = perf_counter()
    Prompt(engine, long, 1)
    prefill = perf_counter() - start
    first, decode, inside = _write(engine, short, work.new_tokens)
    grown = _on_device(device) if device.startswith("cuda") else _growth(before, peak_before)
    return Run(
        load=loaded,
        prefill=prefill,
        first=first,
        decode=decode,
        batch=_batch(engine, work) if work.rows else None,
        outside=decode - inside,
        peak=grown,
        machine=machine.measure(weight_bytes(config, width), work.product, threads, device),
    )


class _Timed:
    """An engine that says how long it computed; its logits are there when a step returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.config, self.new_cache = engine, engine.config, engine.new_cache
        self.seconds = 0.0

    def step(self, spans: Sequence[Span]) -> Logits:
        start = perf_counter()
        logits = self._engine.step(spans)
        self.seconds += perf_counter() - start
        return logits


def _on_device(device: str) -> int:
    import torch  # noqa: PLC0415  # only a GPU needs it

    return torch.cuda.max_memory_allocated(device)


def _growth(before: int | None, peak_before: int | None) -> int | None:
    """Bytes from `before` to the peak, if there was a new one."""
    peak = peak_bytes()
    if peak is None or before is None or peak_before is None or peak <= peak_before:
        return None
    return peak - before


def report(
    runs: Sequence[Run], config: GPTConfig, work: Workload, width: str, cache: str = "float32"
) -> Report:
    """What the runs of one workload say.

    Args:
        runs: at least one.
        config: of the model.
        work: what they did.
        width: of the weights: a dtype, "int8" or "int4".
        cache: the dtype of keys and values, which is the model's own on a GPU.
    """
    after = max(work.new_tokens - 1, 1)  # tokens after the first
    moved = decode_bytes(config, width, work.prompt + (after + 1) / 2, cache) * after
    a_row = prefill_flops(config, work.prompt)
    a_row += decode_flops(config, work.prompt, work.row_tokens - 1)
    batches = [(one, one.batch) for one in runs if one.batch is not None]
    return Report(
        load=Spread.of([one.load for one in runs]),
        first=Spread.of([one.first for one in runs]),
        prefill=Spread.of([work.prefill / one.prefill for one in runs]),
        decode=Spread.of([after / one.decode for one in runs]),
        batch=Spread.of([work.rows * work.row_tokens / seconds for _, seconds in batches])
        if batches
        else None,
        token=Spread.of([one.decode / after for one in runs]),
        outside=Spread.of([one.outside / after for one in runs]),
        memory=_reached([(moved / one.decode, one.machine.memory) for one in runs]),
        products=_reached(
            [(prefill_flops(config, work.prefill) / o.prefill, o.machine.product) for o in runs]
        ),
        batch_products=_reached(
            [(work.rows * a_row / seconds, one.machine.product) for one, seconds in batches]
        )
        if batches
        else None,
        copy=Spread.of([one.machine.copy for one in runs]),
        weights=weight_bytes(config, width),
        peak=runs[0].peak,
    )


def _reached(pairs: Sequence[tuple[float, float]]) -> Reached:
    ours, its = zip(*pairs, strict=True)
    return Reached(Spread.of(ours), Spread.of(its), Spread.of([a / b for a, b in pairs]))


def _ids(config: GPTConfig, count: int, seed: int = 0) -> list[int]:
    """The same ids for every model of one vocabulary; what they are changes no time."""
    draw = random.Random(seed)
    return [draw.randrange(config.vocab_size) for _ in range(count)]


def _write(engine: _Timed, ids: Sequence[int], new_tokens: int) -> tuple[float, float, float]:
    """Seconds until the first token, of all others, and of these in the engine: greedy, through
    the loop of `generate`.
    """
    start = perf_counter()
    params = SamplingParams(max_new_tokens=new_tokens, temperature=0.0)
    tokens = iter(Generation(Prompt(engine, ids, new_tokens), params, seed=0))
    next(tokens)
    first, inside = perf_counter(), engine.seconds
    for _ in tokens:
        pass
    return first - start, perf_counter() - first, engine.seconds - inside


def _batch(engine: Engine, work: Workload) -> float:
    """Seconds to write all rows, each after a prompt of its own."""
    params = SamplingParams(max_new_tokens=work.row_tokens, temperature=0.0)
    jobs = [
        Job(
            Text(
                prompt=_ids(engine.config, work.prompt, row),
                params=params,
                context=engine.config.context_length,
                seed=0,
            )
        )
        for row in range(work.rows)
    ]
    batch = Scheduler(engine, work.rows)
    start = perf_counter()
    for _ in batch.run(jobs):
        pass
    return perf_counter() - start
