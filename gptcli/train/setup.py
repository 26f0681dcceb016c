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
from gptcli.train.evaluate import ValidationText
from gptcli.train.model_card import BaseModel, text_rows
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
from gptcli.train.packing import Ids, Mixture, PackedTexts
from gptcli.train.text_files import Text, read_text, split_validation
from gptcli.train.trainer import Trainer

_MAX_CARD = 1 << 20  # bytes of a model card


@dataclass(frozen=True, slots=True)
class InitialModel:
    """The model before the first step, with its final config, and its tokenizer.

    Attributes:
        model: the new or loaded model.
        tokenizer: its tokenizer.
        base: the model that `init_from` names, None for a new one.
        files: tokenizer files that are still to be written, name → contents.
    """

    model: GPTModel
    tokenizer: Tokenizer
    base: BaseModel | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


def initial_model(
    recipe: Recipe, seed: int, documents: Sequence[str], group: Group, *, keep: bool
) -> InitialModel:
    """Initialise a new model and train its tokenizer, or load the model that `init_from` names.

    With `keep` a tokenizer file that exists in the recipe's directory is used again.

    Raises:
        InputError: the model that `init_from` names, or its tokenizer, is malformed.
        UsageError: that model has no weights, or too small a context.
        RunError: it cannot be downloaded, or needs too much memory.
    """
    if recipe.init_from is not None:
        return _initial_from_base(
            recipe, resolve(recipe.init_from, offline=recipe.offline, option="init_from")
        )
    tokenizer = _new_tokenizer(recipe, documents, group, keep=keep)
    config = _new_config(recipe, tokenizer)
    model = new_model(config, seed, recipe.initialisation)
    return InitialModel(model, tokenizer, files=with_bos_token({}, END_OF_TEXT))


def new_model(config: GPTConfig, seed: int, initialisation: Initialisation) -> GPTModel:
    """A new model with random weights.

    PyTorch's default draws embeddings from N(0, 1), which through a tied head gives far too large
    logits. So `auto` is GPT-2's initialisation for tied models, and the book's for others.
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
    """The recipe's tokenizer, or one that the leader trains and writes and every process reads."""
    path = recipe.directory / TOKENIZER
    if recipe.tokenizer is not None:
        return load_tokenizer(recipe.tokenizer)
    if group.is_leader and not (keep and path.exists()):
        make_directory(path.parent)
        write_atomically(path, rank_lines(train_ranks(documents, recipe.config.vocab_size)))
    group.broadcast(0)  # a barrier: nobody reads the file before it is written
    return load_tokenizer(TOKENIZER, recipe.directory)


def _new_config(recipe: Recipe, tokenizer: Tokenizer) -> GPTConfig:
    if recipe.tokenizer is None:  # little text gives fewer tokens than were asked for
        return replace(recipe.config, vocab_size=tokenizer.n_vocab, tokenizer=TOKENIZER)
    size = max(recipe.config.vocab_size, tokenizer.n_vocab)
    return replace(recipe.config, vocab_size=size, tokenizer=recipe.tokenizer)


def _initial_from_base(recipe: Recipe, target: Target) -> InitialModel:
    if target.weights is None:
        problem = f"{shown(target.name)} has no weights to begin from"
        raise UsageError("init_from", problem, "Leave it out for new weights")
    folder = target.weights.parent
    if folder.resolve() == recipe.directory.resolve():
        problem = f"{shown(target.name)} is what `directory` names"
        raise UsageError("init_from", problem, "Name another directory")
    model = _load_base_model(recipe, target)
    config = model.config
    name, size = config.tokenizer, config.vocab_size
    tokenizer = load_tokenizer(name, target.directory, vocab_size=size)
    file, files = tokenizer_files(name, target.directory, TOKENIZER)
    model.config = replace(config, tokenizer=file)
    digest = sha256_of(header.path for header in read_headers(target.weights))
    base = BaseModel(_short_name(target), digest, _card_texts(folder / CARD))
    files = with_bos_token(files, _eos_text(tokenizer))
    return InitialModel(model, tokenizer, base, files)


def _eos_text(tokenizer: Tokenizer) -> str:
    if tokenizer.eos_id is None:  # `_require_eos_id` refuses it later
        return END_OF_TEXT
    return tokenizer.token_bytes(tokenizer.eos_id).decode(errors="replace")


def _load_base_model(recipe: Recipe, target: Target) -> GPTModel:
    """The target's model in float32, with the recipe's dropout and context length."""
    if target.config is not None and recipe.drop_rate is not None:
        target = replace(target, config=target.config.with_drop_rate(recipe.drop_rate))
    model = load_model(target)
    wanted, available = recipe.context_length, model.config.context_length
    if wanted is None:
        return model
    if wanted > available:
        problem = f"{wanted:,} is more than the {available:,} of `init_from` {shown(target.name)}"
        raise UsageError("context_length", problem)
    positions = model.pos_emb.weight.detach()[:wanted].clone()
    model.pos_emb = nn.Embedding.from_pretrained(positions, freeze=False)
    model.config = replace(model.config, context_length=wanted)
    return model


def _short_name(target: Target) -> str:
    return target.name if target.name in PRESETS else Path(target.name).resolve().name


def _card_texts(card: Path) -> tuple[str, ...]:
    if not card.exists():
        return ()
    return tuple(text_rows(read_bounded(card, _MAX_CARD).decode(errors="replace")))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTraining:
    """A training that is ready to run, and the facts for its model card.

    Attributes:
        recipe: what to train.
        config: of the model.
        settings: with the final number of steps and warm-up.
        trainer: the training loop.
        base: the model that `init_from` names, None for a new one.
        texts: the training texts.
        valid: the validation text, None where it was held out of the texts.
        validation: its documents as ids.
        eos_id: id of the end of text.
        tokens: in an epoch, document ends included.
        rows: number of rows that the training reads of each text.
    """

    recipe: Recipe
    config: GPTConfig
    settings: TrainSettings
    trainer: Trainer
    base: BaseModel | None
    texts: tuple[Text, ...]
    valid: Text | None
    validation: ValidationText
    eos_id: int
    tokens: int
    rows: tuple[int, ...]


def prepare(
    recipe: Recipe, settings: TrainSettings, group: Group, *, resume: bool
) -> PreparedTraining:
    """Read texts, model and state, and build the training loop.

    If this fails, a directory that it made is removed again.

    Raises:
        InputError: a text or the model that `init_from` names cannot be used, or the state is of
            another training.
        UsageError: the batch size is no multiple of its parts; or as `initial_model`.
    """
    is_new = not recipe.directory.exists()
    try:
        return _prepare(recipe, settings, group, resume=resume)
    except BaseException:
        if is_new and group.is_leader:
            shutil.rmtree(recipe.directory, ignore_errors=True)
        raise


def _prepare(
    recipe: Recipe, settings: TrainSettings, group: Group, *, resume: bool
) -> PreparedTraining:
    texts = tuple(read_text(s.path, fold_quotes=recipe.fold_quotes) for s in recipe.sources)
    valid = recipe.valid
    valid_text = None if valid is None else read_text(valid, fold_quotes=recipe.fold_quotes)
    if valid_text is None:
        splits = [split_validation(text.documents, recipe.valid_share) for text in texts]
    else:
        splits = [(text.documents, ()) for text in texts]
    documents = [document for train, _ in splits for document in train]
    initial = initial_model(recipe, settings.seed, documents, group, keep=resume)
    tokenizer, config = initial.tokenizer, initial.model.config
    eos_id = _require_eos_id(tokenizer)
    sources = [
        PackedTexts(
            _tokenize(train, tokenizer), eos_id, config.context_length, f"{settings.seed}/{n}"
        )
        for n, (train, _) in enumerate(splits)
    ]
    _check_sizes(recipe, settings, sources, config, group)
    settings = _with_steps(recipe, settings, sources, config)
    weights = [(source.start, source.end) for source in recipe.sources]
    rows = settings.steps * settings.batch_size
    mixture = Mixture(sources, weights, rows, settings.seed)
    chosen = [document for _, held_out in splits for document in held_out]
    validation = _validation_text(valid_text.documents if valid_text else chosen, tokenizer)
    _write_files(recipe.directory, initial, group)
    trainer = Trainer(
        model=initial.model,
        settings=settings,
        mixture=mixture,
        validation=validation,
        eos_id=eos_id,
        state=recipe.directory / STATE,
        save_best=lambda model: write_weights(
            recipe.directory / WEIGHTS, model, recipe.weights_dtype
        ),
        identity=_identity(recipe, initial, texts, valid_text),
        group=group,
    )
    if resume:
        trainer.resume()
    return PreparedTraining(
        recipe=recipe,
        config=config,
        settings=settings,
        trainer=trainer,
        base=initial.base,
        texts=texts,
        valid=valid_text,
        validation=validation,
        eos_id=eos_id,
        tokens=sum(source.tokens for source in sources),
        rows=tuple(mixture.counts),
    )


def write_weights(path: Path, model: GPTModel, dtype: FloatDtype) -> None:
    """Write a model's weights atomically, in the book's layout, a tied head once."""
    kind: torch.dtype = getattr(torch, dtype)
    weights = {
        name: weight.detach().to("cpu", kind).contiguous()
        for name, weight in model.named_parameters()
    }
    write_atomically(path, save(weights, {"format": "pt"}))


def _check_sizes(
    recipe: Recipe,
    settings: TrainSettings,
    sources: Sequence[PackedTexts],
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
    recipe: Recipe, settings: TrainSettings, sources: Sequence[PackedTexts], config: GPTConfig
) -> TrainSettings:
    if not settings.steps:
        per_epoch = sum(
            packed.tokens * (source.start + source.end) / 2
            for packed, source in zip(sources, recipe.sources, strict=True)
        )
        step = settings.batch_size * config.context_length
        settings = replace(settings, steps=max(1, math.ceil(recipe.epochs * per_epoch / step)))
    return replace(settings, warmup=min(settings.warmup, max(1, settings.steps // 10)))


def _tokenize(documents: Sequence[str], tokenizer: Tokenizer) -> list[Ids]:
    return [np.array(tokenizer.encode(text, None), np.int32) for text in documents]


def _validation_text(documents: Sequence[str], tokenizer: Tokenizer) -> ValidationText:
    size = sum(len(document.encode()) for document in documents)
    return ValidationText(_tokenize(documents, tokenizer), size)


def _require_eos_id(tokenizer: Tokenizer) -> int:
    if tokenizer.eos_id is None:
        raise InputError(tokenizer.name, "has no end of text, which training needs")
    return tokenizer.eos_id


def _write_files(directory: Path, initial: InitialModel, group: Group) -> None:
    if group.is_leader:
        make_directory(directory)
        text = yaml.safe_dump(initial.model.config.to_dict(), sort_keys=False)
        for name, contents in {**initial.files, CONFIG: text.encode()}.items():
            write_atomically(directory / name, contents)


def _identity(
    recipe: Recipe, initial: InitialModel, texts: Sequence[Text], valid: Text | None
) -> dict[str, Any]:
    """What must be equal to resume from a state; the paths of texts may change."""
    weights = [(source.start, source.end) for source in recipe.sources]
    return {
        "config": initial.model.config.to_dict(),
        "texts": [text.sha256 for text in texts],
        "weights": weights,
        "valid": valid.sha256 if valid else recipe.valid_share,
        "fold_quotes": recipe.fold_quotes,
        "initialisation": recipe.initialisation,
        "init_from": initial.base.sha256 if initial.base else None,
    }
