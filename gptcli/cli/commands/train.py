"""`gptcli train`: a tokenizer and a model from text, as a model directory."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gptcli.cli.command import CommandFunction, was_given
from gptcli.cli.options import Quiet
from gptcli.cli.render import console
from gptcli.cli.train_run import Request, carry_out
from gptcli.core.errors import UsageError
from gptcli.core.options import Option
from gptcli.model.config import GPTConfig, read_config
from gptcli.train.options import MODEL, SIZES, Recipe, SizeName


@CommandFunction
def train(
    context: typer.Context,
    request: Request,
    config: Annotated[
        Path | None,
        Option(
            "Shape of the model, YAML or JSON.",
            MODEL,
            short="-c",
            metavar="FILE",
            suffixes=(".yaml", ".yml", ".json"),
        ),
    ] = None,
    size: Annotated[
        SizeName | None, Option("Shape, where no --config is given.", MODEL, default="small")
    ] = None,
    vocab_size: Annotated[
        int | None, Option("Tokens, instead of the shape's.", MODEL, metavar="N", ge=1)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a tokenizer and a model on TEXT, or a model that is there on more text.

    DIR is a model directory at the end: try it with `gptcli generate --model DIR`. The same
    command with --resume goes on after an interruption, to the same weights. Under torchrun
    several processes train one model.
    """
    console.Settings.quiet = quiet
    recipe = request.recipe
    if recipe.init_from is not None:
        # A model to begin from has all of these already.
        for name in ("config", "size", "vocab_size", "tokenizer", "initialisation"):
            if was_given(context, name):
                raise UsageError(name, "cannot be used together with `init_from`")
    shape = _shape(recipe, config, size, vocab_size)
    carry_out(replace(request, recipe=replace(recipe, config=shape)))


def _shape(
    recipe: Recipe, config: Path | None, size: SizeName | None, vocab_size: int | None
) -> GPTConfig:
    """The config of a file or a size, with what single options change."""
    shape = SIZES[size or "small"] if config is None else read_config(config)
    length = recipe.context_length
    shape = replace(
        shape,
        vocab_size=shape.vocab_size if vocab_size is None else vocab_size,
        context_length=shape.context_length if length is None else length,
    )
    return shape if recipe.drop_rate is None else shape.with_drop_rate(recipe.drop_rate)
