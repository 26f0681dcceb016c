"""`gptcli batch`: a file of prompts in, a file of completions out, resumable."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gptcli.batch import output as outputs
from gptcli.batch.fingerprint import identity
from gptcli.batch.input_check import check_first_lines
from gptcli.batch.io.inputs import InputStream, open_input
from gptcli.batch.io.lines import Line
from gptcli.batch.io.tables import input_lines, is_table
from gptcli.batch.job import JOB, Form, JobSpec, OpenAIDefaults
from gptcli.batch.output import is_stream, recorded_header
from gptcli.batch.ray.connection import ClusterPlan, LazyCluster
from gptcli.batch.ray.pool import WorkerPool, start_pool
from gptcli.batch.result_lines import header, spec_of
from gptcli.batch.runner import InterruptedJobError, Tally, run_job, stopped_error
from gptcli.batch.worker import BatchWorker
from gptcli.checkpoint.resolve import Target
from gptcli.cli.command import CommandFunction, Without, was_given
from gptcli.cli.model_loading import load_weights, open_model
from gptcli.cli.options import OUTPUT, BatchSize, Greedy, Quiet, sampling
from gptcli.cli.prompt_input import notice_special
from gptcli.cli.ray_options import ClusterOptions
from gptcli.cli.render import console
from gptcli.cli.render.progress import BatchProgress
from gptcli.core import signals
from gptcli.core.errors import GptcliError, RunError, UsageError
from gptcli.core.memory import is_out_of_memory
from gptcli.core.options import Argument, Option, check
from gptcli.core.units import plural
from gptcli.generation.llm import LLM, fresh_seed
from gptcli.generation.model_spec import MACHINE, MODEL, ModelSpec
from gptcli.generation.text_options import INPUT
from gptcli.model.memory_estimate import default_batch_size
from gptcli.sampling.params import SamplingParams

FAILED_RECORDS = 4


def output_path(text: str) -> Path | None:
    """A file; None for standard output, "-"."""
    return None if text == "-" else Path(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Options of `batch` beside the job's spec: files, and what changes only the speed.

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
            'JSON Lines after a header line; "-" is standard output.',
            JOB,
            short="-o",
            metavar="FILE",
            parse=output_path,
        ),
    ]
    resume: Annotated[
        bool, Option("Continue the output of an earlier run; without one, start.", JOB)
    ] = False
    overwrite: Annotated[
        bool, Option("Replace an existing output once the new one is complete.", JOB)
    ] = False
    retry_failed: Annotated[
        bool, Option("Answer failed records again; their lines may have changed.", JOB)
    ] = False
    batch_size: BatchSize = None
    max_batch_tokens: Annotated[
        int | None, Option("Cache at most N tokens at a time.", MACHINE, metavar="N", ge=1)
    ] = None
    hash_weights: Annotated[
        bool, Option("Hash every byte of the weights for the header.", MODEL)
    ] = False
    json: Annotated[bool, Option("Print a summary as JSON.", OUTPUT)] = False
    cluster: ClusterPlan | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.retry_failed and (self.resume or self.overwrite):
            raise UsageError("retry_failed", "cannot be used together with `resume` or `overwrite`")
        if self.json and self.output is None:
            raise UsageError("json", "cannot be used together with `output=-`")

    @property
    def mode(self) -> outputs.Mode:
        """What to do with an existing output."""
        if self.overwrite:
            return "overwrite-resume" if self.resume else "overwrite"
        return "retry" if self.retry_failed else "resume" if self.resume else "new"


@CommandFunction
def batch(
    context: typer.Context,
    options: BatchOptions,
    spec: JobSpec,
    model: Annotated[ModelSpec, Without("engine")],
    cluster: ClusterOptions,
    text: Annotated[bool, Option("Read each line as a prompt, not as JSON.", INPUT)] = False,
    greedy: Greedy = False,
    quiet: Quiet = False,
) -> None:
    """Continue many prompts.

    Each line of the input gets one line of the output, in order. The output has the same bytes
    whatever the batch size, and however often the job was killed and resumed.

    Exit codes: 0 done, 4 done but some records failed, 1 failed at run time, 2 usage, 3 bad file,
    130/143/129 interrupted. After 1 or an interruption, continue with --resume.
    """
    console.Settings.quiet = quiet
    params, recommended = sampling(context, spec.params, model, greedy=greedy)
    model = replace(model, engine="auto" if cluster.engine == "ray" else cluster.engine)
    form = _form(options.input, text=text)
    spec = replace(
        spec,
        seed=seed_of(model),
        params=params,
        recommended=recommended,
        form=form,
        column=(spec.column or "prompt") if form == "table" else None,
        openai=_openai_defaults(context, params),
    )
    run_batch(model, spec, replace(options, cluster=cluster.plan(model)))


def _openai_defaults(context: typer.Context, params: SamplingParams) -> OpenAIDefaults:
    """OpenAI's defaults, except where the command line or the environment sets a value."""
    defaults = asdict(OpenAIDefaults())
    is_given = {name: was_given(context, name) for name in defaults}
    is_given["temperature"] |= was_given(context, "greedy")
    values: dict[str, Any] = {
        name: getattr(params, name) if is_given[name] else defaults[name] for name in defaults
    }
    return OpenAIDefaults(**values)


def _form(input: str, *, text: bool) -> Form:
    has_rows = is_table(input)
    if text and has_rows:
        raise UsageError("text", "cannot be used together with a table")
    return "text" if text else "table" if has_rows else "json"


def run_batch(model: ModelSpec, spec: JobSpec, options: BatchOptions) -> None:
    """Run the job to its end or the first signal.

    Raises:
        typer.Exit: 4 with failed records, the signal's code after a signal.
        GptcliError: an error that a user can correct.
    """
    if options.mode == "new" and options.output is not None:
        outputs.refuse_existing(options.output)
    recorded = _header_to_resume(options)
    if recorded is not None:
        spec = _as_recorded(spec, recorded, options, keep_seed=model.seed is None)
    full = options.hash_weights or str((recorded or {}).get("weights")).startswith("full:")
    llm = open_model(replace(model, seed=spec.seed))
    with ExitStack() as stack:
        source = stack.enter_context(open_input(options.input))
        _refuse_overwriting(options, source, llm.target)
        lines = input_lines(options.input, source, spec.column)
        if spec.form == "json":
            lines = check_first_lines(lines, source.name, ahead=source.size is not None)
        cluster = LazyCluster(options.cluster, stack) if options.cluster else None
        about = identity(llm, full=full)
        if cluster and cluster.plan.address and not llm.is_native:  # the machines may be others
            about["machine"] = cluster.get().machine(llm.spec.device)
        output = _open(options, header(spec, about))
        _BatchRun(llm, spec, options, cluster, about).run(output, source, lines)


class _BatchRun:
    """A job with its progress, its backend and its report."""

    def __init__(
        self,
        llm: LLM,
        spec: JobSpec,
        options: BatchOptions,
        cluster: LazyCluster | None,
        identity: dict[str, Any],
    ) -> None:
        self._llm, self._spec, self._options = llm, spec, options
        self._cluster, self._identity = cluster, identity
        self._tally = Tally()
        self._backend: BatchWorker | WorkerPool | None = None

    def run(
        self, opened: outputs.OpenOutput, source: InputStream, lines: Iterator[Line | None]
    ) -> None:
        progress = BatchProgress(self._tally, source)
        poll = self._poll(opened, progress)
        source.poll, source.is_busy = poll, self._is_busy

        def load() -> BatchWorker | WorkerPool:
            backend: BatchWorker | WorkerPool
            if self._cluster is not None:
                backend = self._start_pool(self._cluster, progress)
            else:
                backend = self._load_worker(progress)
            self._backend, backend.on_token = backend, poll
            progress.start()
            return backend

        with signals.deferred(), progress:
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
                hint = f"; {self._resume_hint}" if self._resume_hint else ""
                console.say(f"interrupted after line {self._tally.last_line:,}{hint}")
                raise typer.Exit(signals.exit_code()) from None
            except (GptcliError, MemoryError, RuntimeError) as problem:
                progress.clear()
                raise self._with_progress(problem) from None
        progress.clear()
        self._report(progress)

    def _poll(self, opened: outputs.OpenOutput, progress: BatchProgress) -> Callable[[], None]:
        def poll() -> None:
            if signals.interrupted():
                raise InterruptedJobError
            opened.output.tick()
            progress.update(self._backend.new_tokens if self._backend else 0)

        return poll

    def _is_busy(self) -> bool:
        return self._backend is not None and self._backend.active > 0

    def _start_pool(self, cluster: LazyCluster, progress: BatchProgress) -> WorkerPool:
        def notify(text: str) -> None:
            progress.clear()
            console.notice(text)

        pool = start_pool(
            cluster.get(),
            self._llm,
            self._spec,
            self._identity,
            rows=self._options.batch_size,
            max_tokens=self._options.max_batch_tokens,
        )
        pool.on_ready, pool.notify = progress.start, notify
        return pool

    def _load_worker(self, progress: BatchProgress) -> BatchWorker:
        llm = load_weights(self._llm)
        worker = BatchWorker(
            llm.engine,
            llm.tokenizer,
            self._spec,
            rows=self._options.batch_size or default_batch_size(llm.config),
            max_tokens=self._options.max_batch_tokens,
        )

        def notify(rows: int) -> None:
            progress.clear()
            console.notice(f"memory ran out; {plural(rows, 'sequence')} at a time from here on")

        def notify_special(token: str) -> None:
            progress.clear()
            notice_special(token)

        worker.on_fewer, worker.on_special = notify, notify_special
        return worker

    @property
    def _resume_hint(self) -> str:
        if self._options.output is None or is_stream(self._options.output):
            return ""
        more = "--overwrite --resume" if "overwrite" in self._options.mode else "--resume"
        return f"continue with {more}"

    def _with_progress(self, problem: BaseException) -> BaseException:
        """A run-time error with how far the job got; other errors as they are."""
        hint = self._resume_hint
        if isinstance(problem, GptcliError):
            is_resumable = isinstance(problem, RunError) and hint
            return stopped_error(problem, self._tally, hint) if is_resumable else problem
        if is_out_of_memory(problem):
            exhausted = RunError("memory", "exhausted", "A smaller `batch_size` needs less")
            return stopped_error(exhausted, self._tally, hint)
        return problem

    def _report(self, progress: BatchProgress) -> None:
        tally, tokens, shared = self._tally, progress.new_tokens, None
        if self._backend is not None:
            tokens, shared = self._backend.new_tokens, self._backend.shared_tokens
        if self._options.json:
            console.print_json(self._summary(tokens, shared, progress.seconds))
        text = f"{tally.ok:,} ok, {tally.failed:,} failed"
        if tally.failed:
            console.say(f"{text} (first: {tally.first_failure})")
            raise typer.Exit(FAILED_RECORDS)
        speed = f"{plural(tokens, 'token')} in {progress.seconds:,.1f} s"
        saved = f", {plural(shared, 'prompt token')} from the prefix cache" if shared else ""
        console.notice(f"{text}, {speed}{saved}")

    def _summary(self, tokens: int, shared: int | None, seconds: float) -> dict[str, Any]:
        tally = self._tally
        return {
            "schema": "gptcli.batch/1",
            "output": None if self._options.output is None else str(self._options.output),
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


def _header_to_resume(options: BatchOptions) -> dict[str, Any] | None:
    """The header of the output to resume; None for a new output."""
    if options.output is None or options.mode in {"new", "overwrite"}:
        return None
    path = (
        outputs.staging_path(options.output)
        if options.mode == "overwrite-resume"
        else options.output
    )
    return recorded_header(path)


def _as_recorded(
    spec: JobSpec, recorded: dict[str, Any], options: BatchOptions, *, keep_seed: bool
) -> JobSpec:
    """The spec with the output's format and, unless one was given, its seed."""
    old = spec_of(recorded, str(options.output))
    openai = spec.openai if old.openai is not None else None  # format 1 had no such defaults
    seed = old.seed if keep_seed else spec.seed
    return replace(spec, seed=seed, format=old.format, openai=openai)


def _open(options: BatchOptions, first: bytes) -> outputs.OpenOutput:
    if options.output is not None:
        return outputs.open_output(options.output, first, options.mode)
    if options.mode != "new":
        raise UsageError("resume", "standard output cannot be resumed")
    return outputs.open_stream(sys.stdout.buffer, "standard output", first)


def _refuse_overwriting(options: BatchOptions, source: InputStream, target: Target) -> None:
    if options.output is None:
        return
    others = [source.identity, *outputs.file_ids((target.config_path, target.weights))]
    outputs.refuse_same_file(options.output, others)
