"""`gptcli export`: write a model for other programs."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from gptcli.cli.command import CommandFunction, Only
from gptcli.cli.options import JOB, Json, Quiet, Target, with_target
from gptcli.cli.render import console
from gptcli.core.errors import InputError, RunError
from gptcli.core.escape import shown
from gptcli.core.files import require_empty_directory, write_atomically
from gptcli.core.options import Option
from gptcli.generation.model_spec import ModelSpec

if TYPE_CHECKING:
    from gptcli.checkpoint.weights import Weights
    from gptcli.generation.llm import LLM

SCHEMA = "gptcli.export/1"
Format = Literal["huggingface", "book", "gguf"]
_TOKENIZER = "tokenizer.tiktoken"


@CommandFunction
def export(
    model: Annotated[ModelSpec, Only("model", "config", "weights", "offline", "check_finite")],
    output: Annotated[
        Path,
        Option(
            "The directory to write: a new or empty one.",
            JOB,
            short="-o",
            metavar="DIR",
        ),
    ],
    format: Annotated[Format, Option("The format to write.", JOB)] = "huggingface",
    target: Target = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for other programs.

    huggingface: a directory that AutoModelForCausalLM and AutoTokenizer load. book: the weight
    names of the book's classes. gguf: one file for llama.cpp. Weights keep their dtype; quantised
    ones become float32. Token ids and greedy texts stay the same.
    """
    console.Settings.quiet = quiet
    require_empty_directory(output)
    from gptcli.generation.llm import LLM

    llm = LLM.open(with_target(model, target))
    if llm.checkpoint is None:
        raise InputError(shown(llm.name), "has no weights to export", "Name a model with weights")
    weights = llm.checkpoint.weights(llm.checkpoint.dtype, check_finite=model.check_finite)
    with console.waiting(f"exporting {shown(llm.name, 60)} ..."):
        _write(llm, weights, output, format)
    size = sum(path.stat().st_size for path in output.iterdir())
    if json:
        about = {"schema": SCHEMA, "directory": str(output), "format": format, "bytes": size}
        console.print_json(about)
    else:
        console.notice(f"wrote {shown(output)} ({format}, {size:,} bytes)")


def _write(llm: "LLM", weights: "Weights", output: Path, format: Format) -> None:
    """Write a directory beside `output`, renamed to it once everything is on the disk."""
    output = output.absolute()
    part = output.with_name(f".{output.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # left by an export that was killed
        part.mkdir(parents=True)
        try:
            {"huggingface": _huggingface, "book": _book, "gguf": _gguf}[format](llm, weights, part)
            part.replace(output)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(shown(output), f"cannot be written ({why})") from None


def _huggingface(llm: "LLM", weights: "Weights", directory: Path) -> None:
    from gptcli.checkpoint.export import dtype_name, float_tensors, huggingface_tensors
    from gptcli.checkpoint.save import write_tensors
    from gptcli.tokenizer.conversion import huggingface_files
    from gptcli.tokenizer.export import json_bytes

    config, tensors = weights.config, float_tensors(weights)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), llm.tokenizer.eos_id)
    dtype = dtype_name(tensors["tok_emb.weight"])
    document = {**config.to_huggingface(), **ends, "dtype": dtype}
    files = huggingface_files(llm.tokenizer, config.context_length)
    files["config.json"] = json_bytes(document)
    for name, contents in files.items():
        write_atomically(directory / name, contents)
    named = dict(huggingface_tensors(config, tensors))
    path = directory / "model.safetensors"
    write_atomically(path, lambda part: write_tensors(part, named, {"format": "pt"}))


def _book(llm: "LLM", weights: "Weights", directory: Path) -> None:
    from gptcli.checkpoint.export import float_tensors
    from gptcli.checkpoint.save import save_weights
    from gptcli.tokenizer.export import tokenizer_files

    config = weights.config
    name, files = tokenizer_files(config.tokenizer, llm.target.directory, _TOKENIZER)
    for file, contents in files.items():
        write_atomically(directory / file, contents)
    floats = replace(
        weights, config=replace(config, tokenizer=name), tensors=float_tensors(weights), width=None
    )
    save_weights(floats, directory)


def _gguf(llm: "LLM", weights: "Weights", directory: Path) -> None:
    from gptcli.checkpoint.export import float_tensors, write_gguf
    from gptcli.tokenizer.conversion import add_to_gguf, bpe_vocabulary

    config, vocabulary = weights.config, bpe_vocabulary(llm.tokenizer)
    tokens = partial(add_to_gguf, vocabulary=vocabulary, vocab_size=config.vocab_size)
    path = directory / "model.gguf"
    tensors = float_tensors(weights)
    write_atomically(path, lambda part: write_gguf(part, config, tensors, tokens))
