"""A tiny model directory with lively weights and a tokenizer of single bytes."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizer_files import byte_ranks, write_ranks

from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, untrained

SIZES = {"vocab_size": 256, "context_length": 32, "emb_dim": 16, "n_heads": 2, "n_layers": 3}


def tiny_config(**changes: object) -> dict[str, object]:
    fixed = {"drop_rate": 0.0, "qkv_bias": False, "tokenizer": "bytes.tiktoken"}
    return {**SIZES, **fixed, **changes}


def tiny_model() -> GPTModel:
    """Weights as large as a trained model's, so that no two numbers are alike."""
    model = untrained(GPTConfig(**tiny_config()), seed=3)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def write_tiny(directory: Path, *, trained: bool = True) -> Path:
    """Write the directory; without `trained` it is a config and a tokenizer alone."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(tiny_config()), encoding="utf-8")
    write_ranks(directory / "bytes.tiktoken", byte_ranks())
    if trained:
        state = {name: tensor.contiguous() for name, tensor in tiny_model().state_dict().items()}
        save_file(state, directory / "model.safetensors")
    return directory
