"""Continuous batching: a sequence that ends makes room for the next one.

Each step prefills prompts and decodes one token of every other sequence in one call of the engine.
A sequence depends on itself alone: it has a cache of its own, and its draws are counter-based.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from gptcli.core.errors import RunError
from gptcli.core.memory import is_out_of_memory
from gptcli.engine.interface import Cache, Engine, Logits, Span
from gptcli.generation.prefix_cache import PrefixCache
from gptcli.generation.sequence import Sequence, Token, check_prompt
from gptcli.sampling.processors import TextError

# Over all prompts: a longer prompt is prefilled in chunks, so that decoding never waits long.
PROMPT_TOKENS_PER_STEP = 512

_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Job:
    """One sequence to complete.

    Attributes:
        sequence: prompt and new tokens; its finish_reason says why it ended.
        key: whatever the caller knows it by.
        watch: called with each token; true ends the sequence with reason "stop".
        restarted: called when decoding starts over, after which `watch` gets every token again.
        problem: set if the sequence ended because no token could be chosen.
        cache: its keys and values in the engine, while it is active.
    """

    sequence: Sequence
    key: Any = None
    watch: Callable[[Token], bool] | None = None
    restarted: Callable[[], object] | None = None
    problem: TextError | None = None
    cache: Cache | None = None

    def restart(self) -> None:
        """Drop the new tokens; counter-based draws will give the same ones again."""
        self.sequence.ids.clear()
        self.sequence.finish_reason, self.cache = None, None
        if self.restarted is not None:
            self.restarted()


class Scheduler:
    """Completes sequences, a limited number at a time."""

    def __init__(
        self,
        engine: Engine,
        rows: int,
        prefixes: PrefixCache | None = None,
        on_fewer: Callable[[int], object] = lambda _rows: None,
    ) -> None:
        """Complete `rows` sequences at a time.

        Args:
            engine: what computes.
            rows: halved, as often as needed, when memory runs out.
            prefixes: the prefix cache; None for none.
            on_fewer: called with the number of rows once it was halved.
        """
        self._engine, self._rows = engine, rows
        self._prefixes = prefixes or PrefixCache(0)
        self._on_fewer = on_fewer
        self._active: list[Job] = []
        self._waiting: deque[Job] = deque()

    def run(self, jobs: Iterable[Job | None]) -> Iterator[Job]:
        """Jobs as they end, in no order; the next is taken only when there is a row for it.

        None among the jobs means "none yet": the iterator is asked again after the next step. If
        nothing is active, the run ends.

        Raises:
            UsageError: a prompt is empty or too long (check it first to go on without it).
            RunError: non-finite logits, or out of memory with one row.
        """
        waiting = iter(jobs)
        while True:
            yield from self._admit(waiting)
            if not self._active:
                if not self._waiting:
                    return
                continue
            yield from self._step()

    def with_memory(self, work: Callable[[], _T]) -> _T:
        """Call `work` between two jobs of `run`, halving the rows until it has the memory.

        Raises:
            RunError: out of memory with one row.
        """
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as problem:
                if not is_out_of_memory(problem):
                    raise
            self._shrink()  # here, where the exception no longer holds what was allocated

    def _admit(self, waiting: Iterator[Job | None]) -> Iterator[Job]:
        """Begin jobs while there are rows; yields jobs that need no step."""
        while len(self._active) < self._rows and (job := self._next(waiting)) is not None:
            sequence = job.sequence
            check_prompt(sequence.prompt, sequence.context, sequence.overflow)
            if sequence.must_end():
                yield job
            elif self._active and self._prefixes.must_wait(sequence.prompt):
                self._waiting.appendleft(job)
                return
            else:
                self._begin(job)

    def _next(self, waiting: Iterator[Job | None]) -> Job | None:
        return self._waiting.popleft() if self._waiting else next(waiting, None)

    def _begin(self, job: Job) -> None:
        """Allocate a job's cache; out of memory, it waits and the rows are halved."""
        sequence = job.sequence
        n_tokens = len(sequence.prompt) + sequence.params.max_new_tokens
        self._active.append(job)
        try:
            job.cache = self._engine.new_cache(min(sequence.context, n_tokens))
            if len(sequence.prompt) <= sequence.context:  # else its beginning is cut off
                self._prefixes.begin(sequence.prompt, job.cache)
        except (MemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem):
                raise
        else:
            return
        self._shrink()  # here, where the exception no longer holds what was allocated

    def _shrink(self) -> None:
        """Restart all active jobs with half as many rows.

        Raises:
            RunError: there was one row.
        """
        for job in self._active:
            job.restart()
        self._waiting.extendleft(reversed(self._active))
        self._active.clear()
        self._prefixes.clear()
        if self._rows == 1:
            hint = "A smaller model, shorter prompts, `dtype=bfloat16` or `quantize` need less"
            raise RunError("memory", "exhausted for one sequence at a time", hint)
        self._rows //= 2
        self._on_fewer(self._rows)

    def _step(self) -> Iterator[Job]:
        """One token for each sequence whose prompt is prefilled; yields the jobs that ended."""
        spans = list(self._spans())
        if (found := self._compute([span for _, span in spans])) is None:
            return
        rows = iter(found)
        for job, span in spans:
            if job.cache is None:
                return  # `with_memory`, called for the job just yielded, restarted all others
            if span.n_logits and _advance(job, next(rows)):
                self._active.remove(job)
                # A window that slid no longer holds the prompt.
                keep = len(job.sequence) <= job.sequence.context + 1
                self._prefixes.end(job.cache, keep=keep)
                job.cache = None
                yield job

    def _spans(self) -> Iterator[tuple[Job, Span]]:
        """What to compute of each job: one token, or as much of its prompt as the budget allows."""
        budget = PROMPT_TOKENS_PER_STEP
        for job in self._active:
            assert job.cache is not None, "an active sequence has a cache"
            past, ids = job.sequence.uncached(job.cache.length)
            job.cache.truncate(past)
            if len(job.sequence) > job.sequence.context:  # the window slides: no position stays
                self._prefixes.end(job.cache, keep=False)
                yield job, Span(job.cache, ids)
            elif len(ids) == 1 or len(ids) <= budget:
                budget -= 0 if len(ids) == 1 else len(ids)
                yield job, Span(job.cache, ids)
            elif budget > 0:
                yield job, Span(job.cache, ids[:budget], 0)
                budget = 0

    def _compute(self, spans: list[Span]) -> Logits | None:
        """Logits of the spans; None, with the rows halved, if memory ran out."""
        try:
            return self._engine.step(spans)
        except (MemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem):
                raise
        self._shrink()  # here, where the exception no longer holds what the step had allocated
        return None


def _advance(job: Job, logits: Logits) -> bool:
    """Append the token that these logits give; whether the job has ended."""
    try:
        token = job.sequence.choose(logits)
    except TextError as problem:  # of this sequence alone, unlike non-finite logits
        job.problem = problem
        return True
    if token is None:
        return True
    if job.watch is not None and job.watch(token):
        job.sequence.finish_reason = "stop"
        return True
    return job.sequence.must_end()
