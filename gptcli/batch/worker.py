"""Answer a batch's records with one model in this process, many sequences at a time.

An answer depends on its record, the spec and the model alone, not on what else is in the batch.
"""

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

from gptcli.batch.fields import BadRecordError
from gptcli.batch.job import JobSpec
from gptcli.batch.logprobs import TokenLogprob
from gptcli.batch.request import Failure, Record
from gptcli.batch.result_lines import Answer, Sample
from gptcli.core.errors import UsageError
from gptcli.core.units import plural
from gptcli.engine.interface import Engine, Span
from gptcli.generation.prefix_cache import PrefixCache
from gptcli.generation.scheduler import Job, Scheduler
from gptcli.generation.sequence import Sequence, Token
from gptcli.generation.text_stream import StopFinder
from gptcli.sampling.constraint import ConstraintError, matcher
from gptcli.sampling.sampler import log_probabilities, refuse_non_finite
from gptcli.tokenizer.tokenizer import MAX_PROMPT_BYTES, Tokenizer

Emit = Callable[[Answer | Failure], None]
_CHUNK = 64  # prompt tokens whose logits are in memory together


class _Decoding:
    """One sample while it is decoded."""

    def __init__(self, pending: "_Pending", sequence: Sequence, worker: "BatchWorker") -> None:
        self.pending, self.sequence, self._on_token = pending, sequence, worker.on_token
        self._tokenizer, self._keep_stop = worker.tokenizer, worker.spec.keep_stop
        self.restart()

    def restart(self) -> None:
        """Forget all tokens so far, before they are decoded again."""
        self._finder = StopFinder(self.pending.record.stop)
        self._decoder, self._text = self._tokenizer.decoder(self.sequence.prompt), ""
        self._logprobs: list[TokenLogprob] | None = None if self.sequence.logprobs is None else []

    def watch(self, token: Token) -> bool:
        """Take the next token; whether a stop string ends with it."""
        self._on_token()
        if self._logprobs is not None:
            top = [self._logprob(id, logprob) for id, logprob in token.top]
            self._logprobs.append(self._logprob(token.id, token.logprob, *top))
        if not self.pending.record.stop:
            return False
        self._text += self._finder.feed(self._decoder.feed(token.id))
        return self._finder.found is not None

    def sample(self) -> Sample:
        """The finished sample."""
        reason = str(self.sequence.finish_reason)
        if not self.pending.record.stop:
            return self._sample(
                self._tokenizer.decode(self.sequence.ids, self.sequence.prompt), reason
            )
        if self._finder.found is None:
            self._text += self._finder.feed(self._decoder.finish())
        stop = self._finder.found
        if stop is None:
            return self._sample(self._text + self._finder.finish(), reason)
        kept = stop if self._keep_stop else ""
        return self._sample(self._text + kept, "stop", stop)

    def _sample(self, text: str, reason: str, stop: str | None = None) -> Sample:
        return Sample(text, self.sequence.ids, reason, stop, self._logprobs)

    def _logprob(self, id: int, logprob: float | None, *top: TokenLogprob) -> TokenLogprob:
        value = math.nan if logprob is None else logprob
        return TokenLogprob(id, self._tokenizer.token_bytes(id), value, top)


@dataclass(slots=True)
class _Pending:
    """A record whose samples are being decoded."""

    record: Record
    ids: list[int]
    truncated: int
    samples: dict[int, Sample] = field(default_factory=dict)
    failure: Failure | None = None


class BatchWorker:
    """A model that answers records, many sequences at a time.

    Attributes:
        active: samples being decoded now.
        held_tokens: positions reserved for them in the key/value cache.
        new_tokens: decoded so far, over all records.
        on_token: called after each token; it may raise to end the job.
        on_special: called with the first special token that a prompt spells and that is not read
            as one.
        on_fewer: called with the smaller batch size once memory has run out.
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
        """Up to `rows` sequences and `max_tokens` cached tokens; a longer one runs alone."""
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

        None among the records means "none yet"; failures are passed on.

        Raises:
            RunError: the model fails, or memory does not suffice for one sequence.
        """
        jobs = _JobQueue(self._jobs(records, emit))
        scheduler = Scheduler(self._engine, self._rows, self._prefixes, self._shrunk)
        self.active = self.held_tokens = 0
        while not jobs.is_exhausted:
            for job in scheduler.run(jobs):
                self._end(job, scheduler, emit)

    def _shrunk(self, rows: int) -> None:
        self._rows = rows
        self.on_fewer(rows)

    def prepare(self, record: Record) -> tuple[list[int], int]:
        """The token ids of a record's prompt, and how many were cut from its beginning.

        Raises:
            BadRecordError: it has no tokens, too many, or ids outside the vocabulary.
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

    def sequences(self, record: Record, ids: Ids[int]) -> Iterator[Sequence]:
        """A sequence for each sample of a record."""
        for number in range(record.num_samples):
            yield Sequence(
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
        for sequence in self.sequences(record, pending.ids):
            while not self._has_room(sequence):
                yield None
            self.active += 1
            self.held_tokens += self._size(sequence)
            decoding = _Decoding(pending, sequence, self)
            yield Job(sequence, decoding, decoding.watch, decoding.restart)

    def _end(self, job: Job, scheduler: Scheduler, emit: Emit) -> None:
        decoding: _Decoding = job.key
        pending, sequence = decoding.pending, decoding.sequence
        self.active -= 1
        self.held_tokens -= self._size(sequence)
        self.new_tokens += len(sequence.ids)
        self._note_failure(job, pending)
        pending.samples[sequence.sample] = decoding.sample()
        if len(pending.samples) == pending.record.num_samples:
            emit(pending.failure or self._answer(pending, scheduler))

    def _note_failure(self, job: Job, pending: _Pending) -> None:
        record = pending.record
        if job.problem is not None:
            pending.failure = record.failure(job.problem.code, job.problem.problem)
        elif self.spec.overflow == "error" and job.sequence.finish_reason == "context":
            found = f"full after {plural(len(job.sequence.ids), 'new token')}"
            pending.failure = record.failure("context_full", f"the context is {found}")

    def _answer(self, pending: _Pending, scheduler: Scheduler) -> Answer:
        record = pending.record
        samples = [pending.samples[number] for number in range(record.num_samples)]
        given = isinstance(record.prompt, str)
        prompt = str(record.prompt) if given else self.tokenizer.decode(pending.ids)
        logprobs = self._prompt_logprobs(pending, scheduler)
        return Answer(record, prompt, pending.ids, pending.truncated, samples, logprobs)

    def _prompt_logprobs(
        self, pending: _Pending, scheduler: Scheduler
    ) -> list[TokenLogprob] | None:
        count = pending.record.echoed_logprobs
        if count is None:
            return None
        self.on_token()  # this may take as long as a token
        return scheduler.with_memory(
            lambda: prompt_logprobs(self._engine, self.tokenizer, pending.ids, count)
        )

    def _require_known(self, record: Record) -> None:
        ids = [id for id, _ in record.params.logit_bias]
        ids += record.prompt if isinstance(record.prompt, tuple) else ()
        try:
            self.tokenizer.require_known(ids, "prompt")
        except UsageError as error:
            raise BadRecordError("wrong_value", error.problem) from None

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
            ids = self.tokenizer.encode_prompt(prompt, special=special)
        except UsageError as error:
            raise BadRecordError("tokenizer_failed", error.problem) from None
        if not special and not self._told_special:
            spelled = self.tokenizer.find_special_token(prompt)
            if spelled is not None:
                self._told_special = True
                self.on_special(spelled)
        return ids

    def _has_room(self, sequence: Sequence) -> bool:
        if self._max_tokens is None or not self.active:
            return True
        return self.held_tokens + self._size(sequence) <= self._max_tokens

    @staticmethod
    def _size(sequence: Sequence) -> int:
        """Positions that it may take in the key/value cache."""
        return min(sequence.context, len(sequence.prompt) + sequence.params.max_new_tokens)


def prompt_logprobs(
    engine: Engine, tokenizer: Tokenizer, ids: Ids[int], count: int
) -> list[TokenLogprob]:
    """Log-probabilities of a prompt's tokens, with `count` alternatives each.

    NaN for the first token, and for those before the context of a prompt that is longer. A batch
    keeps no logits of prompts, so the prompt is computed again here.

    Raises:
        RunError: non-finite logits.
    """

    def entry(id: int, logprob: float, *top: TokenLogprob) -> TokenLogprob:
        return TokenLogprob(id, tokenizer.token_bytes(id), logprob, top)

    window = ids[-engine.config.context_length :]
    found = [entry(id, math.nan) for id in ids[: len(ids) - len(window) + 1]]
    cache = engine.new_cache(len(window))
    for first in range(0, len(window) - 1, _CHUNK):
        part = window[first : min(first + _CHUNK, len(window) - 1)]
        logits = engine.step([Span(cache, part, len(part))])[:, : tokenizer.n_vocab]
        refuse_non_finite(logits, position=first + 1)
        for id, row in zip(window[first + 1 :], logits, strict=False):
            logprob, top = log_probabilities(row, id, count)
            found.append(entry(id, logprob, *(entry(*other) for other in top)))
    return found


def _kept_positions(context: int, rows: int, max_tokens: int | None) -> int:
    """Positions for the prefix cache: few beside those of the active sequences.

    One sequence's worth is enough to keep the prefix that all prompts share.
    """
    kept = max(context, rows * context // 8)
    return kept if max_tokens is None else min(kept, max_tokens // 8)


class _JobQueue:
    """An iterator that knows whether it has ended, so that the scheduler may stop and come back."""

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
