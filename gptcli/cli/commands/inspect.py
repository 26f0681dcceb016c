"""`gptcli inspect`: what a model is made of, and what its weight files say of themselves.

Reads configs and headers; what reads more is imported only where it was asked for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from gptcli.cli import options as o
from gptcli.cli.render import console
from gptcli.cli.render.inspect_report import show
from gptcli.cli.render.inspected import Inspected, document, inspected
from gptcli.core.errors import UsageError

RUN = "Run the model on a text"
_PROMPT = 'Tokens, predictions and activations of this text; "-" reads standard input.'
_GRADIENTS = "Loss and gradients, with and without shortcut connections."
_ATTENTION = "Draw a head's attention map, as 0.0. Repeatable."
_TOP = "List N tokens that may come next."
_SEED = "Initialises an untrained model; 123, as in the book, without it."


def inspect(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET [OTHER]",
            help="A preset, a model directory, a config or a .safetensors file; two to compare.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Use this config.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", metavar="FILE", help="Use these weights.")
    ] = None,
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Read every tensor: extremes, mean, deviation, histogram."),
    ] = False,
    prompt: Annotated[str | None, o.option(RUN, _PROMPT, "--prompt", metavar="TEXT")] = None,
    gradients: Annotated[bool, o.option(RUN, _GRADIENTS, "--gradients")] = False,
    attention: Annotated[
        list[str] | None, o.option(RUN, _ATTENTION, "--attention", metavar="LAYER.HEAD")
    ] = None,
    all_heads: Annotated[
        bool, o.option(RUN, "Draw the attention maps of all heads.", "--all-heads")
    ] = False,
    top: Annotated[int, o.option(RUN, _TOP, "--top", metavar="N")] = 10,
    seed: Annotated[int | None, o.option(RUN, _SEED, "--seed", metavar="N")] = None,
    offline: o.Offline = False,
    check_finite: o.CheckFinite = True,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: Annotated[
        bool, o.option(o.OUTPUT, "Print one JSON object, with every name unescaped.", "--json")
    ] = False,
    html: Annotated[
        Path | None, o.option(o.OUTPUT, "Write one page with all of it.", "--html", metavar="FILE")
    ] = None,
    svg: Annotated[
        Path | None, o.option(o.OUTPUT, "Write the view as a picture.", "--svg", metavar="FILE")
    ] = None,
) -> None:
    """Show the architecture as a tree, and every tensor of the weight files.

    Only the headers of files are read, so any size takes the same time. Two targets are compared:
    config, names, shapes, dtypes, tying and values, whatever the layouts of the files.

    With --prompt or --gradients the model is run. --html and --svg take the place of what would be
    printed.
    """
    names = targets or []
    running = {
        "--prompt": prompt is not None,
        "--gradients": gradients,
        "--attention": attention,
        "--all-heads": all_heads,
        "--html": html,
        "--svg": svg,
    }
    if len(names) > 1:
        one = {"--config": config, "--weights": weights, "--stats": stats, **running}
        refuse_beside_two(names, one)
        _compare(names[0], names[1], as_json=as_json)
        return
    if any(running.values()):
        from gptcli.cli.inspect_run import Results, run
        from gptcli.cli.looked import Wanted, text_of
        from gptcli.cli.model_options import ModelOptions

        options = ModelOptions(
            model=names[0] if names else None,
            config=config,
            weights=weights,
            offline=offline,
            seed=seed,
            device=device,
            dtype="float32",
            threads=threads,
            check_finite=check_finite,
        )
        wanted = Wanted(
            prompt=text_of(prompt),
            gradients=gradients,
            maps=tuple(attention or ()),
            all_heads=all_heads,
            top=top,
        )
        run(options, wanted, Results(as_json=as_json, html=html, svg=svg, stats=stats))
        return
    found = inspected(names[0] if names else None, config, weights)
    if stats:
        _measure(found, as_json=as_json)
    elif as_json:
        console.print_json(document(found))
    else:
        show(found)


def refuse_beside_two(names: Sequence[str], options: Mapping[str, object]) -> None:
    """Two targets are compared, and nothing else.

    Raises:
        UsageError: there are more than two, or an option that is for one of them.
    """
    if len(names) > 2:
        raise UsageError("TARGET", f"one to look at or two to compare ({len(names)} are named)")
    if given := [option for option, value in options.items() if value]:
        raise UsageError(given[0], "goes with one target (2 are named)")


def _compare(a: str, b: str, *, as_json: bool) -> None:
    from gptcli.cli.render.inspect_diff import compared, diff_document, show_diff

    found = compared(inspected(a, None, None), inspected(b, None, None))
    if as_json:
        console.print_json(diff_document((a, b), found))
    else:
        show_diff((a, b), found)


def _measure(found: Inspected, *, as_json: bool) -> None:
    from gptcli.cli.render.inspect_stats import measured, show_stats, stats_document

    measures = measured(found)
    if as_json:
        console.print_json(document(found) | {"stats": stats_document(measures)})
    else:
        show_stats(found, measures)
