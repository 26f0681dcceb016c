"""Training options, their defaults and limits."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from gptcli.core.errors import UsageError
from gptcli.core.options import SEEDS, Argument, Option, check
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import FloatDtype
from gptcli.train.text_files import TextSource, parse_source

Precision = Literal["auto", "float32", "bfloat16"]
OptimizerName = Literal["adamw", "muon"]
Initialisation = Literal["auto", "book", "gpt2"]

# The files of a model directory; the state is deleted when the training is finished.
TOKENIZER, CONFIG, WEIGHTS = "tokenizer.tiktoken", "config.yaml", "model.safetensors"
STATE, CARD = "training.safetensors", "MODEL_CARD.md"

# By --size. Tied: an output head of its own would be half of so small a model.
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


# The groups that the options are listed in.
MODEL, DATA, LENGTH, MACHINE = "Model", "Data", "Length", "Machine"
OPTIMIZER, CHECKS = "Optimizer", "Validation and checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How to train.

    Attributes:
        steps: 0 derives them from the recipe's epochs.
        batch_size: sequences a step, over all processes.
        optimizer: adamw, or muon for the matrices inside the blocks.
        warmup: is limited to a tenth of all steps.
        beta1: AdamW's decay of the mean of gradients.
        beta2: AdamW's decay of the mean of their squares.
        average: decay of the moving average of the weights.
        seed: of initialisation, dropout, shuffling and mixture.
        precision: auto is bfloat16 where the processor computes it fast.
        token_dropout: probability that an input token's embedding is zeros for a step (Gal and
            Ghahramani, arXiv 1512.05287, section 4.2; they hide a word everywhere in a sequence).
    """

    steps: Annotated[
        int, Option("Optimizer steps; 0 follows `epochs`.", LENGTH, metavar="N", ge=0)
    ] = 0
    batch_size: Annotated[
        int,
        Option(
            "Sequences of one context length a step, in all.",
            LENGTH,
            short="-b",
            metavar="N",
            ge=1,
        ),
    ] = 16
    accumulate: Annotated[
        int,
        Option(
            "Accumulate gradients over N parts of a batch: less memory.", LENGTH, metavar="N", ge=1
        ),
    ] = 1
    optimizer: Annotated[
        OptimizerName, Option("muon learns more per step, for blocks' matrices.", OPTIMIZER)
    ] = "adamw"
    lr: Annotated[float, Option("Peak learning rate.", OPTIMIZER, metavar="X", gt=0, lt=10)] = 1e-3
    min_lr: Annotated[
        float,
        Option("Final learning rate, as a share of `lr`.", OPTIMIZER, metavar="X", ge=0, lt=1),
    ] = 0.05
    warmup: Annotated[
        int, Option("Warmup: steps to the peak learning rate.", OPTIMIZER, metavar="N", ge=0)
    ] = 100
    weight_decay: Annotated[
        float,
        Option(
            "Weight decay of matrices; biases and norms have none.", OPTIMIZER, metavar="X", ge=0
        ),
    ] = 0.1
    beta1: Annotated[float, Option("AdamW's beta1.", OPTIMIZER, metavar="X", ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Option("AdamW's beta2.", OPTIMIZER, metavar="X", ge=0, lt=1)] = 0.95
    clip: Annotated[
        float,
        Option("Clip the gradient to this norm; 0: no clipping.", OPTIMIZER, metavar="X", ge=0),
    ] = 1.0
    average: Annotated[
        float,
        Option(
            "Decay of the moving average of the weights that is saved; 0: none.",
            OPTIMIZER,
            metavar="X",
            ge=0,
            lt=1,
        ),
    ] = 0.0
    seed: Annotated[int, Option("Same seed, same model.", LENGTH, metavar="N", ge=0, lt=SEEDS)] = 0
    precision: Annotated[
        Precision, Option("Dtype of matmuls; auto: bfloat16 where it is fast.", MACHINE)
    ] = "auto"
    attention_dropout: Annotated[
        bool, Option("Dropout in the attention too; without it a CPU is faster.", OPTIMIZER)
    ] = True
    token_dropout: Annotated[
        float,
        Option(
            "Probability of hiding each input token: against overfitting on a short text.",
            OPTIMIZER,
            metavar="X",
            ge=0,
            lt=1,
        ),
    ] = 0.0
    eval_every: Annotated[int, Option("Steps between validations.", CHECKS, metavar="N", ge=1)] = (
        200
    )
    patience: Annotated[
        int,
        Option(
            "Validations without a new best before stopping; 0: never.", CHECKS, metavar="N", ge=0
        ),
    ] = 0
    save_every: Annotated[int, Option("Steps between checkpoints.", CHECKS, metavar="N", ge=1)] = (
        100
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to train, on which texts, and where to write it; `TrainSettings` says how to train.

    Attributes:
        sources: texts and their weights.
        directory: of the new model; created if it is missing.
        config: of the model; vocab_size and tokenizer are replaced by those of the tokenizer.
        tokenizer: None trains one of config.vocab_size tokens.
        valid: validation text; None holds out `valid_share` of the documents of each source.
        initialisation: the book's, GPT-2's, or auto: GPT-2's where the head is tied.
        init_from: a model whose weights, config and tokenizer replace config, tokenizer and
            initialisation.
        offline: download nothing for `init_from`.
        context_length: instead of the config's; at most that of `init_from`, whose later positions
            are dropped.
        threads: None is PyTorch's choice. Results may differ in rounding between thread counts.
    """

    sources: Annotated[
        tuple[TextSource, ...],
        Argument(
            "Text files, plain or gzip, with <|endoftext|> lines between documents. FILE@2 is read"
            " twice as often as its size says; FILE@1:0 less and less towards the end.",
            metavar="TEXT...",
            parse=parse_source,
        ),
    ]
    directory: Annotated[
        Path,
        Option("The model directory to make.", MODEL, short="-o", metavar="DIR", name="output"),
    ]
    config: GPTConfig = field(default_factory=lambda: SIZES["small"])
    init_from: Annotated[
        str | None,
        Option(
            "Begin from this model's weights, shape and tokenizer: fine-tuning.",
            MODEL,
            short=("--model", "-m"),
            metavar="TARGET",
        ),
    ] = None
    offline: Annotated[bool, Option("Download nothing.", MODEL)] = False
    context_length: Annotated[
        int | None, Option("Context, instead of the shape's.", MODEL, metavar="N", ge=1)
    ] = None
    drop_rate: Annotated[
        float | None, Option("Dropout, instead of the shape's.", MODEL, metavar="X", ge=0, le=1)
    ] = None
    tokenizer: Annotated[
        str | None,
        Option("Use this tiktoken encoding and train none.", MODEL, metavar="NAME"),
    ] = None
    initialisation: Annotated[
        Initialisation, Option("auto: GPT-2's if tied, else the book's.", MODEL)
    ] = "auto"
    weights_dtype: Annotated[FloatDtype, Option("Dtype of the weight file.", MODEL)] = "float32"
    valid: Annotated[Path | None, Option("Text to validate on.", DATA, metavar="FILE")] = None
    valid_share: Annotated[
        float,
        Option(
            "Documents held out without `valid`, as a share of 1.", DATA, metavar="X", gt=0, lt=1
        ),
    ] = 0.02
    fold_quotes: Annotated[bool, Option("Make typographic quotes and dashes plain.", DATA)] = False
    epochs: Annotated[
        float, Option("Passes over the texts.", LENGTH, metavar="X", gt=0, lt=1e6)
    ] = 10.0
    threads: Annotated[
        int | None, Option("CPU threads; PyTorch's choice without it.", MACHINE, metavar="N", ge=1)
    ] = None

    def __post_init__(self) -> None:
        check(self)
        for moment in ("start", "end"):
            if not any(getattr(source, moment) for source in self.sources):
                raise UsageError("sources", f"all weights are 0 at the {moment} of the training")
