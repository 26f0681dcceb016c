"""`gptcli train`: a tokenizer and a model from text, as a model directory."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gptcli.cli import options as o
from gptcli.cli.render import console
from gptcli.cli.training import Request, carry_out
from gptcli.core.errors import UsageError
from gptcli.model.config import GPTConfig, read_config
from gptcli.train.options import (
    SIZES,
    Initialisation,
    OptimizerName,
    Precision,
    Recipe,
    SizeName,
    TrainSettings,
    WeightsDtype,
)
from gptcli.train.text_files import parse_source

_RUN, _DATA, _OPTIMIZER, _CHECKS = "Length", "Data", "Optimizer", "Validation and checkpoints"
_TEXT = (
    "Text files, plain or gzip, with <|endoftext|> lines between documents. FILE@2 is read twice"
    " as often as its size says; FILE@1:0 less and less towards the end."
)

_SETTINGS = TrainSettings()
_RECIPE = Recipe(sources=(parse_source(""),), directory=Path())


def train(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help=_TEXT)],
    output: Annotated[
        Path,
        o.option(o.MODEL, "The model directory to make.", "--output", "-o", metavar="DIR"),
    ],
    config: o.Config = None,
    size: Annotated[
        SizeName | None, o.option(o.MODEL, "Shape, where no --config is given: small.", "--size")
    ] = None,
    init_from: Annotated[
        str | None,
        o.option(
            o.MODEL,
            "Begin from this model's weights, shape and tokenizer: fine-tuning.",
            "--init-from",
            metavar="TARGET",
        ),
    ] = None,
    vocab_size: Annotated[
        int | None, o.option(o.MODEL, "Tokens, instead of the shape's.", "--vocab-size")
    ] = None,
    context_length: Annotated[
        int | None, o.option(o.MODEL, "Context, instead of the shape's.", "--context-length")
    ] = None,
    drop_rate: Annotated[
        float | None, o.option(o.MODEL, "Dropout, instead of the shape's.", "--drop-rate")
    ] = None,
    tokenizer: Annotated[
        str | None,
        o.option(o.MODEL, "A tiktoken name, instead of training one.", "--tokenizer"),
    ] = None,
    initialisation: Annotated[
        Initialisation | None,
        o.option(o.MODEL, "auto: GPT-2's if tied, else the book's.", "--initialisation"),
    ] = None,
    weights_dtype: Annotated[
        WeightsDtype, o.option(o.MODEL, "Of the file of weights.", "--weights-dtype")
    ] = _RECIPE.weights_dtype,
    valid: Annotated[
        Path | None,
        o.option(_DATA, "Text to validate on.", "--valid", metavar="FILE"),
    ] = None,
    valid_share: Annotated[
        float, o.option(_DATA, "Documents held out without --valid.", "--valid-share")
    ] = _RECIPE.valid_share,
    fold_quotes: Annotated[
        bool, o.option(_DATA, "Make typographic quotes and dashes plain.", "--fold-quotes")
    ] = False,
    steps: Annotated[
        int, o.option(_RUN, "Optimizer steps; 0 follows --epochs.", "--steps")
    ] = _SETTINGS.steps,
    epochs: Annotated[
        float, o.option(_RUN, "How often the texts are read.", "--epochs")
    ] = _RECIPE.epochs,
    batch_size: Annotated[
        int, o.option(_RUN, "Rows of one context a step, in all.", "--batch-size", "-b")
    ] = _SETTINGS.batch_size,
    accumulate: Annotated[
        int, o.option(_RUN, "Parts a batch is computed in.", "--accumulate")
    ] = _SETTINGS.accumulate,
    optimizer: Annotated[
        OptimizerName, o.option(_OPTIMIZER, "muon learns more a step.", "--optimizer")
    ] = _SETTINGS.optimizer,
    lr: Annotated[float, o.option(_OPTIMIZER, "Highest learning rate.", "--lr")] = _SETTINGS.lr,
    min_lr: Annotated[
        float, o.option(_OPTIMIZER, "Last one, as a share of it.", "--min-lr")
    ] = _SETTINGS.min_lr,
    warmup: Annotated[
        int, o.option(_OPTIMIZER, "Steps to the highest one.", "--warmup")
    ] = _SETTINGS.warmup,
    weight_decay: Annotated[
        float, o.option(_OPTIMIZER, "Of matrices.", "--weight-decay")
    ] = _SETTINGS.weight_decay,
    beta1: Annotated[float, o.option(_OPTIMIZER, "AdamW's.", "--beta1")] = _SETTINGS.beta1,
    beta2: Annotated[float, o.option(_OPTIMIZER, "AdamW's.", "--beta2")] = _SETTINGS.beta2,
    clip: Annotated[
        float, o.option(_OPTIMIZER, "Largest norm of the gradient; 0: any.", "--clip")
    ] = _SETTINGS.clip,
    average: Annotated[
        float,
        o.option(_OPTIMIZER, "Keep a running average of the weights; 0: none.", "--average"),
    ] = _SETTINGS.average,
    attention_dropout: Annotated[
        bool,
        o.option(
            _OPTIMIZER,
            "Dropout in the attention too; without it a CPU is faster.",
            "--attention-dropout/--no-attention-dropout",
        ),
    ] = _SETTINGS.attention_dropout,
    seed: Annotated[int, o.option(_RUN, "Same seed, same model.", "--seed")] = _SETTINGS.seed,
    eval_every: Annotated[
        int, o.option(_CHECKS, "Steps between validations.", "--eval-every")
    ] = _SETTINGS.eval_every,
    patience: Annotated[
        int,
        o.option(_CHECKS, "Validations without a best before stopping; 0: never.", "--patience"),
    ] = _SETTINGS.patience,
    save_every: Annotated[
        int, o.option(_CHECKS, "Steps between checkpoints.", "--save-every")
    ] = _SETTINGS.save_every,
    resume: Annotated[
        bool, o.option(_CHECKS, "Go on from DIR's last checkpoint.", "--resume")
    ] = False,
    plot: Annotated[
        Path | None,
        o.option(o.OUTPUT, "Draw the loss curve: .svg or .png.", "--plot", metavar="FILE"),
    ] = None,
    note: Annotated[
        list[str] | None,
        o.option(o.OUTPUT, "For the model card: the texts' licence, say.", "--note"),
    ] = None,
    quiet: o.Quiet = False,
    precision: Annotated[
        Precision, o.option(o.MACHINE, "Of matrix products.", "--precision")
    ] = _SETTINGS.precision,
    device: Annotated[
        str | None, o.option(o.MACHINE, "cpu or cuda; the best without it.", "--device")
    ] = None,
    threads: o.Threads = None,
) -> None:
    """Train a tokenizer and a model on TEXT, or a model that is there on more text.

    DIR is a model directory at the end: try it with `gptcli generate --model DIR`. The same
    command with --resume goes on after an interruption, to the same weights. Under torchrun
    several processes train one model.
    """
    console.Settings.quiet = quiet
    if init_from is not None:
        _refuse_beside_base(config, size, vocab_size, tokenizer, initialisation)
    recipe = Recipe(
        sources=tuple(map(parse_source, texts)),
        directory=output,
        config=_shape(config, size, vocab_size, context_length, drop_rate),
        tokenizer=tokenizer,
        valid=valid,
        valid_share=valid_share,
        fold_quotes=fold_quotes,
        initialisation=initialisation or _RECIPE.initialisation,
        init_from=init_from,
        context_length=context_length,
        drop_rate=drop_rate,
        weights_dtype=weights_dtype,
        epochs=epochs,
        threads=threads,
    )
    settings = TrainSettings(
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        optimizer=optimizer,
        lr=lr,
        min_lr=min_lr,
        warmup=warmup,
        weight_decay=weight_decay,
        beta1=beta1,
        beta2=beta2,
        clip=clip,
        average=average,
        seed=seed,
        precision=precision,
        attention_dropout=attention_dropout,
        eval_every=eval_every,
        patience=patience,
        save_every=save_every,
    )
    request = Request(recipe, settings, device, resume, plot, tuple(note or ()))
    carry_out(request)


def _refuse_beside_base(*given: object) -> None:
    """A model to begin from has all of these already."""
    names = ("--config", "--size", "--vocab-size", "--tokenizer", "--initialisation")
    for name, value in zip(names, given, strict=True):
        if value is not None:
            raise UsageError(name, "cannot be used together with --init-from")


def _shape(
    config: Path | None,
    size: SizeName | None,
    vocab_size: int | None,
    context_length: int | None,
    drop_rate: float | None,
) -> GPTConfig:
    """The config of a file or a size, with what single options change."""
    shape = SIZES[size or "small"] if config is None else read_config(config)
    shape = replace(
        shape,
        vocab_size=shape.vocab_size if vocab_size is None else vocab_size,
        context_length=shape.context_length if context_length is None else context_length,
    )
    return shape if drop_rate is None else shape.with_drop_rate(drop_rate)
