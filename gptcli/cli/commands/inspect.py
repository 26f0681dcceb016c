"""`gptcli inspect`: what a model is made of, and what happens inside it for a text.

Reads configs and headers; what reads more is imported only where it was asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli import options as o
from gptcli.cli.model_files import ModelFiles, read_model_files
from gptcli.cli.model_options import ModelOptions
from gptcli.cli.render import console, inspect_report
from gptcli.cli.render.table import Canvas, Report
from gptcli.cli.text_analysis import AnalysisOptions, TextAnalysis, analyse, text_of
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown

if TYPE_CHECKING:
    from gptcli.interpret.tensor_stats import Stats

RUN = "Run the model on a text"
_PROMPT = 'Tokens, predictions and activations of this text; "-" reads standard input.'
_GRADIENTS = "Loss and gradients, with and without shortcut connections."
_ATTENTION = "Draw a head's attention map, as 0.0. Repeatable."
_TOP = "List N tokens that may come next; 5 without it, with --details and --json 10."
_CANDIDATES = 10
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
    top: Annotated[int | None, o.option(RUN, _TOP, "--top", metavar="N")] = None,
    seed: Annotated[int | None, o.option(RUN, _SEED, "--seed", metavar="N")] = None,
    offline: o.Offline = False,
    check_finite: o.CheckFinite = True,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    details: o.Details = False,
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
    if len(names) > 1:
        others = {
            "--config": config,
            "--weights": weights,
            "--stats": stats,
            "--prompt": prompt is not None,
            "--gradients": gradients,
            "--attention": attention,
            "--all-heads": all_heads,
            "--html": html,
            "--svg": svg,
        }
        refuse_beside_two(names, others)
        _compare(names[0], names[1], as_json=as_json, details=details)
        return
    outputs = Outputs(as_json=as_json, html=html, svg=svg)
    analysis_options = AnalysisOptions(
        prompt=text_of(prompt),
        gradients=gradients,
        maps=tuple(attention or ()),
        all_heads=all_heads,
        top=_CANDIDATES if top is None else top,
    )
    is_run = prompt is not None or gradients
    if stats and is_run and html is None:
        raise UsageError("--stats", "goes with --prompt and --gradients only in a page (--html)")
    files, analysis = None, None
    if is_run:
        model_options = ModelOptions(
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
        analysis = analyse(model_options, analysis_options, every_map=html is not None)
    if not is_run or html is not None:
        files = read_model_files(names[0] if names else None, config, weights)
    measures = _measured(files) if files and stats else None
    outputs.write(Findings(files, measures, analysis, details, top))


def refuse_beside_two(names: Sequence[str], options: Mapping[str, object]) -> None:
    """Two targets are compared, and nothing else.

    Raises:
        UsageError: there are more than two, or an option that is for one of them.
    """
    if len(names) > 2:
        raise UsageError("TARGET", f"one to look at or two to compare ({len(names)} are named)")
    if given := [option for option, value in options.items() if value]:
        raise UsageError(given[0], "goes with one target (2 are named)")


def _compare(a: str, b: str, *, as_json: bool, details: bool) -> None:
    from gptcli.cli.render.diff_report import compared, diff_document, show_diff

    found = compared(read_model_files(a, None, None), read_model_files(b, None, None))
    if as_json:
        console.print_json(diff_document((a, b), found))
    else:
        show_diff((a, b), found, details=details)


def _measured(files: ModelFiles) -> "list[Stats]":
    from gptcli.cli.render.stats_report import measured

    return measured(files)


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of one target: of its files, their values, and of a text in the model.

    Each is None where it was not asked for; the report is about the text where there is one, and
    fits a screen without `details`.
    """

    files: ModelFiles | None
    stats: "list[Stats] | None"
    analysis: TextAnalysis | None
    details: bool = False
    candidates: int | None = None

    def document(self) -> dict[str, Any]:
        """As `inspect --json` prints it."""
        if self.analysis is None:
            return self.files_document()
        from gptcli.cli.render.prompt_report import document

        return document(self.analysis)

    def files_document(self) -> dict[str, Any]:
        """As `inspect --json` prints it without --prompt and --gradients."""
        assert self.files is not None, "files are what there is to show"
        document = inspect_report.document(self.files)
        if self.stats is None:
            return document
        from gptcli.cli.render.stats_report import stats_document

        return document | {"stats": stats_document(self.stats)}

    def show(self, canvas: Canvas | None = None) -> None:
        """As `inspect` prints it."""
        if self.analysis is not None:
            self._show_analysis(self.analysis, Report(canvas))
            return
        assert self.files is not None, "files are what there is to show"
        if self.stats is None:
            inspect_report.show(self.files, canvas, details=self.details)
            return
        from gptcli.cli.render.stats_report import show_stats

        show_stats(self.files, self.stats, canvas, details=self.details)

    def _show_analysis(self, analysis: TextAnalysis, report: Report) -> None:
        from gptcli.cli.render import gradient_report, prompt_report

        report.title(prompt_report.title(analysis))
        if analysis.forward:
            how: dict[str, Any] = {"details": self.details, "candidates": self.candidates}
            prompt_report.show(report, analysis, analysis.forward, **how)
        if analysis.gradients:
            gradient_report.show(report, analysis.gradients, details=self.details)

    def page(self) -> str:
        """All of it as one HTML file."""
        from gptcli.interpret.html_page import page

        maps = {}
        if self.analysis and self.analysis.forward:
            from gptcli.interpret.activations import packed

            blocks = enumerate(self.analysis.forward.activations.blocks)
            maps = {
                number: packed(block.attention)
                for number, block in blocks
                if block.attention is not None
            }
        return page(self.files_document(), self.document() if self.analysis else None, maps)

    def svg(self) -> str:
        """What `inspect` prints, as a picture."""
        from gptcli.cli.render.svg import Picture

        picture = Picture()
        self.show(picture)
        return picture.svg("gptcli inspect")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where the result goes: stdout unless a file was named; with --json to both."""

    as_json: bool
    html: Path | None
    svg: Path | None

    def __post_init__(self) -> None:
        for option, path in (("--html", self.html), ("--svg", self.svg)):
            if path is not None and path.is_dir():
                raise UsageError(option, f"is a directory ({shown(path)}, expected a file)")
            if path is not None and not path.parent.is_dir():
                raise InputError(shown(path.parent), "no such directory")

    def write(self, findings: Findings) -> None:
        """Print or write all that was asked for."""
        if self.as_json:
            console.print_json(findings.document())
        if self.html is not None:
            _write(self.html, findings.page())
        if self.svg is not None:
            _write(self.svg, findings.svg())
        if not (self.as_json or self.html or self.svg):
            findings.show()


def _write(path: Path, text: str) -> None:
    from gptcli.core.atomic import write_atomically

    data = text.encode()
    write_atomically(path, data)
    console.notice(f"wrote {shown(path)} ({len(data):,} bytes)")
