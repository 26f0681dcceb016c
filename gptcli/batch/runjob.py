"""A batch from its opened output to its last line. Knows no command line and no model."""

from collections.abc import Callable, Iterable
from itertools import chain

from gptcli.batch.io.sources import Line
from gptcli.batch.job import JobSpec
from gptcli.batch.output import Opened
from gptcli.batch.request import RecordReader
from gptcli.batch.runner import (
    Answers,
    OrderedWriter,
    Poll,
    Reading,
    Tally,
    answer_all,
    retry_failed,
    skip_done,
)
from gptcli.core.errors import InputError


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
