"""`gptcli quantize`: write a model directory with 8-bit or 4-bit weights."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gptcli.checkpoint.weights import Checkpoint, Weights, open_checkpoint
from gptcli.cli.command import CommandFunction, Only
from gptcli.cli.model_loading import find_model
from gptcli.cli.options import JOB, Json, Quiet, Target, with_target
from gptcli.cli.render import console
from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.core.files import (
    make_directory,
    read_bounded,
    require_empty_directory,
    write_atomically,
)
from gptcli.core.options import Option
from gptcli.generation.model_spec import ModelSpec
from gptcli.model.dtypes import Width
from gptcli.version import __version__

if TYPE_CHECKING:
    from gptcli.checkpoint.resolve import Target as ModelTarget

SCHEMA = "gptcli.quantize/1"
CARD, ORIGINAL_CARD = "MODEL_CARD.md", "ORIGINAL_CARD.md"
_TOKENIZER = "tokenizer.tiktoken"
_MAX_CARD = 1 << 20


@CommandFunction
def quantize(
    model: Annotated[
        ModelSpec,
        Only("model", "config", "weights", "offline", "check_finite", "threads"),
    ],
    output: Annotated[
        Path,
        Option(
            "The model directory to write: a new or empty one.",
            JOB,
            short="-o",
            metavar="DIR",
        ),
    ],
    quantize: Annotated[
        Width, Option("Dtype of the weights; int4 keeps embedding and output head at int8.", JOB)
    ],
    target: Target = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model with 8-bit or 4-bit weights: a half or a quarter of the bytes.

    DIR becomes a model directory: generate -m DIR. The texts are, token for token, those of the
    original with generate --quantize; only loading is faster.
    """
    console.Settings.quiet = quiet
    spec = with_target(model, target)
    require_empty_directory(output)
    source = find_model(spec)
    checkpoint = _float_checkpoint(source)
    before = sum(header.size for header in checkpoint.headers)
    weights = checkpoint.weights(
        quantize=quantize, check_finite=spec.check_finite, threads=spec.threads or 1
    )
    _write(source, weights, output, quantize)
    after = (output / "model.safetensors").stat().st_size
    if json:
        document = {"schema": SCHEMA, "directory": str(output), "width": quantize}
        console.print_json({**document, "bytes": after, "original_bytes": before})
    else:
        sizes = f"{after:,} bytes of {quantize} weights, {after / before:.1%} of the original's"
        console.notice(f"wrote {shown(output)} ({sizes})")


def _float_checkpoint(target: "ModelTarget") -> Checkpoint:
    """The checkpoint, which must have weights that are not quantised yet."""
    if target.weights is None:
        raise InputError(
            shown(target.name), "has no weights to quantise", "Name a model with weights"
        )
    checkpoint = open_checkpoint(target.weights, target.config)
    if checkpoint.width:
        problem = f"is quantised already (found {checkpoint.width}, expected float weights)"
        raise InputError(shown(target.weights), problem)
    return checkpoint


def _write(target: "ModelTarget", weights: Weights, output: Path, width: Width) -> None:
    """Write the directory, weights and config last: until then it is no model."""
    from gptcli.checkpoint.save import save_weights
    from gptcli.tokenizer.export import tokenizer_files

    shape = weights.config
    name, files = tokenizer_files(shape.tokenizer, target.directory, _TOKENIZER)
    files[CARD] = _card(target, width).encode()
    if target.directory and (card := target.directory / CARD).is_file():
        files[ORIGINAL_CARD] = read_bounded(card, _MAX_CARD)
    make_directory(output)
    for file, data in files.items():
        write_atomically(output / file, data)
    weights = replace(weights, config=replace(shape, tokenizer=name))
    with console.waiting(f"quantising to {width} ..."):
        save_weights(weights, output, width)


def _card(target: "ModelTarget", width: str) -> str:
    name = shown(Path(target.name).name)
    lines = [
        "---",
        "library_name: gptcli",
        "pipeline_tag: text-generation",
        "---",
        "",
        f"# {name}, {width}",
        "",
        f"The weights of {name}, quantised to {width} by gptcli {__version__}:",
        "",
        "    gptcli generate -m DIRECTORY",
        "",
        f"Texts are those of the original with `--quantize {width}`.",
        f"{ORIGINAL_CARD}, if there is one, tells the original's training data and licence.",
        "",
    ]
    return "\n".join(lines)
