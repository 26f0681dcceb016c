"""`gptcli bench`: speed of loading, prefill and decode on this machine."""

from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.command import CommandFunction, Without, was_given
from gptcli.cli.model_loading import open_model
from gptcli.cli.options import Details, Json, Quiet, Target, with_target
from gptcli.cli.render import console
from gptcli.cli.render.bench_report import show
from gptcli.diagnostics.workload import Workload, fitted
from gptcli.generation.model_spec import ModelSpec

if TYPE_CHECKING:
    from gptcli.diagnostics.benchmark import Run
    from gptcli.engine.interface import Engine
    from gptcli.generation.llm import LLM

SCHEMA = "gptcli.bench/1"


@CommandFunction
def bench(
    context: typer.Context,
    model: Annotated[ModelSpec, Without("seed", "check_finite")],
    workload: Workload,
    target: Target = None,
    details: Details = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model's speed and memory, next to the machine's own limits.

    Each run loads the model anew and measures the model and the machine in turn, under the same
    conditions. Shown are the median and the extremes of all runs; they lie far apart on a busy
    machine.
    """
    console.Settings.quiet = quiet
    llm = open_model(replace(with_target(model, target), seed=0))
    asked = {name: value for name, value in asdict(workload).items() if was_given(context, name)}
    work = fitted(llm.config.context_length, **asked)
    document = _document(llm, work, _measure(llm, work))
    if json:
        console.print_json(document)
    else:
        show(document, details=details)


def _measure(llm: "LLM", work: Workload) -> "list[Run]":
    from gptcli.diagnostics.benchmark import run
    from gptcli.generation.llm import LLM

    if not llm.is_native:
        import torch  # noqa: F401  # loading is measured without this import
    for line in llm.notices:
        console.notice(line)
    done: list[Run] = []
    for number in range(1, work.runs + 1):
        with console.waiting(f"run {number} of {work.runs} ..."):
            load = partial(_engine, LLM(llm.spec, llm.target, llm.checkpoint))
            done.append(
                run(
                    load, work, llm.weight_dtype, llm.threads, llm.spec.device, native=llm.is_native
                )
            )
            del load
    return done


def _engine(llm: "LLM") -> "Engine":
    return llm.engine


def _document(llm: "LLM", work: Workload, runs: "list[Run]") -> dict[str, Any]:
    """The JSON of `--json`: what was measured and how, each run, and a summary.

    "workload", "runs" and "summary" have the fields of `gptcli.diagnostics.workload.Workload`,
    `gptcli.diagnostics.benchmark.Run` and `Report`, in seconds, bytes, bytes/s and FLOP/s. A field
    of the summary is {median, low, high} over the runs, within {model, machine, share} where the
    model is compared with the machine. "width" is the weights' dtype.
    """
    from gptcli.diagnostics.benchmark import report
    from gptcli.diagnostics.machine import processor

    cache = "float32" if llm.spec.device == "cpu" else llm.dtype
    return {
        "schema": SCHEMA,
        "model": llm.name,
        "config": llm.config.to_dict(),
        "width": llm.weight_dtype,
        "device": llm.spec.device,
        "threads": llm.threads,
        "processor": processor(),
        "engine": llm.engine_name,
        "workload": asdict(work),
        "runs": [asdict(one) for one in runs],
        "summary": asdict(report(runs, llm.config, work, llm.weight_dtype, cache)),
    }
