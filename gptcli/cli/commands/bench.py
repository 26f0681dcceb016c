"""`gptcli bench`: how fast a model loads, reads and writes on this machine, as a table or JSON."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.command import CommandFunction, Without, was_given
from gptcli.cli.model_options import ModelOptions
from gptcli.cli.options import Details, Json, Quiet, Target, with_target
from gptcli.cli.render import console
from gptcli.cli.render.bench_report import show
from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.diagnostics.workload import Workload, fitted

if TYPE_CHECKING:
    from gptcli.checkpoint.resolve import Target as ModelTarget
    from gptcli.diagnostics.benchmark import Run
    from gptcli.engine.fast import FastGPT

SCHEMA = "gptcli.bench/1"


@CommandFunction
def bench(
    context: typer.Context,
    model: Annotated[ModelOptions, Without("engine", "seed", "check_finite")],
    workload: Workload,
    target: Target = None,
    details: Details = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model's speed and memory, next to what the machine reaches by itself.

    Every run loads the model anew and measures it and the machine in turn, so that both have the
    same conditions; shown are the median and the extremes. A busy machine gives wide extremes. One
    text is measured as generate writes it, several as batch does.
    """
    console.Settings.quiet = quiet
    options = replace(with_target(model, target), seed=0)
    found = options.target()
    if found.config is None:
        hint = "Name its config with `config`"
        raise InputError(shown(found.name), "has no config beside it", hint)
    options = options.settled(found)
    asked = {name: value for name, value in asdict(workload).items() if was_given(context, name)}
    work = fitted(found.config.context_length, **asked)
    document = _document(found, options, work, _measure(options, found, work))
    if json:
        console.print_json(document)
    else:
        show(document, details=details)


def _measure(options: ModelOptions, found: "ModelTarget", work: Workload) -> "list[Run]":
    options.torch()  # so that importing it is no part of loading
    from gptcli.diagnostics.benchmark import run

    loads = count()

    def load(*, single: bool) -> "FastGPT":
        with _quiet(now=next(loads) > 0):  # what loading has to say is said once
            return options.load_fast(found, 0, single=single)

    done: list[Run] = []
    for number in range(1, work.runs + 1):
        with console.waiting(f"run {number} of {work.runs} ..."):
            done.append(run(load, work, options.dtype, options.quantize))
    return done


@contextmanager
def _quiet(*, now: bool) -> Iterator[None]:
    """Inside, notices are left out: now, or because the user wants it."""
    quiet = console.Settings.quiet
    console.Settings.quiet = quiet or now
    try:
        yield
    finally:
        console.Settings.quiet = quiet


def _document(
    found: "ModelTarget", options: ModelOptions, work: Workload, runs: "list[Run]"
) -> dict[str, Any]:
    """The JSON: what was measured and how, the runs as they came, and what they say.

    schema; model, config, width ("float32", "int8", ...), device, threads, processor, torch;
    workload and runs: the fields of `gptcli.diagnostics.workload.Workload` and
        `gptcli.diagnostics.benchmark.Run`, in seconds,
    bytes, bytes/s and FLOP/s; summary: the fields of `gptcli.diagnostics.benchmark.Report`, each
    {median, low, high} over the runs, with {model, machine, share} around it where the two are
    compared.
    """
    import torch

    from gptcli.diagnostics.benchmark import report
    from gptcli.diagnostics.machine import processor

    width = options.quantize or options.dtype
    cache = "float32" if options.device == "cpu" else options.dtype
    assert found.config is not None
    return {
        "schema": SCHEMA,
        "model": found.name,
        "config": found.config.to_dict(),
        "width": width,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "torch": torch.__version__,
        "workload": asdict(work),
        "runs": [asdict(one) for one in runs],
        "summary": asdict(report(runs, found.config, work, width, cache)),
    }
