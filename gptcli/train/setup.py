"""Prepare a training: read and tokenize the texts, make or load the model, build the loop."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save
from torch import nn

from gptcli.checkpoint.header import read_headers
from gptcli.checkpoint.load import load_model
from gptcli.checkpoint.presets import PRESETS
from gptcli.checkpoint.resolve import Target, resolve
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.core.files import make_directory, read_bounded, sha256_of, write_atomically
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import FloatDtype
from gptcli.model.gpt import GPTModel
from gptcli.tokenizer.encodings import rank_lines
from gptcli.tokenizer.export import tokenizer_files, with_bos_token
from gptcli.tokenizer.special_tokens import END_OF_TEXT
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.training import train_ranks
from gptcli.train.distributed import Group
from gptcli.train.evaluate import HeldOutText
from gptcli.train.model_card import Base, text_rows
from gptcli.train.optimizer import initialise_as_gpt2
from gptcli.train.options import (
    CARD,
    CONFIG,
    STATE,
    TOKENIZER,
    WEIGHTS,
    Initialisation,
    Recipe,
    TrainSettings,
)
from gptcli.train.packing import Ids, Mixture, Packed
from gptcli.train.text_files import Text, held_out, read_text
from gptcli.train.trainer import Training

_MAX_CARD = 1 << 20  # bytes of a model card


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """The model of step 0, whose config is the final one, and what goes with it.

    Attributes:
        files: of the tokenizer, name → contents, that are still to be written.
    """

    model: GPTModel
    tokenizer: Tokenizer
    base: Base | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


def start(
    recipe: Recipe, seed: int, documents: Sequence[str], group: Group, *, keep: bool
) -> StartingPoint:
    """Make or read what the recipe names; `keep` keeps the tokenizer that was made before.

    Raises:
        InputError: the model to begin from, or its tokenizer, is not what it should be.
        UsageError: that model has no weights, or too small a context.
        RunError: it cannot be had, or needs too much memory.
    """
    if recipe.init_from is not None:
        return _from_base(
            recipe, resolve(recipe.init_from, offline=recipe.offline, option="init_from")
        )
    tokenizer = _new_tokenizer(recipe, documents, group, keep=keep)
    config = _new_config(recipe, tokenizer)
    model = initialised(config, seed, recipe.initialisation)
    return StartingPoint(model, tokenizer, files=with_bos_token({}, END_OF_TEXT))


def initialised(config: GPTConfig, seed: int, initialisation: Initialisation) -> GPTModel:
    """A new model. PyTorch's default draws embeddings from N(0, 1): through a tied head those
    give logits far too large to start from, so auto is GPT-2's way for tied models.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPTModel(config)
        if initialisation == "gpt2" or (initialisation == "auto" and config.tie_weights):
            initialise_as_gpt2(model, config.n_layers)
    return model


def _new_tokenizer(
    recipe: Recipe, documents: Sequence[str], group: Group, *, keep: bool
) -> Tokenizer:
    """Trained and written by the leader, unless the one from before is to be kept; read by all."""
    path = recipe.directory / TOKENIZER
    if recipe.tokenizer is not None:
        return load_tokenizer(recipe.tokenizer)
    if group.leads and not (keep and path.exists()):
        make_directory(path.parent)
        write_atomically(path, rank_lines(train_ranks(documents, recipe.config.vocab_size)))
    group.agreed(0)  # nobody reads before it is written
    return load_tokenizer(TOKENIZER, recipe.directory)


def _new_config(recipe: Recipe, tokenizer: Tokenizer) -> GPTConfig:
    if recipe.tokenizer is None:  # little text gives fewer tokens than were asked for
        return replace(recipe.config, vocab_size=tokenizer.n_vocab, tokenizer=TOKENIZER)
    size = max(recipe.config.vocab_size, tokenizer.n_vocab)
    return replace(recipe.config, vocab_size=size, tokenizer=recipe.tokenizer)


def _from_base(recipe: Recipe, target: Target) -> StartingPoint:
    if target.weights is None:
        problem = f"{shown(target.name)} has no weights to begin from"
        raise UsageError("init_from", problem, "Leave it out for new weights")
    folder = target.weights.parent
    if folder.resolve() == recipe.directory.resolve():
        problem = f"{shown(target.name)} is what `directory` names"
        raise UsageError("init_from", problem, "Name another directory")
    model = _loaded(recipe, target)
    config = model.config
    name, size = config.tokenizer, config.vocab_size
    tokenizer = load_tokenizer(name, target.directory, vocab_size=size)
    file, files = tokenizer_files(name, target.directory, TOKENIZER)
    model.config = replace(config, tokenizer=file)
    digest = sha256_of(header.path for header in read_headers(target.weights))
    base = Base(_short_name(target), digest, _texts(folder / CARD))
    files = with_bos_token(files, _end_of(tokenizer))
    return StartingPoint(model, tokenizer, base, files)


def _end_of(tokenizer: Tokenizer) -> str:
    if tokenizer.eos_id is None:  # refused where the texts are read
        return END_OF_TEXT
    return tokenizer.token_bytes(tokenizer.eos_id).decode(errors="replace")


def _loaded(recipe: Recipe, target: Target) -> GPTModel:
    """The target's weights in float32, its dropout and context as the recipe wants them."""
    if target.config is not None and recipe.drop_rate is not None:
        target = replace(target, config=target.config.with_drop_rate(recipe.drop_rate))
    model = load_model(target)
    wanted, held = recipe.context_length, model.config.context_length
    if wanted is None:
        return model
    if wanted > held:
        problem = f"{wanted:,} is more than the {held:,} of `init_from` {shown(target.name)}"
        raise UsageError("context_length", problem)
    places = model.pos_emb.weight.detach()[:wanted].clone()
    model.pos_emb = nn.Embedding.from_pretrained(places, freeze=False)
    model.config = replace(model.config, context_length=wanted)
    return model


def _short_name(target: Target) -> str:
    return target.name if target.name in PRESETS else Path(target.name).resolve().name


def _texts(card: Path) -> tuple[str, ...]:
    if not card.exists():
        return ()
    return tuple(text_rows(read_bounded(card, _MAX_CARD).decode(errors="replace")))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTraining:
    """A training that is ready to run, and what its model card tells."""

    recipe: Recipe
    config: GPTConfig
    settings: TrainSettings
    training: Training
    base: Base | None
    texts: tuple[Text, ...]
    valid: Text | None
    held: HeldOutText
    eos_id: int
    tokens: int
    rows: tuple[int, ...]


def prepare(
    recipe: Recipe, settings: TrainSettings, group: Group, *, resume: bool
) -> PreparedTraining:
    """Read everything and build the training; `settings.steps` of 0 follows from the epochs.

    Where this fails, a directory that it made is removed again.

    Raises:
        InputError: a text or a model to begin from that cannot be used, or a state that is
            another training's.
        UsageError: a batch that cannot be split, or what `start` says.
    """
    is_new = not recipe.directory.exists()
    try:
        return _prepared(recipe, settings, group, resume=resume)
    except BaseException:
        if is_new and group.leads:
            shutil.rmtree(recipe.directory, ignore_errors=True)
        raise


def _prepared(
    recipe: Recipe, settings: TrainSettings, group: Group, *, resume: bool
) -> PreparedTraining:
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
    return PreparedTraining(
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


def write_weights(path: Path, model: GPTModel, dtype: FloatDtype) -> None:
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
        wanted = f"expected a multiple of {parts}, which is `accumulate` times the processes"
        raise UsageError("batch_size", f"cannot be split ({settings.batch_size}, {wanted})")
    tokens = sum(source.tokens for source in sources)
    if tokens <= config.context_length:
        found = f"{tokens:,} tokens, expected more than the context of {config.context_length:,}"
        hint = "Add text, or choose a smaller `context_length`"
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


def _held(documents: Sequence[str], tokenizer: Tokenizer) -> HeldOutText:
    size = sum(len(document.encode()) for document in documents)
    return HeldOutText(_encoded(documents, tokenizer), size)


def _eos(tokenizer: Tokenizer) -> int:
    if tokenizer.eos_id is None:
        raise InputError(tokenizer.name, "has no end of text, which training needs")
    return tokenizer.eos_id


def _write_files(directory: Path, begin: StartingPoint, group: Group) -> None:
    if group.leads:
        make_directory(directory)
        text = yaml.safe_dump(begin.model.config.to_dict(), sort_keys=False)
        for name, contents in {**begin.files, CONFIG: text.encode()}.items():
            write_atomically(directory / name, contents)


def _identity(
    recipe: Recipe, begin: StartingPoint, texts: Sequence[Text], valid: Text | None
) -> dict[str, Any]:
    """What must be equal to resume from a state; paths do not matter."""
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
