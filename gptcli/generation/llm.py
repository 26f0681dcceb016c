"""The library in two calls: load a model, generate text with it."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptcli.checkpoint import resolve as target
from gptcli.checkpoint.load import load_fast
from gptcli.checkpoint.presets import own_temperature
from gptcli.engine.fast import FastGPT
from gptcli.engine.quantize import Width
from gptcli.generation.decode import Generation, Overflow, Prompt
from gptcli.generation.text_stream import Completion
from gptcli.sampling.constraint import matcher
from gptcli.sampling.params import SamplingParams
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to generate, the tokenizer that goes with it, and the temperature it suits."""

    model: FastGPT
    tokenizer: Tokenizer
    temperature: float = SamplingParams().temperature


def load(
    model: str | None = None,
    *,
    config: str | Path | None = None,
    weights: str | Path | None = None,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    quantize: Width | None = None,
    offline: bool = False,
) -> Loaded:
    """The model that a preset's name, a directory or files name; nothing named is the built-in one.

    Args:
        model: preset, model directory, config file or `.safetensors` file.
        config: a config file, in place of the model's own.
        weights: a `.safetensors` file or index, in place of the model's own.
        seed: initialises a model that has a config and no weights.
        dtype: of the weights and the arithmetic.
        device: as PyTorch names it.
        quantize: round the weights to "int8" or "int4"; None keeps `dtype`, or the width that the
            weights are stored at.
        offline: download nothing.

    Raises:
        GptcliError: whatever a user can mend, in one line.
    """
    named = target.resolve(
        model,
        Path(config) if config else None,
        Path(weights) if weights else None,
        offline=offline,
    )
    fast = load_fast(named, quantize, seed=seed, dtype=dtype, device=device, single=True)
    shape = fast.config
    tokenizer = load_tokenizer(
        shape.tokenizer, named.directory, vocab_size=shape.vocab_size, offline=offline
    )
    own = own_temperature(model, config, weights)
    return Loaded(fast, tokenizer) if own is None else Loaded(fast, tokenizer, own)


def generate(
    loaded: Loaded,
    prompt: str,
    *,
    seed: int | None = None,
    sample: int = 0,
    stop: Sequence[str] = (),
    keep_stop: bool = False,
    overflow: Overflow = "stop",
    **sampling: Any,
) -> Iterator[str]:
    """The text that follows a prompt, in pieces as they are made.

    Args:
        loaded: what `load` returned.
        prompt: text; a special token spelt out in it is ordinary text.
        seed: the same seed and options give the same text; None is a fresh one.
        sample: which of the texts that one seed gives.
        stop: strings that end the text, left out of it unless `keep_stop`.
        keep_stop: whether the stop string that ended the text belongs to it.
        overflow: what happens at the end of the context: "stop", "slide" or "error".
        **sampling: fields of `SamplingParams`: max_new_tokens, temperature, top_k, …; the
            temperature is the model's own without it.

    Raises:
        GptcliError: whatever a user can mend, in one line.
    """
    params = SamplingParams(**{"temperature": loaded.temperature, **sampling})
    model, tokenizer = loaded.model, loaded.tokenizer
    read = Prompt(model, tokenizer.prompt(prompt), params.max_new_tokens, overflow)
    generation = Generation(
        read,
        params,
        seed=secrets.randbits(32) if seed is None else seed,
        sample=sample,
        eos_ids=tokenizer.eos_ids,
        constraint=matcher(params.constraint, tokenizer),
        n_vocab=tokenizer.n_vocab,
        overflow=overflow,
    )
    return (
        piece.text for piece in Completion(generation, tokenizer, stop, keep_stop, after=read.ids)
    )
