"""Run a batch job: read records, have them answered, write the answers in order; resume and retry.

What answers is a parameter: one model in this process (`gptcli.batch.worker`) or workers of a
cluster (`gptcli.batch.ray.pool`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from gptcli.batch.io.lines import Line
from gptcli.batch.job import JobSpec
from gptcli.batch.output import Opened, Output
from gptcli.batch.request import Failure, Record, RecordReader
from gptcli.batch.result_lines import Answer, Done, render
from gptcli.core.errors import GptcliError, InputError, RunError

# How far finished records may run ahead of one that takes long, before reading pauses.
WINDOW_RECORDS, WINDOW_BYTES = 4096, 64 << 20


# Called all the time; it may raise to end the job.
Poll = Callable[[], object]


class InterruptedJobError(Exception):
    """Someone asked the job to end; what is written is good, and the job can be resumed."""


@dataclass(slots=True)
class Tally:
    """How a job stands.

    Attributes:
        ok, failed: records in the output, those of an earlier run too.
        resumed: of these, how many were there already.
        last_line: the last line of the input that has its answer in the output.
        first_failure: in words.
        failures: how many of them happened in this run.
    """

    ok: int = 0
    failed: int = 0
    resumed: int = 0
    last_line: int = 0
    first_failure: str | None = None

    @property
    def records(self) -> int:
        """Lines in the output, the header apart."""
        return self.ok + self.failed

    def add(self, line: int, failure: tuple[str, str] | None) -> None:
        """One more record; `failure` is its code and message."""
        self.last_line = line
        if failure is None:
            self.ok += 1
            return
        self.failed += 1
        if self.first_failure is None:
            self.first_failure = f"line {line}: {failure[0]}: {failure[1]}"


class Answers(Protocol):
    """What answers records: `gptcli.batch.worker.Answerer`, or many of them elsewhere."""

    def run(
        self,
        records: Iterator[Record | Failure | None],
        emit: Callable[[Answer | Failure], None],
    ) -> None:
        """Take records, give each answer as it ends. None among the records is "none yet"."""


class OrderedWriter:
    """Answers in any order → lines of the output in the order in which they are expected."""

    def __init__(self, output: Output, spec: JobSpec, tally: Tally) -> None:
        self.tally = tally
        self._output, self._spec = output, spec
        self._expected: deque[int] = deque()
        self._held: dict[int, tuple[bytes, tuple[str, str] | None]] = {}
        self._held_bytes = 0
        self.on_failure: Callable[[int, str, str], object] = lambda _line, _code, _message: None

    @property
    def is_full(self) -> bool:
        """Whether reading should pause until the record that all wait for is done."""
        return len(self._expected) >= WINDOW_RECORDS or self._held_bytes >= WINDOW_BYTES

    def expect(self, line: int) -> None:
        """The record of this line comes next in the output."""
        self._expected.append(line)

    def put(self, result: Answer | Failure) -> None:
        """An answer, written at once or held until those before it are there."""
        if isinstance(result, Failure):
            self.on_failure(result.line, result.code, result.message)
            self.put_line(result.line, render(result, self._spec), (result.code, result.message))
        else:
            self.put_line(result.record.line, render(result, self._spec), None)

    def put_line(self, line: int, data: bytes, failure: tuple[str, str] | None) -> None:
        """The same, for an answer that is a line already."""
        self._held[line] = data, failure
        self._held_bytes += len(data)
        while self._expected and self._expected[0] in self._held:
            line = self._expected.popleft()
            data, failure = self._held.pop(line)
            self._held_bytes -= len(data)
            self._output.append(data)
            self.tally.add(line, failure)


class Reading:
    """Lines → records, as an iterator; None where the next line is not here yet.

    Attributes:
        problem: why the input ended before its end, if it did. What came before is good.
    """

    def __init__(self, lines: Iterable[Line | None], read: RecordReader, poll: Poll) -> None:
        self.problem: GptcliError | None = None
        self._records = self._read(lines, read, poll)

    def __iter__(self) -> Iterator[Record | Failure | None]:
        return self

    def __next__(self) -> Record | Failure | None:
        return next(self._records)

    def check(self) -> None:
        """Raise the problem, if there is one."""
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
    opened: Opened,
    lines: Iterable[Line | None],
    spec: JobSpec,
    load: Callable[[], Answers],
    tally: Tally,
    *,
    poll: Poll = lambda: None,
    on_failure: Callable[[int, str, str], object] = lambda _line, _code, _message: None,
) -> None:
    """Answer every line that has no answer yet; the output is whole and closed afterwards.

    Args:
        opened: where answers go; its finished records are compared with the input first.
        lines: the input.
        spec: as the output's header has it.
        load: makes what answers; called only when all that is cheap to check is in order.
        tally: kept up to date.
        poll: called for each line; it may raise to end the job.
        on_failure: told line, code and message of each record that fails.

    Raises:
        InputError: the output belongs to another input; it is untouched.
        RunError: the input ends early (all complete lines are answered), or the model, the disk
            or the memory fails. What is written can be resumed.
    """
    try:
        reading = Reading(lines, RecordReader(spec), poll)
        writer = OrderedWriter(opened.output, spec, tally)
        writer.on_failure = on_failure
        _compare(reading, opened, tally)
        _work(reading, opened, load, writer)
        reading.check()
        opened.finish()
    except BaseException:
        opened.abandon()
        raise


def _work(
    reading: Reading, opened: Opened, load: Callable[[], Answers], writer: OrderedWriter
) -> None:
    if opened.old is not None:
        answers = load()
        retry_failed(reading, opened.old, answers, writer, opened.name)
        opened.promote()
        answer_all(reading, answers, writer)
        return
    first = next((record for record in reading if record is not None), None)
    if first is not None:  # otherwise there is nothing to load a model for
        answer_all(chain([first], reading), load(), writer)


def _compare(reading: Reading, opened: Opened, tally: Tally) -> None:
    try:
        skip_done(reading, opened.done, tally, opened.name)
    except InputError:
        reading.check()  # an input that ends early is not another one
        raise


def answer_all(
    records: Iterator[Record | Failure | None], answers: Answers, writer: OrderedWriter
) -> None:
    """Answer the rest of the records and write them."""

    def expected() -> Iterator[Record | Failure | None]:
        for record in records:
            while writer.is_full:
                yield None
            if record is not None:
                writer.expect(record.line)
            yield record

    answers.run(expected(), writer.put)


def skip_done(
    records: Iterator[Record | Failure | None], done: Iterator[Done], tally: Tally, name: str
) -> None:
    """Go past the records that the output holds already, after a look at each.

    Raises:
        InputError: the output answers another input than this.
    """
    for result in done:
        _same(_next(records), result, name)
        tally.add(result.line, failure_of(result))
        tally.resumed += 1


def retry_failed(
    records: Iterator[Record | Failure | None],
    done: Iterator[Done],
    answers: Answers,
    writer: OrderedWriter,
    name: str,
) -> None:
    """Copy the output's good lines, and answer its failed ones anew.

    Raises:
        InputError: a record that has its answer is another now; a failed one may be.
    """

    def failed() -> Iterator[Record | Failure | None]:
        for result in done:
            while writer.is_full:
                yield None
            record = _next(records)
            if result.is_ok or record is None or record.line != result.line:
                _same(record, result, name)
                writer.expect(result.line)
                writer.put_line(result.line, result.data, None)
                writer.tally.resumed += 1
            else:
                writer.expect(result.line)
                yield record

    answers.run(failed(), writer.put)


def failure_of(result: Done) -> tuple[str, str] | None:
    """Code and message of a line that says what failed."""
    if result.is_ok:
        return None
    error = result.value.get("error")
    values: dict[str, Any] = error if isinstance(error, dict) else {}
    return str(values.get("code")), str(values.get("message"))


def stopped(problem: GptcliError, tally: Tally, way_on: str) -> RunError:
    """The error of a job that cannot go on, with how far it got and how to continue."""
    progress = f"Stopped after line {tally.last_line:,} of the input; {way_on}"
    return RunError(problem.where, problem.problem, f"{problem.hint}. {progress}".lstrip(". "))


def _next(records: Iterator[Record | Failure | None]) -> Record | Failure | None:
    return next((record for record in records if record is not None), None)


def _same(record: Record | Failure | None, result: Done, name: str) -> None:
    if record is None:
        raise InputError(name, f"it has an answer to line {result.line}, the input ends before it")
    if record.line != result.line:
        raise InputError(name, f"it answers line {result.line} where line {record.line} is next")
    if record.sha256 != result.sha256:
        hint = "The input must be the one it was made from; only failed lines may change, and"
        raise InputError(
            name,
            f"line {record.line} of the input is not the one answered here",
            f"{hint} with `retry_failed`",
        )
