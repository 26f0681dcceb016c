"""Training options, their defaults and limits."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gptcli.core.errors import UsageError
from gptcli.model.config import GPTConfig
from gptcli.train.text_files import TextSource

Precision = Literal["auto", "float32", "bfloat16"]
OptimizerName = Literal["adamw", "muon"]
Initialisation = Literal["auto", "book", "gpt2"]
WeightsDtype = Literal["float32", "bfloat16", "float16"]

# The files of a model directory; the state is there only until the training is finished.
TOKENIZER, CONFIG, WEIGHTS = "tokenizer.tiktoken", "config.yaml", "model.safetensors"
STATE, CARD = "training.safetensors", "MODEL_CARD.md"

# By --size. Tied: a head of its own would be half of a model this small.
SIZES = {
    "tiny": GPTConfig(
        vocab_size=1024, context_length=128, emb_dim=64, n_heads=2, n_layers=2, tie_weights=True
    ),
    "small": GPTConfig(
        vocab_size=4096, context_length=512, emb_dim=256, n_heads=4, n_layers=6, tie_weights=True
    ),
    "medium": GPTConfig(
        vocab_size=8192, context_length=512, emb_dim=512, n_heads=8, n_layers=8, tie_weights=True
    ),
    "large": GPTConfig(
        vocab_size=16384,
        context_length=1024,
        emb_dim=768,
        n_heads=12,
        n_layers=12,
        tie_weights=True,
    ),
}
SizeName = Literal["tiny", "small", "medium", "large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How to train; the one home of these defaults.

    Attributes:
        steps: optimizer steps; 0 follows from the recipe's epochs.
        batch_size: rows of one context each, a step, over all processes.
        accumulate: parts that a process's share of a batch is computed in, to save memory.
        optimizer: adamw, or muon for the matrices inside the blocks.
        lr: the highest learning rate.
        min_lr: the last learning rate, as a share of `lr`.
        warmup: steps until the highest learning rate, at most a tenth of all.
        weight_decay: of matrices; biases and norms have none.
        beta1: AdamW's memory of the gradient.
        beta2: AdamW's memory of its square.
        clip: the largest norm of the gradient; 0 for none.
        average: decay of the running average of the weights that is kept; 0 for none.
        seed: of initialisation, dropout, order and mixture.
        precision: of matrix products; auto is bfloat16 where the processor has it.
        attention_dropout: whether dropout reaches into the attention too (slow on a CPU).
        eval_every: steps between validations.
        patience: validations without a new best before stopping; 0 never stops early.
        save_every: steps between writes of the state.
    """

    steps: int = 0
    batch_size: int = 16
    accumulate: int = 1
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3
    min_lr: float = 0.05
    warmup: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    average: float = 0.0
    seed: int = 0
    precision: Precision = "auto"
    attention_dropout: bool = True
    eval_every: int = 200
    patience: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "eval_every", "save_every"):
            _require(name, getattr(self, name), 1)
        for name in ("steps", "warmup", "patience", "seed", "weight_decay", "clip"):
            _require(name, getattr(self, name), 0)
        for name in ("min_lr", "beta1", "beta2", "average"):
            _require(name, getattr(self, name), 0, 1)
        if not 0 < self.lr < 10:
            raise UsageError("--lr", f"must be above 0 and below 10, got {self.lr}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to train on and into what; `TrainSettings` says how.

    Attributes:
        sources: texts and their weights.
        directory: of the model; made if it is not there.
        config: the shape; its vocab_size and tokenizer follow from the tokenizer in the end.
        tokenizer: tiktoken's name of one to use; None trains one of config.vocab_size tokens.
        valid: text to validate on; None holds out `valid_share` of the documents of each source.
        valid_share: of the documents.
        fold_quotes: typographic quotation marks and dashes become plain ones, in all texts.
        initialisation: the book's, GPT-2's, or GPT-2's where the head is tied.
        init_from: a model, as `gptcli.checkpoint.resolve.resolve` knows it, whose weights, shape
            and tokenizer take the place of config, tokenizer and initialisation.
        context_length: instead of that model's, at most as many; those behind are cut.
        drop_rate: instead of that model's.
        weights_dtype: of the file of weights.
        epochs: how often the texts are read, if steps are not given.
        threads: of the processor; None is PyTorch's choice. Other sums of floats may come out
            of another number of threads.
    """

    sources: tuple[TextSource, ...]
    directory: Path
    config: GPTConfig = field(default_factory=lambda: SIZES["small"])
    tokenizer: str | None = None
    valid: Path | None = None
    valid_share: float = 0.02
    fold_quotes: bool = False
    initialisation: Initialisation = "auto"
    init_from: str | None = None
    context_length: int | None = None
    drop_rate: float | None = None
    weights_dtype: WeightsDtype = "float32"
    epochs: float = 10.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.valid_share < 1:
            raise UsageError("--valid-share", f"must be inside (0, 1), got {self.valid_share}")
        if not 0 < self.epochs < 1e6:
            raise UsageError("--epochs", f"must be above 0, got {self.epochs}")
        for moment in ("start", "end"):
            if not any(getattr(source, moment) for source in self.sources):
                raise UsageError("TEXT", f"all weights are 0 at the {moment} of the training")


def _require(name: str, value: float, least: float, below: float = math.inf) -> None:
    if not least <= value < below:
        expected = f"at least {least}" if below == math.inf else f"in [{least}, {below})"
        raise UsageError(f"--{name.replace('_', '-')}", f"must be {expected}, got {value}")
