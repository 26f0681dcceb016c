"""From texts to a training: read, hold out, tokenize, mix.

Knows the files of a model directory, no options and no terminal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save

from gptcli.core.atomic import write_atomically
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.train.distributed import Group
from gptcli.train.evaluate import Held
from gptcli.train.model_card import Base
from gptcli.train.options import CONFIG, STATE, WEIGHTS, Recipe, TrainSettings, WeightsDtype
from gptcli.train.packing import Ids, Mixture, Packed
from gptcli.train.start import Start, make_directory, start
from gptcli.train.text_files import Text, held_out, read_text
from gptcli.train.trainer import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training that is ready to run, and what its model card tells."""

    recipe: Recipe
    config: GPTConfig
    settings: TrainSettings
    training: Training
    base: Base | None
    texts: tuple[Text, ...]
    valid: Text | None
    held: Held
    eos_id: int
    tokens: int
    rows: tuple[int, ...]


def prepare(recipe: Recipe, settings: TrainSettings, group: Group, *, resume: bool) -> Job:
    """Read everything and build the training; `settings.steps` of 0 follows from the epochs.

    Raises:
        InputError: a text or a model to begin from that cannot be used, or a state that is
            another training's.
        UsageError: a batch that cannot be split, or what `start` says.
    """
    texts = tuple(read_text(s.path, fold_quotes=recipe.fold_quotes) for s in recipe.sources)
    valid = recipe.valid
    held_text = None if valid is None else read_text(valid, fold_quotes=recipe.fold_quotes)
    if held_text is None:
        splits = [held_out(text.documents, recipe.valid_share) for text in texts]
    else:
        splits = [(text.documents, ()) for text in texts]
    documents = [document for train, _ in splits for document in train]
    begin = start(recipe, settings.seed, documents, group, keep=resume)
    tokenizer, config = begin.tokenizer, begin.model.config
    eos_id = _eos(tokenizer)
    sources = [
        Packed(_encoded(train, tokenizer), eos_id, config.context_length, f"{settings.seed}/{n}")
        for n, (train, _) in enumerate(splits)
    ]
    _check(recipe, settings, sources, config, group)
    settings = _with_steps(recipe, settings, sources, config)
    weights = [(source.start, source.end) for source in recipe.sources]
    rows = settings.steps * settings.batch_size
    mixture = Mixture(sources, weights, rows, settings.seed)
    chosen = [document for _, held in splits for document in held]
    held = _held(held_text.documents if held_text else chosen, tokenizer)
    _write_files(recipe.directory, begin, group)
    training = Training(
        model=begin.model,
        settings=settings,
        mixture=mixture,
        held=held,
        eos_id=eos_id,
        state=recipe.directory / STATE,
        keep=lambda model: write_weights(recipe.directory / WEIGHTS, model, recipe.weights_dtype),
        identity=_identity(recipe, begin, texts, held_text),
        group=group,
    )
    if resume:
        training.resume()
    return Job(
        recipe=recipe,
        config=config,
        settings=settings,
        training=training,
        base=begin.base,
        texts=texts,
        valid=held_text,
        held=held,
        eos_id=eos_id,
        tokens=sum(source.tokens for source in sources),
        rows=tuple(mixture.counts),
    )


def write_weights(path: Path, model: GPTModel, dtype: WeightsDtype) -> None:
    """A model's weights in the book's layout, a tied head once, in place of what was there."""
    kind: torch.dtype = getattr(torch, dtype)
    weights = {
        name: weight.detach().to("cpu", kind).contiguous()
        for name, weight in model.named_parameters()
    }
    write_atomically(path, save(weights, {"format": "pt"}))


def _check(
    recipe: Recipe,
    settings: TrainSettings,
    sources: Sequence[Packed],
    config: GPTConfig,
    group: Group,
) -> None:
    parts = settings.accumulate * group.size
    if settings.batch_size % parts:
        wanted = f"expected a multiple of {parts}, which is --accumulate times the processes"
        raise UsageError("--batch-size", f"cannot be split ({settings.batch_size}, {wanted})")
    tokens = sum(source.tokens for source in sources)
    if tokens <= config.context_length:
        found = f"{tokens:,} tokens, expected more than the context of {config.context_length:,}"
        hint = "Add text, or choose a smaller --context-length"
        raise InputError(shown(recipe.sources[0].path), f"too little text ({found})", hint)


def _with_steps(
    recipe: Recipe, settings: TrainSettings, sources: Sequence[Packed], config: GPTConfig
) -> TrainSettings:
    if not settings.steps:
        per_epoch = sum(
            packed.tokens * (source.start + source.end) / 2
            for packed, source in zip(sources, recipe.sources, strict=True)
        )
        step = settings.batch_size * config.context_length
        settings = replace(settings, steps=max(1, math.ceil(recipe.epochs * per_epoch / step)))
    return replace(settings, warmup=min(settings.warmup, max(1, settings.steps // 10)))


def _encoded(documents: Sequence[str], tokenizer: Tokenizer) -> list[Ids]:
    return [np.array(tokenizer.encode(text, None), np.int32) for text in documents]


def _held(documents: Sequence[str], tokenizer: Tokenizer) -> Held:
    size = sum(len(document.encode()) for document in documents)
    return Held(_encoded(documents, tokenizer), size)


def _eos(tokenizer: Tokenizer) -> int:
    if tokenizer.eos_id is None:
        raise InputError(tokenizer.name, "has no end of text, which training needs")
    return tokenizer.eos_id


def _write_files(directory: Path, begin: Start, group: Group) -> None:
    if group.leads:
        make_directory(directory)
        text = yaml.safe_dump(begin.model.config.to_dict(), sort_keys=False)
        for name, contents in {**begin.files, CONFIG: text.encode()}.items():
            write_atomically(directory / name, contents)


def _identity(
    recipe: Recipe, begin: Start, texts: Sequence[Text], valid: Text | None
) -> dict[str, Any]:
    """What must be equal for a state to be gone on from; where files lie does not matter."""
    weights = [(source.start, source.end) for source in recipe.sources]
    return {
        "config": begin.model.config.to_dict(),
        "texts": [text.sha256 for text in texts],
        "weights": weights,
        "valid": valid.sha256 if valid else recipe.valid_share,
        "fold_quotes": recipe.fold_quotes,
        "initialisation": recipe.initialisation,
        "init_from": begin.base.sha256 if begin.base else None,
    }
