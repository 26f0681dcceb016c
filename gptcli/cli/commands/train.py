"""`gptcli train`: a tokenizer and a model from text, as a model directory."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptcli.checkpoint.resolve import resolve
from gptcli.cli.command import CommandFunction, was_given
from gptcli.cli.options import OUTPUT, Quiet
from gptcli.cli.render import console
from gptcli.cli.render.progress import TrainingProgress, downloads
from gptcli.core import signals
from gptcli.core.errors import RunError, UsageError
from gptcli.core.escape import shown
from gptcli.core.files import locked_directory
from gptcli.core.options import Option, check
from gptcli.core.units import plural
from gptcli.model.config import GPTConfig, read_config
from gptcli.train.loss_plot import binned, text_curve
from gptcli.train.options import (
    CARD,
    CHECKS,
    MACHINE,
    MODEL,
    SIZES,
    STATE,
    WEIGHTS,
    Recipe,
    SizeName,
    TrainSettings,
)

if TYPE_CHECKING:
    from gptcli.train.distributed import Group
    from gptcli.train.setup import PreparedTraining
    from gptcli.train.state import Progress

_MAX_POINTS = 400  # of a plotted curve
_OUTPUT_OPTIONS = {"-o", "--output", "--plot"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """Options of `train`; checked without importing torch."""

    recipe: Recipe
    settings: TrainSettings
    device: Annotated[
        str | None, Option("cpu or cuda; the best without it.", MACHINE, metavar="NAME")
    ] = None
    resume: Annotated[bool, Option("Continue from DIR's last checkpoint.", CHECKS)] = False
    plot: Annotated[
        Path | None, Option("Draw the loss curve: .svg or .png.", OUTPUT, metavar="FILE")
    ] = None
    note: Annotated[
        tuple[str, ...],
        Option(
            "Add to the model card, such as the texts' licence. Repeatable.",
            OUTPUT,
            metavar="TEXT",
        ),
    ] = ()

    def __post_init__(self) -> None:
        check(self)
        if self.plot is not None and self.plot.suffix.lower() not in {".svg", ".png"}:
            raise UsageError("plot", f'must end in .svg or .png, got "{shown(self.plot.name)}"')
        if self.resume:
            return
        for name, what in ((STATE, "an unfinished training"), (WEIGHTS, "a model")):
            if (self.recipe.directory / name).exists():
                hint = "Continue it with `resume`, or name another directory"
                where = shown(self.recipe.directory)
                raise UsageError("directory", f"{where} holds {what} already", hint)

    @property
    def is_finished(self) -> bool:
        """Whether the training is complete."""
        directory = self.recipe.directory
        return self.resume and (directory / CARD).exists() and not (directory / STATE).exists()


@CommandFunction
def train(
    context: typer.Context,
    request: TrainRequest,
    config: Annotated[
        Path | None,
        Option(
            "Config of the model, YAML or JSON.",
            MODEL,
            short="-c",
            metavar="FILE",
            suffixes=(".yaml", ".yml", ".json"),
        ),
    ] = None,
    size: Annotated[
        SizeName | None, Option("Model size, without `config`.", MODEL, default="small")
    ] = None,
    vocab_size: Annotated[
        int | None, Option("Vocabulary size, instead of the config's.", MODEL, metavar="N", ge=1)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a tokenizer and a model on TEXT, or an existing model on more text.

    DIR becomes a model directory: try it with `gptcli generate --model DIR`. After an
    interruption the same command with --resume continues, to the same weights. Under torchrun
    several processes train one model.
    """
    console.Settings.quiet = quiet
    recipe = request.recipe
    if recipe.init_from is not None:
        # All of these come with the existing model.
        for name in ("config", "size", "vocab_size", "tokenizer", "initialisation"):
            if was_given(context, name):
                raise UsageError(name, "cannot be used together with `init_from`")
    shape = _shape(recipe, config, size, vocab_size)
    run_training(replace(request, recipe=replace(recipe, config=shape)))


def _shape(
    recipe: Recipe, config: Path | None, size: SizeName | None, vocab_size: int | None
) -> GPTConfig:
    """The config of a file or a size, changed by single options."""
    shape = SIZES[size or "small"] if config is None else read_config(config)
    length = recipe.context_length
    shape = replace(
        shape,
        vocab_size=shape.vocab_size if vocab_size is None else vocab_size,
        context_length=shape.context_length if length is None else length,
    )
    return shape if recipe.drop_rate is None else shape.with_drop_rate(recipe.drop_rate)


def run_training(request: TrainRequest) -> None:
    """Train to the end, or to the first signal.

    Raises:
        typer.Exit: interrupted, with the state written; the code is the signal's.
    """
    if request.is_finished:
        console.notice(f"{shown(request.recipe.directory)} is finished: there is nothing to resume")
        return
    recipe = request.recipe
    if recipe.init_from is not None:
        with downloads() as report:
            resolve(recipe.init_from, offline=recipe.offline, progress=report, option="init_from")
    with console.waiting("reading the texts ..."):
        from gptcli.engine.pytorch import torch_on
        from gptcli.train.distributed import process_group
        from gptcli.train.heap import keep_freed_memory

        keep_freed_memory()
        torch = torch_on("cpu", request.recipe.threads)
    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with process_group(device) as group:
        _train(request, group)


def _train(request: TrainRequest, group: "Group") -> None:
    from gptcli.train.setup import prepare

    recipe = request.recipe
    started = request.resume and (recipe.directory / STATE).exists()
    with console.waiting("reading the texts ..."):
        job = prepare(recipe, request.settings, group, resume=started)
    progress = job.trainer.progress
    if group.is_leader:
        _announce(job)
    view = TrainingProgress(job.settings.steps, progress, group.is_leader)
    lock = locked_directory(recipe.directory) if group.is_leader else nullcontext()
    with lock, signals.deferred() as interrupted, view:
        for report in job.trainer.run(interrupted):
            view.show(report)
    if progress.step < job.settings.steps and not progress.stopped:
        if group.is_leader:
            console.say(f"interrupted after step {progress.step:,}; continue with --resume")
        raise typer.Exit(signals.exit_code())
    if group.is_leader:
        _finish(request, job)


def _announce(job: "PreparedTraining") -> None:
    from gptcli.model.parameters import count

    total, settings = count(job.config).total, job.settings
    console.notice(
        f"{total:,} parameters, vocabulary of {job.config.vocab_size:,}, {job.tokens:,} tokens of"
        f" text, {plural(settings.steps, 'step')} of"
        f" {settings.batch_size * job.config.context_length:,} tokens"
    )
    wanted = job.recipe.config.vocab_size
    if job.base is None and job.config.vocab_size != wanted:
        why = (
            "the texts have no more pairs to merge"
            if job.recipe.tokenizer is None
            else job.recipe.tokenizer
        )
        console.notice(f"vocabulary of {job.config.vocab_size:,} instead of {wanted:,}: {why}")
    if job.trainer.progress.step:
        console.notice(f"continuing after step {job.trainer.progress.step:,}")


def _finish(request: TrainRequest, job: "PreparedTraining") -> None:
    from gptcli.train.finish import finish

    with console.waiting("measuring the model ..."):
        bits = finish(job, command_for_the_card(sys.argv[1:]), request.note)
    progress = job.trainer.progress
    if not console.Settings.quiet:
        console.say(text_curve([entry["loss"] for entry in progress.history]))
    stopped = f", stopped early at {progress.step:,}" if progress.stopped else ""
    console.notice(
        f"validation {bits:.4f} bits per byte, weights of step {progress.best_step:,}{stopped}"
    )
    if request.plot is not None:
        _draw(request.plot, progress)
    console.notice(f"try: gptcli generate --model {shown(request.recipe.directory)}")


def _draw(path: Path, progress: "Progress") -> None:
    from gptcli.core.files import write_atomically
    from gptcli.train.loss_plot import Chart, png, svg

    losses = [entry["loss"] for entry in progress.history]
    steps = [float(entry["step"]) for entry in progress.history]
    training = list(zip(binned(steps, _MAX_POINTS), binned(losses, _MAX_POINTS), strict=True))
    bits = [(entry["step"], entry["bits"]) for entry in progress.history if "bits" in entry]
    chart = Chart({"training loss": training, "validation bits per byte": bits})
    draw = png if path.suffix.lower() == ".png" else svg
    try:
        write_atomically(path, draw(chart))
    except RunError as problem:  # the model is saved; a missing plot is no failure
        console.error(problem)


def command_for_the_card(arguments: Sequence[str]) -> list[str]:
    """The command line for the model card, with absolute paths cut to their last parts."""
    kept = [argument for argument in arguments if argument != "--resume"]
    return [
        _shortened(argument, 1 if before in _OUTPUT_OPTIONS else 2)
        for before, argument in zip(["", *kept], kept, strict=False)
    ]


def _shortened(argument: str, parts: int) -> str:
    return "/".join(argument.split("/")[-parts:]) if argument.startswith("/") else argument
