"""Run a batch job: read records, answer them, write the answers in order; resume and retry.

A backend answers: one model in this process (`gptcli.batch.worker`) or the workers of a cluster
(`gptcli.batch.ray.pool`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from gptcli.batch.io.lines import Line
from gptcli.batch.job import JobSpec
from gptcli.batch.output import OpenOutput, Output
from gptcli.batch.request import Failure, Record, RecordReader
from gptcli.batch.result_lines import Answer, RecordedAnswer, render
from gptcli.core.errors import GptcliError, InputError, RunError, UsageError

# Limits on finished answers that wait for an earlier one; at either, reading pauses.
WINDOW_RECORDS, WINDOW_BYTES = 4096, 64 << 20

# Called for each token and each line; may raise to end the job.
Poll = Callable[[], object]


class InterruptedJobError(Exception):
    """A signal ended the job. What is written is valid, and the job can be resumed."""


@dataclass(slots=True)
class Tally:
    """Counts of a job's records.

    Attributes:
        ok, failed: records in the output, also those of an earlier run.
        resumed: how many of them an earlier run wrote.
        last_line: the last input line whose answer is in the output.
        first_failure: line, code and message of the first failed record.
    """

    ok: int = 0
    failed: int = 0
    resumed: int = 0
    last_line: int = 0
    first_failure: str | None = None

    @property
    def records(self) -> int:
        """Lines in the output, without the header."""
        return self.ok + self.failed

    def add(self, line: int, failure: tuple[str, str] | None) -> None:
        """Count one more record; `failure` is its code and message."""
        self.last_line = line
        if failure is None:
            self.ok += 1
            return
        self.failed += 1
        if self.first_failure is None:
            self.first_failure = f"line {line}: {failure[0]}: {failure[1]}"


class Backend(Protocol):
    """What answers records: a `BatchWorker` or a `WorkerPool`."""

    def run(
        self,
        records: Iterator[Record | Failure | None],
        emit: Callable[[Answer | Failure], None],
    ) -> None:
        """Answer all records in any order; None among them means "none yet"."""


class OrderedWriter:
    """Takes answers in any order and writes them in the order of the input."""

    def __init__(self, output: Output, spec: JobSpec, tally: Tally) -> None:
        self.tally = tally
        self._output, self._spec = output, spec
        self._expected: deque[int] = deque()
        self._held: dict[int, tuple[bytes, tuple[str, str] | None]] = {}
        self._held_bytes = 0
        self.on_failure: Callable[[int, str, str], object] = lambda _line, _code, _message: None

    @property
    def is_full(self) -> bool:
        """Whether so many answers wait for an earlier one that reading should pause."""
        return len(self._expected) >= WINDOW_RECORDS or self._held_bytes >= WINDOW_BYTES

    def expect(self, line: int) -> None:
        """Note that the answer to this line comes next in the output."""
        self._expected.append(line)

    def put(self, result: Answer | Failure) -> None:
        """Write an answer, or hold it until the earlier ones are written."""
        if isinstance(result, Failure):
            self.on_failure(result.line, result.code, result.message)
            self.put_line(result.line, render(result, self._spec), (result.code, result.message))
        else:
            self.put_line(result.record.line, render(result, self._spec), None)

    def put_line(self, line: int, data: bytes, failure: tuple[str, str] | None) -> None:
        """As `put`, for an output line."""
        self._held[line] = data, failure
        self._held_bytes += len(data)
        while self._expected and self._expected[0] in self._held:
            line = self._expected.popleft()
            data, failure = self._held.pop(line)
            self._held_bytes -= len(data)
            self._output.append(data)
            self.tally.add(line, failure)


class RecordStream:
    """The records of an input's lines; None where the next is not here yet.

    Attributes:
        problem: the error that ended reading, if one did. The iterator then just ends, so that all
            records before the error are answered.
    """

    def __init__(self, lines: Iterable[Line | None], read: RecordReader, poll: Poll) -> None:
        self.problem: GptcliError | None = None
        self._records = self._read(lines, read, poll)

    def __iter__(self) -> Iterator[Record | Failure | None]:
        return self

    def __next__(self) -> Record | Failure | None:
        return next(self._records)

    def check(self) -> None:
        """Raise `problem`, if there is one."""
        if self.problem is not None:
            raise self.problem from None

    def _read(
        self, lines: Iterable[Line | None], read: RecordReader, poll: Poll
    ) -> Iterator[Record | Failure | None]:
        try:
            for line in lines:
                poll()
                if line is None:
                    yield None
                elif (record := read(line)) is not None:
                    yield record
        except GptcliError as problem:
            self.problem = problem


def run_job(
    opened: OpenOutput,
    lines: Iterable[Line | None],
    spec: JobSpec,
    load: Callable[[], Backend],
    tally: Tally,
    *,
    poll: Poll = lambda: None,
    on_failure: Callable[[int, str, str], object] = lambda _line, _code, _message: None,
) -> None:
    """Answer every record that has no answer yet, then sync and close the output.

    Args:
        opened: the output; the records that it holds are compared with the input first.
        lines: the input.
        spec: that of the output's header.
        load: loads the backend; called once the cheap checks have passed.
        tally: kept up to date.
        poll: called for each line; it may raise to end the job.
        on_failure: called with line, code and message of each record that fails.

    Raises:
        InputError: the output answers another input; it is untouched.
        RunError: the input is truncated (all complete lines are answered), or the model, the disk
            or the memory fails. The job can be resumed.
    """
    try:
        records = RecordStream(lines, RecordReader(spec), poll)
        writer = OrderedWriter(opened.output, spec, tally)
        writer.on_failure = on_failure
        _skip_done(records, opened, tally)
        _answer(records, opened, load, writer)
        records.check()
        opened.finish()
    except BaseException as problem:
        # A usage or input error leaves no empty file behind, which would refuse the next try.
        opened.abandon(keep_empty=not isinstance(problem, UsageError | InputError))
        raise


def _skip_done(records: RecordStream, opened: OpenOutput, tally: Tally) -> None:
    """Skip the records that the output holds, comparing each with the input."""
    try:
        for result in opened.done:
            _require_same_line(_next_record(records), result, opened.name)
            tally.add(result.line, failure_of(result))
            tally.resumed += 1
    except InputError:
        records.check()  # a truncated input is reported as such
        raise


def _answer(
    records: RecordStream, opened: OpenOutput, load: Callable[[], Backend], writer: OrderedWriter
) -> None:
    if opened.old is not None:
        backend = load()
        _retry_failed(records, opened.old, backend, writer, opened.name)
        opened.promote()
        _answer_rest(records, backend, writer)
        return
    first = _next_record(records)
    if first is not None:  # otherwise no model is needed
        _answer_rest(chain([first], records), load(), writer)


def _answer_rest(
    records: Iterator[Record | Failure | None], backend: Backend, writer: OrderedWriter
) -> None:

    def expected() -> Iterator[Record | Failure | None]:
        for record in records:
            while writer.is_full:
                yield None
            if record is not None:
                writer.expect(record.line)
            yield record

    backend.run(expected(), writer.put)


def _retry_failed(
    records: Iterator[Record | Failure | None],
    done: Iterator[RecordedAnswer],
    backend: Backend,
    writer: OrderedWriter,
    name: str,
) -> None:
    """Copy the successful lines of the old output, and answer its failed records again."""

    def failed() -> Iterator[Record | Failure | None]:
        for result in done:
            while writer.is_full:
                yield None
            record = _next_record(records)
            if result.is_ok or record is None or record.line != result.line:
                _require_same_line(record, result, name)
                writer.expect(result.line)
                writer.put_line(result.line, result.data, None)
                writer.tally.resumed += 1
            else:
                writer.expect(result.line)
                yield record

    backend.run(failed(), writer.put)


def failure_of(result: RecordedAnswer) -> tuple[str, str] | None:
    """Code and message of a failed record; None if it succeeded."""
    if result.is_ok:
        return None
    error = result.value.get("error")
    values: dict[str, Any] = error if isinstance(error, dict) else {}
    return str(values.get("code")), str(values.get("message"))


def stopped_error(problem: GptcliError, tally: Tally, how_to_resume: str) -> RunError:
    """The error of a job that cannot go on, with how far it got and `how_to_resume` added."""
    progress = f"Stopped after line {tally.last_line:,} of the input; {how_to_resume}"
    return RunError(problem.where, problem.problem, f"{problem.hint}. {progress}".lstrip(". "))


def _next_record(records: Iterator[Record | Failure | None]) -> Record | Failure | None:
    return next((record for record in records if record is not None), None)


def _require_same_line(record: Record | Failure | None, result: RecordedAnswer, name: str) -> None:
    if record is None:
        raise InputError(name, f"answers line {result.line}, but the input ends before that line")
    if record.line != result.line:
        raise InputError(
            name, f"answers line {result.line} where line {record.line} is next in the input"
        )
    if record.sha256 != result.sha256:
        problem = f"line {record.line} of the input is not the one answered here"
        hint = (
            "Give the same input; with `retry_failed` the lines of failed records may have changed"
        )
        raise InputError(name, problem, hint)
