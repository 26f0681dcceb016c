"""What a training starts from: a new tokenizer and new weights, or all that another model has.

Knows no options and no terminal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from gptcli.checkpoint.header import read_headers
from gptcli.checkpoint.load import load_model
from gptcli.checkpoint.presets import PRESETS
from gptcli.checkpoint.resolve import Target, resolve
from gptcli.core.atomic import write_atomically
from gptcli.core.errors import RunError, UsageError
from gptcli.core.escape import shown
from gptcli.core.files import read_bounded, sha256_of
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel
from gptcli.tokenizer.export import beginning, files_of
from gptcli.tokenizer.rankfile import rank_lines, train_ranks
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.vocabulary import SETTINGS
from gptcli.train.distributed import Group
from gptcli.train.model_card import Base, text_rows
from gptcli.train.optimizer import initialise_as_gpt2
from gptcli.train.options import CARD, TOKENIZER, Initialisation, Recipe

_MAX_CARD = 1 << 20


@dataclass(frozen=True, slots=True)
class Start:
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
) -> Start:
    """Make or read what the recipe names; `keep` keeps the tokenizer that was made before.

    Raises:
        InputError: the model to begin from, or its tokenizer, is not what it should be.
        UsageError: that model has no weights, or too small a context.
        RunError: it cannot be had, or needs too much memory.
    """
    if recipe.init_from is not None:
        return _from_base(recipe, resolve(recipe.init_from, option="--init-from"))
    tokenizer = _new_tokenizer(recipe, documents, group, keep=keep)
    config = _new_config(recipe, tokenizer)
    model = initialised(config, seed, recipe.initialisation)
    return Start(model, tokenizer, files={SETTINGS: beginning(None)})


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


def make_directory(directory: Path) -> None:
    """Make it, with those above it, if it is not there.

    Raises:
        RunError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(shown(directory), f"cannot be made ({why})") from None


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


def _from_base(recipe: Recipe, target: Target) -> Start:
    if target.weights is None:
        problem = f"{shown(target.name)} has no weights to begin from"
        raise UsageError("--init-from", problem, "Leave it out for new weights")
    folder = target.weights.parent
    if folder.resolve() == recipe.directory.resolve():
        problem = f"{shown(target.name)} is where --output would write"
        raise UsageError("--init-from", problem, "Name another directory")
    model = _loaded(recipe, target)
    config = model.config
    name, size = config.tokenizer, config.vocab_size
    tokenizer = load_tokenizer(name, target.directory, vocab_size=size)
    name, files = files_of(name, target.directory, size, TOKENIZER)
    model.config = replace(config, tokenizer=name)
    digest = sha256_of(header.path for header in read_headers(target.weights))
    base = Base(_short_name(target), digest, _texts(folder / CARD))
    files[SETTINGS] = beginning(files.get(SETTINGS))
    return Start(model, tokenizer, base, files)


def _loaded(recipe: Recipe, target: Target) -> GPTModel:
    """The target's weights in float32, its dropout and context as the recipe wants them."""
    if target.config is not None and recipe.drop_rate is not None:
        target = replace(target, config=replace(target.config, drop_rate=recipe.drop_rate))
    model = load_model(target)
    wanted, held = recipe.context_length, model.config.context_length
    if wanted is None:
        return model
    if wanted > held:
        problem = f"{wanted:,} is more than the {held:,} of --init-from {shown(target.name)}"
        raise UsageError("--context-length", problem)
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
