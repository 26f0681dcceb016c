"""`gptcli inspect`: the architecture and tensors of a model, and what happens inside it for a text.

Only configs and headers are read; code that reads more is imported only when it is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.command import CommandFunction, Without, was_given
from gptcli.cli.options import OUTPUT, Details
from gptcli.cli.render import console, inspect_report
from gptcli.cli.render.table import Canvas, Report
from gptcli.cli.text_analysis import RUN, AnalysisOptions, TextAnalysis, analyse
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.core.options import SEEDS, Argument, Option, check
from gptcli.generation.model_spec import ModelSpec
from gptcli.interpret.model_files import ModelFiles, read_model_files

if TYPE_CHECKING:
    from gptcli.interpret.tensor_stats import Stats

_ONE_TARGET = (
    "config",
    "weights",
    "stats",
    "prompt",
    "gradients",
    "attention",
    "all_heads",
    "html",
    "svg",
)  # options that need a single target


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where the result goes: standard output, unless a file is named."""

    json: Annotated[bool, Option("Print JSON instead of text.", OUTPUT)] = False
    html: Annotated[
        Path | None, Option("Write an interactive page as HTML.", OUTPUT, metavar="FILE")
    ] = None
    svg: Annotated[
        Path | None, Option("Write what is printed as a picture.", OUTPUT, metavar="FILE")
    ] = None

    def __post_init__(self) -> None:
        check(self)
        for name, path in (("html", self.html), ("svg", self.svg)):
            if path is not None and path.is_dir():
                raise UsageError(name, f"is a directory ({shown(path)}, expected a file)")
            if path is not None and not path.parent.is_dir():
                raise InputError(shown(path.parent), "no such directory")

    def write(self, findings: "Findings") -> None:
        """Print the findings, or write them to the files."""
        if self.json:
            console.print_json(findings.document())
        if self.html is not None:
            _write(self.html, findings.page())
        if self.svg is not None:
            _write(self.svg, findings.svg())
        if not (self.json or self.html or self.svg):
            findings.show()


@CommandFunction
def inspect(
    context: typer.Context,
    model: Annotated[ModelSpec, Without("engine", "seed", "dtype", "quantize")],
    analysis: AnalysisOptions,
    outputs: Outputs,
    targets: Annotated[
        tuple[str, ...],
        Argument(
            "A preset, a model directory, a config or a .safetensors file; two to compare.",
            metavar="TARGET [OTHER]",
        ),
    ] = (),
    stats: Annotated[
        bool, Option("Statistics of every tensor: extremes, mean, deviation, histogram.", OUTPUT)
    ] = False,
    seed: Annotated[
        int | None,
        Option(
            "Initialises an untrained model; without it 123, as in the book.",
            RUN,
            metavar="N",
            ge=0,
            lt=SEEDS,
        ),
    ] = None,
    details: Details = False,
) -> None:
    """Show the architecture as a tree, and what the weight files hold.

    Only the headers of weight files are read, so that a large model takes no longer than a small
    one; --details lists every tensor. Two targets are compared: config, names, shapes, dtypes,
    tying and values, whatever the layouts of the files.

    With --prompt or --gradients the model is run. With --html or --svg the result is written to a
    file and not printed.
    """
    names = [*filter(None, [model.model]), *targets]
    if len(names) > 1:
        _refuse_beside_two(names, [name for name in _ONE_TARGET if was_given(context, name)])
        _compare(names[0], names[1], as_json=outputs.json, details=details)
        return
    model = replace(model, model=names[0] if names else None, seed=seed, engine="torch")
    is_run = analysis.prompt is not None or analysis.gradients
    if stats and is_run and outputs.html is None:
        problem = "needs `html` when used together with `prompt` or `gradients`"
        raise UsageError("stats", problem)
    files, found = None, None
    if is_run:
        found = analyse(model, analysis, every_map=outputs.html is not None)
    if not is_run or outputs.html is not None:
        files = read_model_files(model.model, model.config, model.weights)
    measures = _statistics(files) if files and stats else None
    outputs.write(Findings(files, measures, found, details, analysis.top))


def _refuse_beside_two(names: Sequence[str], options: Sequence[str]) -> None:
    """Refuse a third target, and options that do not compare two."""
    if len(names) > 2:
        raise UsageError("TARGET", f"expected one target, or two to compare, got {len(names)}")
    if options:
        raise UsageError(options[0], "needs a single target, got 2")


def _compare(a: str, b: str, *, as_json: bool, details: bool) -> None:
    from gptcli.cli.render.diff_report import diff_document, show_diff
    from gptcli.cli.render.progress import reading
    from gptcli.interpret.model_diff import compare_models

    ours, theirs = (read_model_files(name, None, None) for name in (a, b))
    found = compare_models(ours, theirs, reading)
    if as_json:
        console.print_json(diff_document((a, b), found))
    else:
        show_diff((a, b), found, details=details)


def _statistics(files: ModelFiles) -> "list[Stats]":
    """Read every tensor.

    Raises:
        InputError: the target has no weights.
        RunError: a file changed, or cannot be read.
    """
    from gptcli.cli.render.progress import reading
    from gptcli.interpret.tensor_stats import statistics

    if files.weights is None:
        problem = "has no weights whose values could be measured"
        raise InputError(shown(files.target.name), problem)
    headers = files.weights.headers
    with reading(2 * sum(header.size - header.header_bytes for header in headers)) as on_read:
        return list(statistics(headers, on_read))


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found about one target: its files, tensor statistics, and a text's analysis.

    Each is None if it was not asked for. The report is about the text if there is one; without
    `details` it fits a screen.
    """

    files: ModelFiles | None
    stats: "list[Stats] | None"
    analysis: TextAnalysis | None
    details: bool = False
    candidates: int | None = None

    def document(self) -> dict[str, Any]:
        """The JSON of `inspect --json`."""
        if self.analysis is None:
            return self.files_document()
        from gptcli.cli.render.prompt_report import document

        return document(self.analysis)

    def files_document(self) -> dict[str, Any]:
        """The JSON of `inspect --json` without --prompt and --gradients."""
        assert self.files is not None, "without an analysis there are files"
        document = inspect_report.document(self.files)
        if self.stats is None:
            return document
        from gptcli.cli.render.stats_report import stats_document

        return document | {"stats": stats_document(self.stats)}

    def show(self, canvas: Canvas | None = None) -> None:
        """Print the report, or draw it on `canvas`."""
        if self.analysis is not None:
            self._show_analysis(self.analysis, Report(canvas))
            return
        assert self.files is not None, "without an analysis there are files"
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
        """Everything as one HTML page."""
        from gptcli.interpret.html_page import page

        maps = {}
        if self.analysis and self.analysis.forward:
            from gptcli.interpret.activations import packed_attention

            blocks = enumerate(self.analysis.forward.activations.blocks)
            maps = {
                number: packed_attention(block.attention)
                for number, block in blocks
                if block.attention is not None
            }
        return page(self.files_document(), self.document() if self.analysis else None, maps)

    def svg(self) -> str:
        """The report as an SVG picture."""
        from gptcli.cli.render.svg import Picture

        picture = Picture()
        self.show(picture)
        return picture.svg("gptcli inspect")


def _write(path: Path, text: str) -> None:
    from gptcli.core.files import write_atomically

    data = text.encode()
    write_atomically(path, data)
    console.notice(f"wrote {shown(path)} ({len(data):,} bytes)")
