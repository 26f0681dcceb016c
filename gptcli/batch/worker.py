"""Answer a batch's records with one model, many texts at a time, each as soon as it ends.

An answer depends on its record, the spec and the model alone: neither on the number of texts that
are written at a time nor on which they are.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gptcli.batch.fields import BadRecordError
from gptcli.batch.job import JobSpec
from gptcli.batch.logprobs import Score
from gptcli.batch.request import Failure, Record
from gptcli.batch.result_lines import Answer, Sample
from gptcli.core.errors import UsageError
from gptcli.engine.interface import Engine, Span
from gptcli.generation.prefix_cache import PrefixCache
from gptcli.generation.scheduler import Job, Scheduler
from gptcli.generation.sequence import Sequence as Text
from gptcli.generation.sequence import Token
from gptcli.generation.text_stream import StopFinder
from gptcli.sampling.constraint import ConstraintError, matcher
from gptcli.sampling.sampler import log_probabilities, refuse_non_finite
from gptcli.tokenizer.tokenizer import MAX_PROMPT_BYTES, Tokenizer

Emit = Callable[[Answer | Failure], None]
_AT_ONCE = 64  # positions of a prompt whose logits are in memory together


class _Writing:
    """One sample while it is decoded."""

    def __init__(self, pending: "_Pending", text: Text, answerer: "Answerer") -> None:
        self.pending, self.text, self._on_token = pending, text, answerer.on_token
        self._tokenizer, self._keep_stop = answerer.tokenizer, answerer.spec.keep_stop
        self.restart()

    def restart(self) -> None:
        """Drop all tokens decoded so far."""
        self._finder = StopFinder(self.pending.record.stop)
        self._decoder, self._written = self._tokenizer.decoder(self.text.prompt), ""
        self._scores: list[Score] | None = None if self.text.logprobs is None else []

    def watch(self, token: Token) -> bool:
        """Whether a stop string has come."""
        self._on_token()
        if self._scores is not None:
            top = [self._score(id, logprob) for id, logprob in token.top]
            self._scores.append(self._score(token.id, token.logprob, *top))
        if not self.pending.record.stop:
            return False
        self._written += self._finder.feed(self._decoder.feed(token.id))
        return self._finder.found is not None

    def sample(self) -> Sample:
        """What has been written, once it has ended."""
        reason = str(self.text.finish_reason)
        if not self.pending.record.stop:
            return self._sample(self._tokenizer.decode(self.text.ids, self.text.prompt), reason)
        if self._finder.found is None:
            self._written += self._finder.feed(self._decoder.finish())
        stop = self._finder.found
        if stop is None:
            return self._sample(self._written + self._finder.finish(), reason)
        kept = stop if self._keep_stop else ""
        return self._sample(self._written + kept, "stop", stop)

    def _sample(self, text: str, reason: str, stop: str | None = None) -> Sample:
        return Sample(text, self.text.ids, reason, stop, self._scores)

    def _score(self, id: int, logprob: float | None, *top: Score) -> Score:
        value = math.nan if logprob is None else logprob
        return Score(id, self._tokenizer.token_bytes(id), value, top)


@dataclass(slots=True)
class _Pending:
    """A record whose samples are being written."""

    record: Record
    ids: list[int]
    truncated: int
    samples: dict[int, Sample] = field(default_factory=dict)
    failure: Failure | None = None


class Answerer:
    """A model that answers records, many at once.

    Attributes:
        active: samples being written now.
        held_tokens: the most that they will have together.
        new_tokens: written so far, over all records.
        on_token: called after each token; it may raise to end everything.
        on_special: told of the first special token that a prompt spells and that is read as text.
        on_fewer: told how many texts are written at a time from now on, when memory runs out.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        spec: JobSpec,
        *,
        rows: int,
        max_tokens: int | None = None,
    ) -> None:
        """`rows` texts at a time, of `max_tokens` tokens together (one text may have more)."""
        self.tokenizer, self.spec = tokenizer, spec
        self.active = self.new_tokens = 0
        self.on_token: Callable[[], object] = lambda: None
        self.on_special: Callable[[str], object] = lambda _token: None
        self._told_special = False
        self.on_fewer: Callable[[int], object] = lambda _rows: None
        self._engine, self._rows = engine, rows
        kept = _kept_positions(engine.config.context_length, rows, max_tokens)
        self._prefixes = PrefixCache(kept)
        self._max_tokens = None if max_tokens is None else max_tokens - kept
        self.held_tokens = 0

    @property
    def shared_tokens(self) -> int:
        """Prompt tokens taken from the prefix cache instead of a prefill."""
        return self._prefixes.shared

    def run(self, records: Iterator[Record | Failure | None], emit: Emit) -> None:
        """Answer all records, each as soon as it is done.

        A None among them is "none yet"; failures are passed on.

        Raises:
            RunError: a fault of the model, not of a record; not the memory for one text.
        """
        jobs = _Restartable(self._jobs(records, emit))
        scheduler = Scheduler(self._engine, self._rows, self._prefixes, self._use)
        self.active = self.held_tokens = 0
        while not jobs.is_exhausted:
            for job in scheduler.run(jobs):
                self._end(job, scheduler, emit)

    def _use(self, rows: int) -> None:
        self._rows = rows
        self.on_fewer(rows)

    def prepare(self, record: Record) -> tuple[list[int], int]:
        """The token ids of a record's prompt, and how many were cut from its beginning.

        Raises:
            BadRecordError: it has no tokens, too many, or some that there are not.
        """
        self._require_known(record)
        try:
            matcher(record.params.constraint, self.tokenizer)
        except ConstraintError as problem:
            raise BadRecordError(problem.code, problem.problem) from None
        ids = self._encode(record)
        context, new = self._engine.config.context_length, record.params.max_new_tokens
        if self.spec.truncate_prompt and len(ids) + new > context:
            kept = max(1, context - new)
            return ids[-kept:], max(0, len(ids) - kept)
        if len(ids) > context and self.spec.overflow != "slide":
            found = f"{len(ids):,} tokens, expected at most {context:,}, the context"
            raise BadRecordError("prompt_too_long", f"the prompt is too long ({found})")
        return ids, 0

    def texts(self, record: Record, ids: Sequence[int]) -> Iterator[Text]:
        """The samples of a record, before their prefill."""
        for number in range(record.num_samples):
            yield Text(
                prompt=ids,
                params=record.params,
                context=self._engine.config.context_length,
                seed=self.spec.seed if record.seed is None else record.seed,
                record=record.draw_name,
                sample=number,
                eos_ids=self.tokenizer.eos_ids,
                n_vocab=self.tokenizer.n_vocab,
                logprobs=record.logprobs,
                constraint=matcher(record.params.constraint, self.tokenizer),
                overflow="slide" if self.spec.overflow == "slide" else "stop",
            )

    def _jobs(self, records: Iterator[Record | Failure | None], emit: Emit) -> Iterator[Job | None]:
        for record in records:
            if record is None:
                yield None
            elif isinstance(record, Failure):
                emit(record)
            else:
                yield from self._begin(record, emit)

    def _begin(self, record: Record, emit: Emit) -> Iterator[Job | None]:
        try:
            pending = _Pending(record, *self.prepare(record))
        except BadRecordError as problem:
            emit(record.failure(problem.code, problem.message))
            return
        for text in self.texts(record, pending.ids):
            while not self._has_room(text):
                yield None
            self.active += 1
            self.held_tokens += self._size(text)
            writing = _Writing(pending, text, self)
            yield Job(text, writing, writing.watch, writing.restart)

    def _end(self, job: Job, scheduler: Scheduler, emit: Emit) -> None:
        writing: _Writing = job.key
        pending, text = writing.pending, writing.text
        self.active -= 1
        self.held_tokens -= self._size(text)
        self.new_tokens += len(text.ids)
        self._judge(job, pending)
        pending.samples[text.sample] = writing.sample()
        if len(pending.samples) == pending.record.num_samples:
            emit(pending.failure or self._answer(pending, scheduler))

    def _judge(self, job: Job, pending: _Pending) -> None:
        record = pending.record
        if job.problem is not None:
            pending.failure = record.failure(job.problem.code, job.problem.problem)
        elif self.spec.overflow == "error" and job.sequence.finish_reason == "context":
            found = f"full after {len(job.sequence.ids):,} new tokens"
            pending.failure = record.failure("context_full", f"the context is {found}")

    def _answer(self, pending: _Pending, scheduler: Scheduler) -> Answer:
        record = pending.record
        samples = [pending.samples[number] for number in range(record.num_samples)]
        given = isinstance(record.prompt, str)
        prompt = str(record.prompt) if given else self.tokenizer.decode(pending.ids)
        scores = self._of_prompt(pending, scheduler)
        return Answer(record, prompt, pending.ids, pending.truncated, samples, scores)

    def _of_prompt(self, pending: _Pending, scheduler: Scheduler) -> list[Score] | None:
        count = pending.record.echoed_logprobs
        if count is None:
            return None
        self.on_token()  # it may take as long as one
        return scheduler.with_memory(
            lambda: prompt_scores(self._engine, self.tokenizer, pending.ids, count)
        )

    def _require_known(self, record: Record) -> None:
        n_vocab = self.tokenizer.n_vocab
        ids = [id for id, _ in record.params.logit_bias]
        ids += record.prompt if isinstance(record.prompt, tuple) else ()
        if ids and max(ids) >= n_vocab:
            found = f"{max(ids)}, expected below {n_vocab}"
            raise BadRecordError("wrong_value", f"a token id is not in the vocabulary ({found})")

    def _encode(self, record: Record) -> list[int]:
        if isinstance(record.prompt, tuple):
            ids = list(record.prompt)
        else:
            ids = self._tokenized(record.prompt, special=record.special)
        if ids:
            return ids
        if self.tokenizer.eos_id is None:
            raise BadRecordError("empty_prompt", "there is no end-of-text token to begin at")
        return [self.tokenizer.eos_id]

    def _tokenized(self, prompt: str, *, special: bool) -> list[int]:
        size = len(prompt.encode())
        if size > MAX_PROMPT_BYTES:
            found = f"{size:,} bytes, expected at most {MAX_PROMPT_BYTES:,}"
            raise BadRecordError("prompt_too_long", f"the prompt is too long ({found})")
        try:
            ids = self.tokenizer.prompt(prompt, special=special)
        except UsageError as error:
            raise BadRecordError("tokenizer_failed", error.problem) from None
        if not special and not self._told_special:
            spelled = self.tokenizer.spelled_special(prompt)
            if spelled is not None:
                self._told_special = True
                self.on_special(spelled)
        return ids

    def _has_room(self, text: Text) -> bool:
        limit = self._max_tokens
        return limit is None or not self.active or self.held_tokens + self._size(text) <= limit

    def _size(self, text: Text) -> int:
        """Cached tokens at most."""
        return min(text.context, len(text.prompt) + text.params.max_new_tokens)


def prompt_scores(
    engine: Engine, tokenizer: Tokenizer, ids: Sequence[int], count: int
) -> list[Score]:
    """Log-probabilities of a prompt's tokens, with `count` alternatives each.

    NaN for the first token, and for those that a longer prompt has beyond the context. A batch
    keeps no logits of prompts, so the prompt is computed here by itself.

    Raises:
        RunError: non-finite logits.
    """

    def score(id: int, logprob: float, *top: Score) -> Score:
        return Score(id, tokenizer.token_bytes(id), logprob, top)

    seen = ids[-engine.config.context_length :]
    found = [score(id, math.nan) for id in ids[: len(ids) - len(seen) + 1]]
    cache = engine.new_cache(len(seen))
    for first in range(0, len(seen) - 1, _AT_ONCE):
        part = seen[first : min(first + _AT_ONCE, len(seen) - 1)]
        logits = engine.step([Span(cache, part, len(part))])[:, : tokenizer.n_vocab]
        refuse_non_finite(logits, position=first + 1)
        for id, row in zip(seen[first + 1 :], logits, strict=False):
            logprob, top = log_probabilities(row, id, count)
            found.append(score(id, logprob, *(score(*other) for other in top)))
    return found


def _kept_positions(context: int, rows: int, max_tokens: int | None) -> int:
    """The size of the prefix cache in tokens: small beside the sequences' own cache.

    Room for one sequence is enough to keep the prefix that all prompts share.
    """
    kept = max(context, rows * context // 8)
    return kept if max_tokens is None else min(kept, max_tokens // 8)


class _Restartable:
    """An iterator that says whether it has ended; a batch may leave it and come back."""

    def __init__(self, jobs: Iterator[Job | None]) -> None:
        self._jobs, self.is_exhausted = jobs, False

    def __iter__(self) -> Iterator[Job | None]:
        return self

    def __next__(self) -> Job | None:
        try:
            return next(self._jobs)
        except StopIteration:
            self.is_exhausted = True
            raise
