"""Benchmark loading, prefill, decode and batches, against the machine's own rates.

Every run loads the model anew, measures a single sequence, a batch, then the machine itself: all
figures that are compared were measured within seconds.

The fields of `Run` and `Report` are keys of `gptcli bench --json`.
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
from gptcli.generation.sequence import Sequence as TokenSequence
from gptcli.model.config import GPTConfig
from gptcli.model.memory_estimate import decode_bytes, weight_bytes
from gptcli.model.parameters import decode_flops, prefill_flops
from gptcli.sampling.params import SamplingParams

_WARM_UP_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One run; times in seconds.

    Attributes:
        load: until the model is ready.
        prefill: of the long prompt.
        first: time to first token, of the short prompt.
        decode: all tokens after the first.
        batch: the whole batch, its prefill too; None without a batch.
        outside_engine: the part of `decode` outside the engine: sampling and the loop.
        peak: bytes. On a CPU the peak memory of the process by the end of decoding, less what it
            held before the model was loaded; None after the first run, and where the system does
            not tell. On a GPU the peak memory that PyTorch allocated.
        machine: the machine's own rates.
    """

    load: float
    prefill: float
    first: float
    decode: float
    batch: float | None
    outside_engine: float
    peak: int | None
    machine: Machine


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and the extremes of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class RateComparison:
    """A rate of the model, the machine's own in the same run, and their ratio."""

    model: Spread
    machine: Spread
    share: Spread


@dataclass(frozen=True, slots=True)
class Report:
    """Summary of the runs.

    Attributes:
        load: seconds.
        first: seconds to the first token, after the short prompt.
        prefill: tokens/s.
        decode: tokens/s.
        batch: new tokens/s; the time of the prefill is included.
        token: seconds per token of `decode`.
        outside_engine: seconds per token outside the engine.
        memory: bytes/s that decode must read and write.
        prefill_matmul: FLOP/s of the prefill's matmuls.
        batch_matmul: FLOP/s of the batch's, its prefill included.
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
    outside_engine: Spread
    memory: RateComparison
    prefill_matmul: RateComparison
    batch_matmul: RateComparison | None
    copy: Spread
    weights: int
    peak: int | None


def run(
    load: Callable[[], Engine],
    work: Workload,
    width: str,
    threads: int,
    device: str = "cpu",
    *,
    native: bool = False,
) -> Run:
    """Run a workload that fits the context.

    Args:
        load: loads the model; it is timed.
        work: what to measure.
        width: of the weights: a dtype, "int8" or "int4".
        threads: that compute.
        device: "cpu", or PyTorch's name of a GPU.
        native: whether the engine is the native one.
    """
    before, peak_before = resident_bytes(), peak_bytes()
    start = perf_counter()
    engine = _TimedEngine(load())
    config = engine.config
    loaded = perf_counter() - start
    ids = _random_ids(config, max(work.prefill, work.prompt))
    long, short = ids[: work.prefill], ids[: work.prompt]
    _decode(engine, long, 1)  # warm-up: what is done once for each shape
    _decode(engine, short, min(_WARM_UP_TOKENS, work.new_tokens))
    start = perf_counter()
    Prompt(engine, long, 1)
    prefill = perf_counter() - start
    first, decode, in_engine = _decode(engine, short, work.new_tokens)
    on_gpu = device.startswith("cuda")
    return Run(
        load=loaded,
        prefill=prefill,
        first=first,
        decode=decode,
        batch=_batch_seconds(engine, work) if work.rows else None,
        outside_engine=decode - in_engine,
        peak=_gpu_peak(device) if on_gpu else _peak_growth(before, peak_before),
        machine=machine.measure(
            weight_bytes(config, width), work.product, threads, device, native=native
        ),
    )


class _TimedEngine:
    """An engine whose steps are timed; `seconds` is their sum."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.config, self.new_cache = engine, engine.config, engine.new_cache
        self.seconds = 0.0

    def step(self, spans: Sequence[Span]) -> Logits:
        start = perf_counter()
        logits = self._engine.step(spans)
        self.seconds += perf_counter() - start
        return logits


def _gpu_peak(device: str) -> int:
    import torch  # noqa: PLC0415  # only a GPU needs it

    return torch.cuda.max_memory_allocated(device)


def _peak_growth(before: int | None, peak_before: int | None) -> int | None:
    """Bytes from `before` to the peak; None if the peak is older."""
    peak = peak_bytes()
    if peak is None or before is None or peak_before is None or peak <= peak_before:
        return None
    return peak - before


def report(
    runs: Sequence[Run], config: GPTConfig, work: Workload, width: str, cache: str = "float32"
) -> Report:
    """Summarize the runs of one workload.

    Args:
        runs: at least one.
        config: of the model.
        work: what they measured.
        width: of the weights: a dtype, "int8" or "int4".
        cache: dtype of the KV cache, which on a GPU is the model's.
    """
    decoded = max(work.new_tokens - 1, 1)  # tokens after the first
    mean_length = work.prompt + (decoded + 1) / 2
    moved = decode_bytes(config, width, mean_length, cache) * decoded
    row_flops = prefill_flops(config, work.prompt)
    row_flops += decode_flops(config, work.prompt, work.row_tokens - 1)
    batches = [(one, one.batch) for one in runs if one.batch is not None]
    return Report(
        load=Spread.of([one.load for one in runs]),
        first=Spread.of([one.first for one in runs]),
        prefill=Spread.of([work.prefill / one.prefill for one in runs]),
        decode=Spread.of([decoded / one.decode for one in runs]),
        batch=Spread.of([work.rows * work.row_tokens / seconds for _, seconds in batches])
        if batches
        else None,
        token=Spread.of([one.decode / decoded for one in runs]),
        outside_engine=Spread.of([one.outside_engine / decoded for one in runs]),
        memory=_compare([(moved / one.decode, one.machine.memory) for one in runs]),
        prefill_matmul=_compare(
            [(prefill_flops(config, work.prefill) / o.prefill, o.machine.product) for o in runs]
        ),
        batch_matmul=_compare(
            [(work.rows * row_flops / seconds, one.machine.product) for one, seconds in batches]
        )
        if batches
        else None,
        copy=Spread.of([one.machine.copy for one in runs]),
        weights=weight_bytes(config, width),
        peak=runs[0].peak,
    )


def _compare(pairs: Sequence[tuple[float, float]]) -> RateComparison:
    """From each run's rate of the model and of the machine."""
    model, machine = zip(*pairs, strict=True)
    shares = [ours / bound for ours, bound in pairs]
    return RateComparison(Spread.of(model), Spread.of(machine), Spread.of(shares))


def _random_ids(config: GPTConfig, count: int, seed: int = 0) -> list[int]:
    """The same ids for every model of one vocabulary; which ids they are changes no time."""
    random_numbers = random.Random(seed)
    return [random_numbers.randrange(config.vocab_size) for _ in range(count)]


def _decode(
    engine: _TimedEngine, ids: Sequence[int], new_tokens: int
) -> tuple[float, float, float]:
    """Seconds to the first token, of the others, and of these in the engine; greedy."""
    start = perf_counter()
    params = SamplingParams(max_new_tokens=new_tokens, temperature=0.0)
    tokens = iter(Generation(Prompt(engine, ids, new_tokens), params, seed=0))
    next(tokens)
    first, in_engine = perf_counter(), engine.seconds
    for _ in tokens:
        pass
    return first - start, perf_counter() - first, engine.seconds - in_engine


def _batch_seconds(engine: Engine, work: Workload) -> float:
    """Seconds to generate all rows, each after its own prompt; greedy."""
    params = SamplingParams(max_new_tokens=work.row_tokens, temperature=0.0)
    jobs = [
        Job(
            TokenSequence(
                prompt=_random_ids(engine.config, work.prompt, seed=row),
                params=params,
                context=engine.config.context_length,
                seed=0,
            )
        )
        for row in range(work.rows)
    ]
    scheduler = Scheduler(engine, work.rows)
    start = perf_counter()
    for _ in scheduler.run(jobs):
        pass
    return perf_counter() - start
