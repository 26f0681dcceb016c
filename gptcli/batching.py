"""Many texts at once: rows leave when they are done and new ones enter at once.

Each step reads whatever its rows need (a new prompt whole, one token of the others) in one flat
product. A text's bits depend on the text alone: prompts are read whole, attention runs row by row,
draws are counter-based, and products have at least two rows (`gptcli.linear`). Knows no text, no
files and no order but that in which texts finish.

Shapes: N tokens of a step, E emb_dim, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gptcli.errors import GptcliError
from gptcli.fast import FastGPT, Span
from gptcli.penalties import NothingLeftError
from gptcli.sequence import Sequence, Token, check_prompt

# A step reads prompts up to this many tokens together; more would make the others wait.
PROMPT_TOKENS_A_STEP = 512


@dataclass(slots=True)
class Job:
    """One text to write.

    Attributes:
        text: the sequence in the making; its finish_reason says why it ended.
        key: whatever the caller knows it by.
        watch: told of each token; true ends the text with reason "stop".
        problem: set where no token could be chosen and the text ended for that.
    """

    text: Sequence
    key: Any = None
    watch: Callable[[Token], bool] | None = None
    past: int = 0
    problem: GptcliError | None = None


class Batch:
    """The rows being written and the cache they share."""

    def __init__(self, model: FastGPT, rows: int) -> None:
        """`rows` texts at a time; one row more keeps a lonely token company."""
        self._model = model
        self._cache = model.new_cache(batch=rows + 1)
        self._companion = rows
        self._free = list(reversed(range(rows)))
        self._active: dict[int, Job] = {}

    def run(self, jobs: Iterable[Job | None]) -> Iterator[Job]:
        """Jobs as they end, in no order; the next is taken only when there is a row for it.

        None among the jobs is "not now": it is asked again after a step, unless nothing is left
        to step.

        Raises:
            UsageError: a prompt is empty or too long (check it first to go on without it).
            RunError: non-finite logits.
        """
        waiting = iter(jobs)
        while True:
            yield from self._admit(waiting)
            if not self._active:
                return
            yield from self._step()

    def _admit(self, waiting: Iterator[Job | None]) -> Iterator[Job]:
        """Fill free rows, up to a step's worth of prompts; yields what is done before it begins."""
        budget = PROMPT_TOKENS_A_STEP
        while self._free and budget > 0 and (job := next(waiting, None)) is not None:
            text = job.text
            check_prompt(text.prompt, text.context, text.overflow)
            if text.must_end():
                yield job
                continue
            budget -= len(text.prompt)
            self._active[self._free.pop()] = job

    def _step(self) -> Iterator[Job]:
        """One token for each row; yields the jobs that ended and frees their rows."""
        rows = list(self._active)
        for row, logits in zip(rows, self._logits(rows).split(1), strict=False):
            job = self._active[row]
            if _advance(job, logits):
                del self._active[row]
                self._free.append(row)
                yield job

    @torch.inference_mode()
    def _logits(self, rows: list[int]) -> Tensor:
        """(at least len(rows), V): what follows each row."""
        ids: list[int] = []
        spans: list[Span] = []
        for row in rows:
            job = self._active[row]
            past, unread = job.text.unread(job.past)
            spans.append(Span(row, past, len(ids), len(unread)))
            ids += unread
            job.past = past + len(unread)
        if len(ids) == 1:
            spans.append(Span(self._companion, 0, 1, 1))
            ids.append(0)
        hidden = self._model.hidden(
            torch.tensor(ids, device=self._model.device), spans, self._cache
        )
        last = [span.first + span.length - 1 for span in spans]
        return self._model.logits(hidden[last if len(last) > 1 else [last[0], 0]])


def _advance(job: Job, logits: Tensor) -> bool:
    """Whether the job has ended with the token that these logits give."""
    try:
        token = job.text.choose(logits)
    except NothingLeftError as problem:  # of this text alone, unlike logits that are not finite
        job.problem = problem
        return True
    if token is None:
        return True
    if job.watch is not None and job.watch(token):
        job.text.finish_reason = "stop"
        return True
    return job.text.must_end()
