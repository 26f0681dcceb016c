"""`gptcli inspect` where the model is run (`--prompt`, `--gradients`) or a file is written.

Imports torch only once a model is to be loaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli.looked import Looked, Wanted, look
from gptcli.cli.model_options import ModelOptions
from gptcli.cli.render import console
from gptcli.cli.render.inspect_report import show
from gptcli.cli.render.inspected import Inspected, document, inspected
from gptcli.cli.render.report import Canvas, Report
from gptcli.core.atomic import write_atomically
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown

if TYPE_CHECKING:
    from gptcli.interpret.tensor_stats import Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Where the result goes: stdout unless a file was named; with --json to both.

    `stats` adds the values of the tensors, to a page or where no model is run.
    """

    as_json: bool
    html: Path | None
    svg: Path | None
    stats: bool = False

    def __post_init__(self) -> None:
        for option, path in (("--html", self.html), ("--svg", self.svg)):
            if path is not None and path.is_dir():
                raise UsageError(option, f"is a directory ({shown(path)}, expected a file)")
            if path is not None and not path.parent.is_dir():
                raise InputError(shown(path.parent), "no such directory")


def run(options: ModelOptions, wanted: Wanted, results: Results) -> None:
    """Find out what was asked for, and show or write it."""
    is_run = wanted.prompt is not None or wanted.gradients
    if results.stats and is_run and results.html is None:
        raise UsageError("--stats", "goes with --prompt and --gradients only in a page (--html)")
    looked = look(options, wanted, every_map=results.html is not None) if is_run else None
    needs_files = looked is None or results.html is not None
    files = _files(options, results.stats) if needs_files else None
    if results.as_json:
        console.print_json(_json(looked, files))
    if results.html is not None:
        assert files is not None, "a page shows the files too"
        _write(results.html, _page(files, looked))
    if results.svg is not None:
        _write(results.svg, _svg(looked, files))
    if not (results.as_json or results.html or results.svg):
        _show(looked, files)


@dataclass(frozen=True, slots=True)
class Files:
    """What is known without running the model; `stats` are None unless they were asked for."""

    found: Inspected
    stats: "list[Stats] | None"

    def document(self) -> dict[str, Any]:
        """As `inspect --json` prints it."""
        if self.stats is None:
            return document(self.found)
        from gptcli.cli.render.inspect_stats import stats_document

        return document(self.found) | {"stats": stats_document(self.stats)}

    def show(self, canvas: Canvas | None) -> None:
        """As `inspect` prints it."""
        if self.stats is None:
            show(self.found, canvas)
            return
        from gptcli.cli.render.inspect_stats import show_stats

        show_stats(self.found, self.stats, canvas)


def _files(options: ModelOptions, stats: bool) -> Files:
    found = inspected(options.model, options.config, options.weights)
    if not stats:
        return Files(found, None)
    from gptcli.cli.render.inspect_stats import measured

    return Files(found, measured(found))


def _json(looked: Looked | None, files: Files | None) -> dict[str, Any]:
    if looked is None:
        assert files is not None, "files are what there is to show"
        return files.document()
    from gptcli.cli.render.probe_json import document as probe_document

    return probe_document(looked)


def _show(looked: Looked | None, files: Files | None, canvas: Canvas | None = None) -> None:
    if looked is None:
        assert files is not None, "files are what there is to show"
        files.show(canvas)
        return
    from gptcli.cli.render import gradient_report, probe_report

    report = Report(canvas)
    report.title(probe_report.title(looked))
    if looked.inside:
        probe_report.show(report, looked, looked.inside)
    if looked.gradients:
        gradient_report.show(report, looked.gradients)


def _page(files: Files, looked: Looked | None) -> str:
    from gptcli.interpret.html_page import page

    if looked is None:
        return page(files.document())
    from gptcli.cli.render.probe_json import document as probe_document

    maps = {}
    if looked.inside:
        from gptcli.interpret.activations import packed

        blocks = enumerate(looked.inside.probe.blocks)
        maps = {n: packed(block.attention) for n, block in blocks if block.attention is not None}
    return page(files.document(), probe_document(looked), maps)


def _svg(looked: Looked | None, files: Files | None) -> str:
    from gptcli.cli.render.svg import Picture

    picture = Picture()
    _show(looked, files, picture)
    return picture.svg("gptcli inspect")


def _write(path: Path, text: str) -> None:
    data = text.encode()
    write_atomically(path, data)
    console.notice(f"wrote {shown(path)} ({len(data):,} bytes)")
