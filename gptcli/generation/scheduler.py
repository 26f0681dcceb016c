"""Many texts at once: rows leave when they are done and new ones enter at once.

Each step reads whatever its rows need (a new prompt whole, one token of the others) in one flat
product. A text's bits depend on the text alone: attention runs row by row
(`gptcli.engine.attention`) and in fixed blocks of positions (`gptcli.generation.prefix_cache`),
draws are counter-based, and products have at least two rows (`gptcli.engine.linear`). Knows no
text, no files and no order but that in which texts finish.

Shapes: N tokens of a step, E emb_dim, V vocabulary.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from gptcli.core.errors import RunError
from gptcli.core.memory import is_exhausted
from gptcli.engine.attention import Span
from gptcli.engine.fast import FastGPT
from gptcli.generation.prefix_cache import Prefixes, blocks
from gptcli.generation.sequence import Sequence, Token, check_prompt
from gptcli.model.gpt import KVCache
from gptcli.sampling.filters import Row
from gptcli.sampling.processors import TextError

# A step reads prompts up to this many tokens together; more would make the others wait.
PROMPT_TOKENS_A_STEP = 512

_T = TypeVar("_T")


@dataclass(slots=True)
class Job:
    """One text to write.

    Attributes:
        text: the sequence in the making; its finish_reason says why it ended.
        key: whatever the caller knows it by.
        watch: told of each token; true ends the text with reason "stop".
        restarted: called when the text is begun again, after which `watch` hears of it anew.
        problem: set where no token could be chosen and the text ended for that.
    """

    text: Sequence
    key: Any = None
    watch: Callable[[Token], bool] | None = None
    restarted: Callable[[], object] | None = None
    past: int = 0
    problem: TextError | None = None

    def restart(self) -> None:
        """Forget what was written: the draws are the text's own, so it will be written again."""
        self.text.ids.clear()
        self.text.finish_reason, self.past = None, 0
        if self.restarted is not None:
            self.restarted()


class Batch:
    """The rows being written and the cache they share."""

    def __init__(
        self,
        model: FastGPT,
        rows: int,
        prefixes: Prefixes | None = None,
        on_fewer: Callable[[int], object] = lambda _rows: None,
    ) -> None:
        """`rows` texts at a time; one row more keeps a lonely token company.

        Args:
            model: what writes.
            rows: half as many, and again half, once there is not the memory for them.
            prefixes: keeps what prompts have in common, which is then read once.
            on_fewer: told how many rows are left.

        Raises:
            RunError: there is not the memory for one row.
        """
        self._model, self._prefixes = model, prefixes or Prefixes(0)
        self._on_fewer = on_fewer
        self._active: dict[int, Job] = {}
        self._begun: list[int] = []  # rows that read their prompts in the next step
        self._waiting: deque[Job] = deque()
        self._open(rows)

    def _open(self, rows: int) -> None:
        """Make room for so many texts, or for as many as there is memory for."""
        while (cache := self._new_cache(rows + 1)) is None:
            rows = self._fewer(rows)
        self._cache, self._companion, self._free = cache, rows, list(reversed(range(rows)))

    def _new_cache(self, rows: int) -> KVCache | None:
        try:
            return self._model.new_cache(batch=rows)
        except (MemoryError, RuntimeError) as problem:
            if not is_exhausted(problem):
                raise
            return None

    def _fewer(self, rows: int) -> int:
        """Half of these rows."""
        if rows == 1:
            hint = "A smaller model, shorter prompts, `dtype=bfloat16` or `quantize` need less"
            raise RunError("memory", "there is not enough of it for one text at a time", hint)
        self._on_fewer(rows // 2)
        return rows // 2

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
                return
            step = self._step()
            while (job := self._ended(step)) is not None:
                yield job

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
        """Fill free rows, up to a step's worth of prompts; yields what is done before it begins."""
        budget = PROMPT_TOKENS_A_STEP
        while self._free and budget > 0 and (job := self._next(waiting)) is not None:
            text = job.text
            check_prompt(text.prompt, text.context, text.overflow)
            if text.must_end():
                yield job
            elif self._prefixes.is_in_hand(text.prompt):
                self._waiting.append(job)
                return
            else:
                budget -= self._begin(job)

    def _next(self, waiting: Iterator[Job | None]) -> Job | None:
        return self._waiting.popleft() if self._waiting else next(waiting, None)

    def _begin(self, job: Job) -> int:
        """Give a job a row → how many tokens of its prompt are to be read."""
        row, text = self._free.pop(), job.text
        self._active[row] = job
        if len(text.prompt) <= text.context:  # else its beginning is cut off
            job.past = self._prefixes.take(text.prompt, self._row(row))
            self._begun.append(row)
        return len(text.prompt) - job.past

    def _row(self, row: int) -> Tensor:
        """(L, 2, H, C, D) keys and values of a row."""
        return self._cache.store[:, :, row]

    def _ended(self, step: Iterator[Job]) -> Job | None:
        """The next job that a step has ended, None if no more; with fewer rows if it must be."""
        try:
            return next(step, None)
        except (MemoryError, RuntimeError) as problem:
            if not is_exhausted(problem):
                raise
        self._shrink()  # here, where the exception no longer holds what the step had allocated
        return None

    def _shrink(self) -> None:
        """Begin all texts again in half the rows."""
        for job in self._active.values():
            job.restart()
        self._waiting.extendleft(reversed(self._active.values()))
        self._active.clear()
        self._begun.clear()
        self._prefixes.clear()
        del self._cache  # before there is a smaller one
        self._open(self._fewer(self._companion))

    def _step(self) -> Iterator[Job]:
        """One token for each row; yields the jobs that ended and frees their rows."""
        rows = sorted(self._active)  # neighbours in the cache can share calls
        found = self._logits(rows).float().cpu().numpy()
        for row, logits in zip(rows, found, strict=False):
            if row not in self._active:
                return  # what was done beside the last job took the rows: all texts begin again
            job = self._active[row]
            if _advance(job, logits):
                del self._active[row]
                self._free.append(row)
                yield job

    @torch.inference_mode()
    def _logits(self, rows: list[int]) -> Tensor:
        """(at least len(rows), V): what follows each row."""
        ids: list[int] = []
        last: list[int] = []  # of each row's tokens
        spans: list[Span] = []
        for row in rows:
            job = self._active[row]
            past, unread = job.text.unread(job.past)
            for start, length in blocks(past, len(unread)):
                spans.append(Span(row, start, length))
            ids += unread
            last.append(len(ids) - 1)
            job.past = past + len(unread)
        if len(ids) == 1:
            spans.append(Span(self._companion, 0, 1))
            ids.append(0)
        hidden = self._model.hidden(
            torch.tensor(ids, device=self._model.device), spans, self._cache
        )
        for row in self._begun:
            self._prefixes.keep(self._active[row].text.prompt, self._row(row))
        self._begun.clear()
        return self._model.logits(hidden[last if len(last) > 1 else [last[0], 0]])


def _advance(job: Job, logits: Row) -> bool:
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
