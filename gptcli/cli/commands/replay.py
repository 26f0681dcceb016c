"""`gptcli replay`: run a recorded batch again, and report what differs."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from gptcli.batch.fingerprint import identity
from gptcli.batch.io.inputs import open_input
from gptcli.batch.io.tables import input_lines
from gptcli.batch.job import JobSpec
from gptcli.batch.output import read_output
from gptcli.batch.replay import Difference, Pair, echoed, pairs_of
from gptcli.batch.replay import replay as run_again
from gptcli.batch.request import RecordReader
from gptcli.batch.result_lines import RecordedAnswer, spec_of
from gptcli.batch.runner import RecordStream
from gptcli.batch.worker import BatchWorker
from gptcli.cli.command import CommandFunction, Only
from gptcli.cli.model_loading import load_weights, open_model
from gptcli.cli.options import JOB, BatchSize, Details, Json, Quiet
from gptcli.cli.render import console
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import listed, shown
from gptcli.core.options import Argument, Option
from gptcli.core.units import plural
from gptcli.generation.model_spec import MACHINE, Dtype, ModelSpec
from gptcli.model.dtypes import Width
from gptcli.model.memory_estimate import default_batch_size

_DIFFERENT = 1
_MOST_DIFFERENCES = 20  # printed without --details
_MODEL = ("config", "weights", "tokenizer")


@CommandFunction
def replay(
    output: Annotated[Path, Argument("An output of gptcli batch.", metavar="OUTPUT")],
    model: Annotated[
        ModelSpec, Only("model", "config", "weights", "offline", "device", "threads", "engine")
    ],
    input: Annotated[
        str | None,
        Option(
            "The job's input; not needed if the batch was run with --echo.",
            JOB,
            short="-i",
            metavar="FILE",
        ),
    ] = None,
    line: Annotated[
        tuple[int, ...],
        Option("Run only this line of the input. Repeatable.", JOB, metavar="N", ge=1),
    ] = (),
    batch_size: BatchSize = None,
    dtype: Annotated[
        Dtype | None, Option("Dtype of the weights; without it, the recorded one.", MACHINE)
    ] = None,
    details: Details = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recorded batch again, and report what differs.

    Options come from the output's header; the model must be the same. Use it to check another
    processor or version. For each record that differs, the first differing token is reported with
    its margin: the difference of the logits, or how far the draw was from the recorded token. Exit
    code 0 if all is equal, 1 if anything differs.
    """
    console.Settings.quiet = quiet
    with ExitStack() as stack:
        header, done = stack.enter_context(read_output(output))
        spec = spec_of(header, shown(output))
        options = replace(
            model,
            model=_model(model, header),
            seed=spec.seed,
            **_recorded_dtype(dtype, header),
        )
        pairs = _CountedPairs(_pairs(output, input, done, spec, frozenset(line), stack))
        found = _replay(options, spec, header, pairs, batch_size, shown(output))
    _show(found, pairs.count, json=json, details=details)
    if found:
        raise typer.Exit(_DIFFERENT)


class _CountedPairs:
    """Pairs that are counted while they are iterated over."""

    def __init__(self, pairs: Iterator[Pair]) -> None:
        self._pairs, self.count = pairs, 0

    def __iter__(self) -> Iterator[Pair]:
        for pair in self._pairs:
            self.count += 1
            yield pair


def _model(options: ModelSpec, header: dict[str, Any]) -> str | None:
    if options.model or options.config or options.weights:
        return options.model
    if not header.get("model"):
        raise UsageError("model", "is missing: the recorded model is not a preset")
    return str(header["model"])


def _pairs(
    output: Path,
    input: str | None,
    done: Iterator[RecordedAnswer],
    spec: JobSpec,
    wanted: frozenset[int],
    stack: ExitStack,
) -> Iterator[Pair]:
    if input is None:
        if not spec.echo:
            hint = "Name the job's input; a batch run with --echo needs none"
            raise UsageError("input", "is missing", hint)
        return echoed(done, spec, wanted)
    source = stack.enter_context(open_input(input))
    lines = input_lines(input, source, spec.column)
    records = RecordStream(lines, RecordReader(spec), lambda: None)
    return pairs_of(done, records, wanted, shown(output))


def _recorded_dtype(dtype: Dtype | None, header: dict[str, Any]) -> dict[str, Any]:
    """The dtype option, or else the header's dtype, as fields of a ModelSpec."""
    recorded = header.get("dtype")
    if dtype is None and recorded in get_args(Width):
        return {"dtype": "float32", "quantize": recorded}
    return {"dtype": dtype or recorded or "float32"}


def _replay(
    model: ModelSpec,
    spec: JobSpec,
    header: dict[str, Any],
    pairs: _CountedPairs,
    batch_size: int | None,
    name: str,
) -> list[Difference]:
    llm = open_model(model)
    full = str(header.get("weights")).startswith("full:")
    _require_same_model(header, identity(llm, full=full), name)
    load_weights(llm)
    rows = batch_size or default_batch_size(llm.config)
    worker = BatchWorker(llm.engine, llm.tokenizer, spec, rows=rows)
    return list(run_again(pairs, worker, llm.engine))


def _require_same_model(header: dict[str, Any], now: dict[str, Any], name: str) -> None:
    other = [key for key in _MODEL if header.get(key) != now[key]]
    if other:
        raise InputError(name, f"made with another model (other {listed(other)})")
    was, machine = header.get("machine") or {}, now.get("machine") or {}
    if was != machine:
        pairs = [f"{was.get(key)}, now {machine.get(key)}" for key in {**was, **machine}]
        console.notice(f"recorded on another machine ({listed(pairs)})")


def _show(found: list[Difference], count: int, *, json: bool, details: bool) -> None:
    if json:
        differences = [asdict(difference) for difference in found]
        value = {"schema": "gptcli.replay/1", "records": count, "differences": differences}
        console.print_json(value)
        return
    output = console.Output()
    for difference in found if details else found[:_MOST_DIFFERENCES]:
        output.write(_sentence(difference) + "\n")
    if not details and len(found) > _MOST_DIFFERENCES:
        output.write(f"and {len(found) - _MOST_DIFFERENCES:,} more: see --details\n")
    output.write(f"{plural(count, 'record')} run again, {len(found):,} differ\n")


def _sentence(difference: Difference) -> str:
    if difference.token is None:
        return f"line {difference.line}: {difference.what}"
    text = f"line {difference.line}, sample {difference.sample}, token {difference.token}: "
    text += f"recorded {_choice_text(difference.recorded)}, now {_choice_text(difference.now)}"
    if difference.margin is None:
        return text
    return f"{text}, margin {difference.margin:.3g} ({difference.unit})"


def _choice_text(choice: Any) -> str:
    if choice is None:
        return "another text"
    if choice.id is None:
        return str(choice.text)
    return f'{choice.id} "{shown(choice.text)}"'
