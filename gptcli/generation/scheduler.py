"""Continuous batching: a sequence that ends makes room for the next one.

Each step computes whatever its texts need, prompts and single tokens together, in one call of the
engine. A text depends on itself alone: every text has a cache of its own, and its draws are
counter-based.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from gptcli.core.errors import RunError
from gptcli.core.memory import is_exhausted
from gptcli.engine.interface import Engine, Logits, Span
from gptcli.generation.prefix_cache import Prefixes
from gptcli.generation.sequence import Sequence, Token, check_prompt
from gptcli.sampling.processors import TextError

# Of all prompts together; a longer one is cut, so that the others wait no longer than for these.
PROMPT_TOKENS_A_STEP = 512

_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Job:
    """One text to write.

    Attributes:
        text: the sequence in the making; its finish_reason says why it ended.
        key: whatever the caller knows it by.
        watch: told of each token; true ends the text with reason "stop".
        restarted: called when the text is begun again, after which `watch` hears of it anew.
        problem: set where no token could be chosen and the text ended for that.
        cache: what the engine holds of the text, while it is being written.
    """

    text: Sequence
    key: Any = None
    watch: Callable[[Token], bool] | None = None
    restarted: Callable[[], object] | None = None
    problem: TextError | None = None
    cache: Any = None

    def restart(self) -> None:
        """Forget what was written: the draws are the text's own, so it will be written again."""
        self.text.ids.clear()
        self.text.finish_reason, self.cache = None, None
        if self.restarted is not None:
            self.restarted()


class Batch:
    """Writes texts, a limited number at a time."""

    def __init__(
        self,
        engine: Engine,
        rows: int,
        prefixes: Prefixes | None = None,
        on_fewer: Callable[[int], object] = lambda _rows: None,
    ) -> None:
        """`rows` texts at a time.

        Args:
            engine: what computes.
            rows: half as many, and again half, once there is not the memory for them.
            prefixes: computes once what prompts have in common.
            on_fewer: told how many rows are left.
        """
        self._engine, self._rows = engine, rows
        self._prefixes = prefixes or Prefixes(0)
        self._on_fewer = on_fewer
        self._active: list[Job] = []
        self._waiting: deque[Job] = deque()

    def run(self, jobs: Iterable[Job | None]) -> Iterator[Job]:
        """Jobs as they end, in no order; the next is taken only when there is a row for it.

        None among the jobs is "not now": it is asked again after a step, unless nothing is left
        to step.

        Raises:
            UsageError: a prompt is empty or too long (check it first to go on without it).
            RunError: non-finite logits, or not the memory for one row.
        """
        waiting = iter(jobs)
        while True:
            yield from self._admit(waiting)
            if not self._active:
                if not self._waiting:
                    return
                continue
            yield from self._step()

    def beside(self, work: Callable[[], _T]) -> _T:
        """What `work` gives, done between two jobs of `run`; with fewer rows if it must be.

        Raises:
            RunError: there is not the memory for it beside one row.
        """
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as problem:
                if not is_exhausted(problem):
                    raise
            self._shrink()  # here, where the exception no longer holds what was allocated

    def _admit(self, waiting: Iterator[Job | None]) -> Iterator[Job]:
        """Begin jobs while there is room for them; yields what is done before it begins."""
        while len(self._active) < self._rows and (job := self._next(waiting)) is not None:
            text = job.text
            check_prompt(text.prompt, text.context, text.overflow)
            if text.must_end():
                yield job
            elif self._active and self._prefixes.must_wait(text.prompt):
                self._waiting.appendleft(job)
                return
            else:
                self._begin(job)

    def _next(self, waiting: Iterator[Job | None]) -> Job | None:
        return self._waiting.popleft() if self._waiting else next(waiting, None)

    def _begin(self, job: Job) -> None:
        """Give a job a cache; with fewer rows, and later, if there is not the memory for it."""
        text = job.text
        capacity = min(text.context, len(text.prompt) + text.params.max_new_tokens)
        self._active.append(job)
        try:
            job.cache = self._engine.new_cache(capacity)
            if len(text.prompt) <= text.context:  # else its beginning is cut off
                self._prefixes.begin(text.prompt, job.cache)
        except (MemoryError, RuntimeError) as problem:
            if not is_exhausted(problem):
                raise
        else:
            return
        self._shrink()  # here, where the exception no longer holds what was allocated

    def _shrink(self) -> None:
        """Begin all texts again, half as many at a time.

        Raises:
            RunError: there was one.
        """
        for job in self._active:
            job.restart()
        self._waiting.extendleft(reversed(self._active))
        self._active.clear()
        self._prefixes.clear()
        if self._rows == 1:
            hint = "A smaller model, shorter prompts, `dtype=bfloat16` or `quantize` need less"
            raise RunError("memory", "exhausted for one text at a time", hint)
        self._rows //= 2
        self._on_fewer(self._rows)

    def _step(self) -> Iterator[Job]:
        """One token for each text whose prompt is computed; yields the jobs that ended."""
        spans = list(self._spans())
        if (found := self._compute([span for _, span in spans])) is None:
            return
        rows = iter(found)
        for job, span in spans:
            if job.cache is None:
                return  # what was done beside the last job took the memory: all begin again
            if span.n_logits and _advance(job, next(rows)):
                self._active.remove(job)
                has_prompt = len(job.text) <= job.text.context + 1
                self._prefixes.end(job.cache, keep=has_prompt)
                job.cache = None
                yield job

    def _spans(self) -> Iterator[tuple[Job, Span]]:
        """What each text needs; of prompts, so much as a step may compute, in their order."""
        budget = PROMPT_TOKENS_A_STEP
        for job in self._active:
            past, unread = job.text.unread(job.cache.length)
            job.cache.truncate(past)
            if len(job.text) > job.text.context:  # the window slides: no position stays
                self._prefixes.end(job.cache, keep=False)
                yield job, Span(job.cache, unread)
            elif len(unread) == 1 or len(unread) <= budget:
                budget -= 0 if len(unread) == 1 else len(unread)
                yield job, Span(job.cache, unread)
            elif budget > 0:
                yield job, Span(job.cache, unread[:budget], 0)
                budget = 0

    def _compute(self, spans: list[Span]) -> Logits | None:
        """Logits of the spans; None, and fewer rows, if there is not the memory."""
        try:
            return self._engine.step(spans)
        except (MemoryError, RuntimeError) as problem:
            if not is_exhausted(problem):
                raise
        self._shrink()  # here, where the exception no longer holds what the step had allocated
        return None


def _advance(job: Job, logits: Logits) -> bool:
    """Whether the job has ended with the token that these logits give."""
    try:
        token = job.text.choose(logits)
    except TextError as problem:  # of this text alone, unlike logits that are not finite
        job.problem = problem
        return True
    if token is None:
        return True
    if job.watch is not None and job.watch(token):
        job.text.finish_reason = "stop"
        return True
    return job.text.must_end()
