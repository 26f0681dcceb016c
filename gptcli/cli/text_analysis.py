"""Run a model on one text for `inspect`: tokens, predictions, activations, gradients."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from gptcli.cli.model_loading import find_model, load_book_model
from gptcli.cli.prompt_input import read_prompt
from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.core.options import Option, check
from gptcli.generation.model_spec import ModelSpec
from gptcli.model.config import GPTConfig

if TYPE_CHECKING:
    from gptcli.interpret.activations import Activations, Prediction
    from gptcli.interpret.gradients import Gradients
    from gptcli.model.gpt import GPTModel
    from gptcli.tokenizer.tokenizer import Tokenizer

SEED = 123  # the book's: an untrained model shows the book's numbers
TEXT = "Every effort moves you"  # for --gradients without --prompt
LENS_POSITIONS = 64  # of the logit lens: each costs an output head per block
LENS_TOP = 5
RUN = "Run the model on a text"
_DEFAULT_TOP = 10


def parse_prompt(prompt: str) -> str:
    """The text of --prompt: standard input for "-".

    Raises:
        UsageError, InputError: it is empty, too long or not UTF-8.
    """
    text = read_prompt(prompt, None, allow_empty=True)
    if not text:
        raise UsageError("prompt", "is empty")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisOptions:
    """Options of `inspect` that run the model on a text.

    Attributes:
        maps: the heads, as "LAYER.HEAD", whose attention weights are shown.
        top: candidates for the next token; None is 10.
    """

    prompt: Annotated[
        str | None,
        Option(
            'Tokens, predictions and activations of this text; "-" reads standard input.',
            RUN,
            metavar="TEXT",
            parse=parse_prompt,
        ),
    ] = None
    gradients: Annotated[
        bool, Option("Loss and gradients, with and without shortcut connections.", RUN)
    ] = False
    maps: Annotated[
        tuple[str, ...],
        Option(
            "Draw the attention map of a head, such as 0.0. Repeatable.",
            RUN,
            metavar="LAYER.HEAD",
            name="attention",
        ),
    ] = ()
    all_heads: Annotated[bool, Option("Draw the attention maps of all heads.", RUN)] = False
    top: Annotated[
        int | None,
        Option(
            "List the N likeliest next tokens; without it 5, or 10 with `details` or `json`.",
            RUN,
            metavar="N",
            ge=1,
        ),
    ] = None

    def __post_init__(self) -> None:
        check(self)
        for name in ("maps", "all_heads"):
            if getattr(self, name) and self.prompt is None:
                raise UsageError(name, "needs `prompt`", 'Add `prompt="..."`')

    @property
    def text(self) -> str:
        """The text that the model is run on."""
        return TEXT if self.prompt is None else self.prompt


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What one forward pass gives.

    Attributes:
        activations: of the blocks, the norms and the heads.
        predictions: for the token after each one of the text.
        next: the prediction after the last token, with as many candidates as were asked for.
        lens: predictions of the last LENS_POSITIONS tokens, before the first block and after each.
        maps: the (block, head) pairs to show.
    """

    activations: "Activations"
    predictions: "list[Prediction]"
    next: "Prediction"
    lens: "list[list[Prediction]]"
    maps: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TextAnalysis:
    """The result of `analyse`; `seed` is that of an untrained model, else None."""

    name: str
    config: GPTConfig
    seed: int | None
    text: str
    ids: list[int]
    tokenizer: "Tokenizer"
    forward: ForwardPass | None
    gradients: "tuple[Gradients, Gradients] | None"


def analyse(spec: ModelSpec, options: AnalysisOptions, *, every_map: bool = False) -> TextAnalysis:
    """Load the model and run it on the text; with `every_map` all attention weights are kept.

    Raises:
        UsageError: the text has too many tokens, or too few; there is no such head.
        GptcliError: the model cannot be loaded.
    """
    from gptcli.generation.llm import LLM

    spec = replace(spec, seed=SEED if spec.seed is None else spec.seed)
    llm = LLM.of_target(spec, find_model(spec, option="TARGET"))
    # Tokenizer and config can refuse the text before the weights are read.
    ids = llm.tokenizer.encode_prompt(options.text)
    heads_to_show(ids, options, llm.config)
    model = load_book_model(llm)
    heads = heads_to_show(ids, options, model.config)
    kept = range(model.config.n_layers) if every_map else {layer for layer, _ in heads}
    forward = None
    if options.prompt is not None:
        forward = _forward_pass(
            model, ids, llm.tokenizer, heads, kept, top=options.top or _DEFAULT_TOP
        )
    return TextAnalysis(
        name=llm.name,
        config=model.config,
        seed=spec.seed if llm.checkpoint is None else None,
        text=options.text,
        ids=ids,
        tokenizer=llm.tokenizer,
        forward=forward,
        gradients=_both_gradients(model, ids) if options.gradients else None,
    )


def heads_to_show(
    ids: Sequence[int], options: AnalysisOptions, config: GPTConfig
) -> tuple[tuple[int, int], ...]:
    """The (block, head) pairs that were asked for.

    Raises:
        UsageError: the text is too long or too short, or there is no such head.
    """
    option = "prompt" if options.prompt is not None else "gradients"
    if len(ids) > config.context_length:
        found = f"{len(ids):,} tokens, expected at most {config.context_length:,}"
        raise UsageError(option, f"is longer than the context ({found})")
    if options.gradients and len(ids) < 2:
        raise UsageError(option, "has one token (gradients need at least two)")
    if options.all_heads:
        return tuple((i, j) for i in range(config.n_layers) for j in range(config.n_heads))
    return tuple(_head(given, config) for given in options.maps)


def _head(given: str, config: GPTConfig) -> tuple[int, int]:
    """LAYER.HEAD as two indices, both from 0 as in the names of the weights."""
    parts = given.split(".")
    problem = f'must be LAYER.HEAD, such as 0.0, got "{shown(given, 60)}"'
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise UsageError("maps", problem)
    layer, head = (int(part[:9]) for part in parts)
    if layer >= config.n_layers or head >= config.n_heads:
        last = f"{config.n_layers - 1}.{config.n_heads - 1}"
        raise UsageError("maps", f"no head {layer}.{head} (expected 0.0 to {last})")
    return layer, head


def _forward_pass(
    model: "GPTModel",
    ids: list[int],
    tokenizer: "Tokenizer",
    heads: tuple[tuple[int, int], ...],
    kept: Collection[int],
    *,
    top: int,
) -> ForwardPass:
    from gptcli.interpret.activations import predictions, record_activations

    n_vocab = min(tokenizer.n_vocab, model.config.vocab_size)
    found = record_activations(model, ids, attention_of=kept)
    next_ids, last = ids[1:], found.hidden_states[-1]
    every = predictions(model, last, next_ids, top=1, n_vocab=n_vocab)
    (following,) = predictions(model, last[-1:], top=top, n_vocab=n_vocab)
    first = max(0, len(ids) - LENS_POSITIONS)
    lens = [
        predictions(model, hidden[first:], next_ids[first:], top=LENS_TOP, n_vocab=n_vocab)
        for hidden in found.hidden_states
    ]
    return ForwardPass(found, every, following, lens, heads)


def _both_gradients(model: "GPTModel", ids: list[int]) -> "tuple[Gradients, Gradients]":
    from gptcli.interpret.gradients import gradients

    return gradients(model, ids), gradients(model, ids, shortcuts=False)
