"""Finish training: evaluate the saved weights and write the model card."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from gptcli.checkpoint.load import load_weights
from gptcli.core.files import write_atomically
from gptcli.core.units import plural
from gptcli.model.gpt import GPTModel
from gptcli.train.evaluate import bits_per_byte
from gptcli.train.model_card import CardFacts, machine, render
from gptcli.train.options import CARD, STATE, WEIGHTS
from gptcli.train.setup import PreparedTraining


def finish(job: PreparedTraining, command: Sequence[str], notes: Sequence[str] = ()) -> float:
    """Evaluate the weights file in float32, write the card, delete the state → bits per byte.

    `command` is the arguments after `gptcli`, for the card.

    Raises:
        RunError: the card cannot be written; the weights and the state are intact.
    """
    directory = job.recipe.directory
    model = GPTModel(job.config).eval()
    load_weights(model, directory / WEIGHTS)
    bits = bits_per_byte(model, job.validation, job.eos_id, job.config.context_length)
    card = render(_facts(job, command, notes, bits))
    write_atomically(directory / CARD, card.encode())
    (directory / STATE).unlink(missing_ok=True)
    return bits


def _facts(
    job: PreparedTraining, command: Sequence[str], notes: Sequence[str], bits: float
) -> CardFacts:
    progress = job.trainer.progress
    recent = [entry["loss"] for entry in progress.history[-100:]]
    results = {
        "validation bits per byte": bits,
        "reached at step": progress.best_step,
        "training loss, nats per token, mean of the last 100 steps": sum(recent) / len(recent),
        "steps done": progress.step,
        "tokens learnt from": progress.tokens,
        "hours": progress.seconds / 3600,
    }
    software = {**machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    return CardFacts(
        title=job.recipe.directory.resolve().name,
        command=command,
        base=job.base,
        texts=[_text_row(job, number) for number in range(len(job.texts))],
        validation=_validation(job),
        config=job.config.to_dict(),
        settings=asdict(job.settings) | _recipe_settings(job),
        results=results,
        notes=notes,
        software=software,
    )


def _text_row(job: PreparedTraining, number: int) -> dict[str, Any]:
    text, source = job.texts[number], job.recipe.sources[number]
    same = source.start == source.end
    weight = f"{source.start:g}" if same else f"{source.start:g} to {source.end:g}"
    return {
        "text": text.path.name,
        "documents": len(text.documents),
        "bytes": text.size,
        "sha256": text.sha256,
        "weight": weight,
        "rows read": job.rows[number],
    }


def _validation(job: PreparedTraining) -> str:
    validation = job.validation
    size = f"{plural(len(validation.documents), 'document')} of {validation.size:,} bytes"
    if job.valid is None:
        return f"{job.recipe.valid_share:.2%} of the texts, held out ({size})"
    return f"{job.valid.path.name} ({size}, sha256 {job.valid.sha256})"


def _recipe_settings(job: PreparedTraining) -> dict[str, Any]:
    recipe = job.recipe
    return {
        "fold_quotes": recipe.fold_quotes,
        "initialisation": job.base.name if job.base else recipe.initialisation,
        "weights_dtype": recipe.weights_dtype,
    }
