"""`gptcli bench`: how fast a model loads, reads and writes on this machine, as a table or JSON."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli import options as o
from gptcli.cli.model_options import ModelOptions
from gptcli.cli.render import console
from gptcli.cli.render.bench_report import show
from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.diagnostics.workload import Workload, fitted

if TYPE_CHECKING:
    from gptcli.checkpoint.resolve import Target
    from gptcli.diagnostics.benchmark import Run
    from gptcli.engine.fast import FastGPT

SCHEMA = "gptcli.bench/1"
WORK = "What is measured"
_DEFAULT = Workload()


def _number(text: str, default: int, *names: str) -> Any:
    """An option whose default is that of the workload, less where the context is short."""
    help_ = f"{text} \\[default: {default}]"
    return typer.Option(*names, help=help_, rich_help_panel=WORK, metavar="N", show_default=False)


def bench(
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="As --model.", show_default=False)
    ] = None,
    model: o.Model = None,
    config: o.Config = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
    prefill: Annotated[
        int | None, _number("Read a prompt of N tokens.", _DEFAULT.prefill, "--prefill")
    ] = None,
    prompt: Annotated[
        int | None, _number("Write after N tokens.", _DEFAULT.prompt, "--prompt")
    ] = None,
    new_tokens: Annotated[
        int | None,
        _number("Write N tokens, one text alone.", _DEFAULT.new_tokens, "--new-tokens", "-n"),
    ] = None,
    rows: Annotated[
        int | None, _number("Write N texts at once; 0: none.", _DEFAULT.rows, "--rows")
    ] = None,
    row_tokens: Annotated[
        int | None, _number("Write N tokens in each of them.", _DEFAULT.row_tokens, "--row-tokens")
    ] = None,
    runs: Annotated[
        int | None, _number("Do everything N times.", _DEFAULT.runs, "--runs", "-r")
    ] = None,
    product: Annotated[
        int | None,
        _number("Side of the machine's own matrices.", _DEFAULT.product, "--product"),
    ] = None,
    details: o.Details = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    quantize: o.Quantize = None,
    threads: o.Threads = None,
) -> None:
    """Measure a model's speed and memory, next to what the machine reaches by itself.

    Every run loads the model anew and measures it and the machine in turn, so that both have the
    same conditions; shown are the median and the extremes. A busy machine gives wide extremes. One
    text is measured as generate writes it, several as batch does.
    """
    console.Settings.quiet = quiet
    options = ModelOptions(
        model=target if model is None else model,
        config=config,
        weights=weights,
        offline=offline,
        seed=0,
        device=device,
        dtype=dtype,
        threads=threads,
        check_finite=True,
        quantize=quantize,
    )
    found = options.target()
    if found.config is None:
        hint = "Name its config with --config"
        raise InputError(shown(found.name), "has no config beside it", hint)
    options = options.settled(found)
    asked = {"prefill": prefill, "prompt": prompt, "new_tokens": new_tokens}
    asked |= {"rows": rows, "row_tokens": row_tokens, "runs": runs, "product": product}
    work = fitted(found.config.context_length, **asked)
    document = _document(found, options, work, _measure(options, found, work))
    if json:
        console.print_json(document)
    else:
        show(document, details=details)


def _measure(options: ModelOptions, found: "Target", work: Workload) -> "list[Run]":
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
    found: "Target", options: ModelOptions, work: Workload, runs: "list[Run]"
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
