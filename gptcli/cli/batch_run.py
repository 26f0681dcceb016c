"""Run a `batch` command: open input, model and output, run the job, report."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.batch import output as outputs
from gptcli.batch.fingerprint import identity
from gptcli.batch.input_check import check_first_lines
from gptcli.batch.io.inputs import InputStream, open_input
from gptcli.batch.io.lines import Line
from gptcli.batch.io.tables import input_lines
from gptcli.batch.job import JOB, JobSpec
from gptcli.batch.output import is_stream, recorded_header
from gptcli.batch.ray.connection import ClusterPlan
from gptcli.batch.result_lines import header, spec_of
from gptcli.batch.runner import InterruptedJobError, Tally, run_job, stopped_error
from gptcli.batch.worker import BatchWorker
from gptcli.checkpoint.resolve import Target
from gptcli.cli.model_options import opened, ready
from gptcli.cli.options import OUTPUT, BatchSize
from gptcli.cli.prompt_input import notice_special
from gptcli.cli.ray_cluster import Team
from gptcli.cli.render import console
from gptcli.cli.render.progress import BatchProgress
from gptcli.core import signals
from gptcli.core.errors import GptcliError, RunError, UsageError
from gptcli.core.memory import is_exhausted
from gptcli.core.options import Argument, Option, check
from gptcli.core.units import plural
from gptcli.generation.llm import LLM, fresh_seed
from gptcli.generation.model_spec import MACHINE, MODEL, ModelSpec
from gptcli.model.memory_estimate import default_rows

if TYPE_CHECKING:
    from gptcli.batch.ray.pool import WorkerPool

FAILED_RECORDS = 4


def output_path(text: str) -> Path | None:
    """A file; None for standard output, "-"."""
    return None if text == "-" else Path(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """Options of `batch` beside the job's spec: files, and what only changes the speed.

    Attributes:
        output: None is standard output.
        cluster: None is this process alone.
    """

    input: Annotated[
        str,
        Argument(
            'JSON Lines or .csv, also gzip; .parquet; a URL; "-" reads standard input.',
            metavar="INPUT",
        ),
    ]
    output: Annotated[
        Path | None,
        Option(
            'JSON Lines, a header first; "-" is standard output.',
            JOB,
            short="-o",
            metavar="FILE",
            parse=output_path,
        ),
    ]
    resume: Annotated[
        bool, Option("Go on where an earlier run ended; without one, begin.", JOB)
    ] = False
    overwrite: Annotated[
        bool, Option("Replace an output that is there, once the new one is whole.", JOB)
    ] = False
    retry_failed: Annotated[
        bool, Option("Answer failed records again; their lines may have changed.", JOB)
    ] = False
    batch_size: BatchSize = None
    max_batch_tokens: Annotated[
        int | None, Option("Never hold more than N tokens at once.", MACHINE, metavar="N", ge=1)
    ] = None
    hash_weights: Annotated[
        bool, Option("Put a hash of every byte of the weights in the header.", MODEL)
    ] = False
    json: Annotated[bool, Option("A summary on standard output.", OUTPUT)] = False
    cluster: ClusterPlan | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.retry_failed and (self.resume or self.overwrite):
            raise UsageError("retry_failed", "cannot be used with `resume` or `overwrite`")
        if self.json and self.output is None:
            problem = "needs standard output, where `output=-` writes records"
            raise UsageError("json", problem)

    @property
    def mode(self) -> outputs.Mode:
        """What to do with an existing output."""
        if self.overwrite:
            return "overwrite-resume" if self.resume else "overwrite"
        return "retry" if self.retry_failed else "resume" if self.resume else "new"


def run_batch(model: ModelSpec, spec: JobSpec, plan: BatchPlan) -> None:
    """Run the job to its end or the first signal.

    Raises:
        typer.Exit: 4 with failed records, the signal's code after a signal.
        GptcliError: whatever a user can mend.
    """
    if plan.mode == "new" and plan.output is not None:
        outputs.refuse_existing(plan.output)
    recorded = _recorded(plan)
    if recorded is not None:
        spec = _as_recorded(spec, recorded, plan, keep_seed=model.seed is None)
    full = plan.hash_weights or str((recorded or {}).get("weights")).startswith("full:")
    llm = opened(replace(model, seed=spec.seed))
    with ExitStack() as stack:
        source = stack.enter_context(open_input(plan.input))
        _refuse_overwriting(plan, source, llm.target)
        lines = input_lines(plan.input, source, spec.column)
        if spec.form == "json":
            lines = check_first_lines(lines, source.name, ahead=source.size is not None)
        team = Team(plan.cluster, stack)
        what = {**identity(llm, full=full), **team.machine(llm)}
        output = _open(plan, header(spec, what))
        _BatchRun(llm, spec, plan, team, what).run(output, source, lines)


class _BatchRun:
    """A job with its progress, its workers and its report."""

    def __init__(
        self,
        llm: LLM,
        spec: JobSpec,
        plan: BatchPlan,
        team: Team,
        identity: dict[str, Any],
    ) -> None:
        self._llm, self._spec, self._plan = llm, spec, plan
        self._team, self._identity = team, identity
        self._tally = Tally()
        self._answerer: BatchWorker | WorkerPool | None = None

    def run(
        self, opened: outputs.OpenOutput, source: InputStream, lines: Iterator[Line | None]
    ) -> None:
        progress = BatchProgress(self._tally, source)
        poll = self._poll(opened, progress)
        source.poll, source.is_busy = poll, self._is_busy

        def load() -> "BatchWorker | WorkerPool":
            team = self._team.is_wanted
            self._answerer = answerer = self._hire(progress) if team else self._load(progress)
            answerer.on_token = poll
            progress.began()
            return answerer

        with signals.patience(), progress:
            try:
                run_job(
                    opened,
                    lines,
                    self._spec,
                    load,
                    self._tally,
                    poll=poll,
                    on_failure=progress.failed,
                )
            except InterruptedJobError:
                progress.clear()
                self._say_interrupted()
                raise typer.Exit(signals.exit_code()) from None
            except (GptcliError, MemoryError, RuntimeError) as problem:
                progress.clear()
                raise self._stopped(problem) from None
        progress.clear()
        self._report(progress)

    def _poll(self, opened: outputs.OpenOutput, progress: BatchProgress) -> Callable[[], None]:
        def poll() -> None:
            if signals.interrupted():
                raise InterruptedJobError
            opened.output.tick()
            progress.update(self._answerer.new_tokens if self._answerer else 0)

        return poll

    def _is_busy(self) -> bool:
        return self._answerer is not None and self._answerer.active > 0

    def _hire(self, progress: BatchProgress) -> "WorkerPool":
        def notify(text: str) -> None:
            progress.clear()
            console.notice(text)

        rows, most = self._plan.batch_size, self._plan.max_batch_tokens
        spec, what = self._spec, self._identity
        answers = self._team.answers(self._llm, spec, what, rows=rows, max_tokens=most)
        answers.on_ready, answers.notify = progress.began, notify
        return answers

    def _load(self, progress: BatchProgress) -> "BatchWorker":
        llm, most = ready(self._llm), self._plan.max_batch_tokens
        rows = self._plan.batch_size or default_rows(llm.config)
        answerer = BatchWorker(llm.engine, llm.tokenizer, self._spec, rows=rows, max_tokens=most)

        def notify(rows: int) -> None:
            progress.clear()
            console.notice(f"memory ran out; {plural(rows, 'text')} at a time from here on")

        def notify_special(token: str) -> None:
            progress.clear()
            notice_special(token)

        answerer.on_fewer, answerer.on_special = notify, notify_special
        return answerer

    def _say_interrupted(self) -> None:
        tally = self._tally
        console.say(f"interrupted after line {tally.last_line:,}{self._way_on('; ')}")

    def _way_on(self, before: str) -> str:
        if self._plan.output is None or is_stream(self._plan.output):
            return ""
        more = "--overwrite --resume" if "overwrite" in self._plan.mode else "--resume"
        return f"{before}continue with {more}"

    def _stopped(self, problem: BaseException) -> BaseException:
        if isinstance(problem, GptcliError):
            if problem.exit_code != RunError.exit_code or not self._way_on(""):
                return problem
            return stopped_error(problem, self._tally, self._way_on(""))
        if is_exhausted(problem):
            hint = "A smaller `batch_size` needs less"
            return stopped_error(
                RunError("memory", "exhausted", hint), self._tally, self._way_on("")
            )
        return problem

    def _report(self, progress: BatchProgress) -> None:
        tally, tokens, shared = self._tally, progress.new_tokens, None
        if self._answerer is not None:
            tokens, shared = self._answerer.new_tokens, self._answerer.shared_tokens
        if self._plan.json:
            console.print_json(self._summary(tokens, shared, progress.seconds))
        text = f"{tally.ok:,} ok, {tally.failed:,} failed"
        if tally.failed:
            console.say(f"{text} (first: {tally.first_failure})")
            raise typer.Exit(FAILED_RECORDS)
        speed = f"{plural(tokens, 'token')} in {progress.seconds:,.1f} s"
        saved = f", {shared:,} of prompts read once for several" if shared else ""
        console.notice(f"{text}, {speed}{saved}")

    def _summary(self, tokens: int, shared: int | None, seconds: float) -> dict[str, Any]:
        tally = self._tally
        return {
            "schema": "gptcli.batch/1",
            "output": None if self._plan.output is None else str(self._plan.output),
            "records": tally.records,
            "ok": tally.ok,
            "failed": tally.failed,
            "resumed": tally.resumed,
            "first_failure": tally.first_failure,
            "seed": self._spec.seed,
            "new_tokens": tokens,
            "shared_tokens": shared,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 2) if tokens and seconds > 0 else None,
        }


def seed_of(model: ModelSpec) -> int:
    """The seed of the command line, or a fresh one."""
    return fresh_seed() if model.seed is None else model.seed


def _recorded(plan: BatchPlan) -> dict[str, Any] | None:
    """The header of the output to resume; None for a new one."""
    if plan.output is None or plan.mode in {"new", "overwrite"}:
        return None
    path = outputs.staging_path(plan.output) if plan.mode == "overwrite-resume" else plan.output
    return recorded_header(path)


def _as_recorded(
    spec: JobSpec, recorded: dict[str, Any], plan: BatchPlan, *, keep_seed: bool
) -> JobSpec:
    """The spec with what no option says: the output's format, and the seed if none was given."""
    old = spec_of(recorded, str(plan.output))
    openai = spec.openai if old.openai is not None else None  # format 1 knew no such defaults
    seed = old.seed if keep_seed else spec.seed
    return replace(spec, seed=seed, format=old.format, openai=openai)


def _open(plan: BatchPlan, first: bytes) -> outputs.OpenOutput:
    if plan.output is not None:
        return outputs.open_output(plan.output, first, plan.mode)
    if plan.mode != "new":
        raise UsageError("resume", "standard output cannot be continued")
    return outputs.open_stream(sys.stdout.buffer, "standard output", first)


def _refuse_overwriting(plan: BatchPlan, source: InputStream, target: Target) -> None:
    if plan.output is None:
        return
    others = [source.identity, *outputs.file_ids((target.config_path, target.weights))]
    outputs.refuse_same_file(plan.output, others)
