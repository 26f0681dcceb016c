"""transformers' GPT-2 with random lively weights: the oracle of the network, engine and loader.

GPT-2's own initialisation (0.02) leaves a tiny network's logits near zero, where a wrong GELU or a
missing bias passes every tolerance. These weights make each of them matter.
"""

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gptcli.model.config import GPTConfig, parse_config
from gptcli.model.gpt import GPTModel

SHAPES = [
    {"vocab_size": 61, "n_positions": 12, "n_embd": 16, "n_head": 2, "n_layer": 2},
    {"vocab_size": 97, "n_positions": 40, "n_embd": 24, "n_head": 3, "n_layer": 3},
    {"vocab_size": 50, "n_positions": 9, "n_embd": 20, "n_head": 5, "n_layer": 1},
]
# What else a GPT2Config can say of the network.
FAMILY: list[dict[str, Any]] = [
    {"activation_function": "gelu"},
    {"activation_function": "gelu_pytorch_tanh"},
    {"activation_function": "relu", "n_inner": 40},
    {"activation_function": "silu", "layer_norm_epsilon": 0.1},
    {"activation_function": "quick_gelu", "n_inner": 160},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-8},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
]


def lively_gpt2(seed: int = 0, **shape: Any) -> GPT2LMHeadModel:
    """A GPT-2 whose every weight and bias changes the output."""
    config = GPT2Config(**shape, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            deviation = 0.3 if "ln_" in name or name.endswith("bias") else 0.25
            parameter.add_(torch.randn_like(parameter) * deviation)
    return model


def book_config(oracle: GPT2LMHeadModel) -> GPTConfig:
    """The book's names for a transformers configuration."""
    return parse_config(oracle.config.to_dict(), "the oracle's config")


def copy_weights(oracle: GPT2LMHeadModel) -> GPTModel:
    """Our model with the oracle's weights, moved by hand (the loader has its own tests)."""
    model = GPTModel(book_config(oracle)).eval()
    weights = {"tok_emb.weight": oracle.transformer.wte.weight}
    weights["pos_emb.weight"] = oracle.transformer.wpe.weight
    weights["out_head.weight"] = oracle.transformer.wte.weight
    weights |= _norm("final_norm", oracle.transformer.ln_f)
    for n, block in enumerate(oracle.transformer.h):
        to = f"trf_blocks.{n}."
        qkv = zip(block.attn.c_attn.weight.T.chunk(3), block.attn.c_attn.bias.chunk(3), strict=True)
        for name, (weight, bias) in zip(("W_query", "W_key", "W_value"), qkv, strict=True):
            weights |= {f"{to}att.{name}.weight": weight, f"{to}att.{name}.bias": bias}
        weights |= _conv1d(f"{to}att.out_proj", block.attn.c_proj)
        weights |= _conv1d(f"{to}ff.layers.0", block.mlp.c_fc)
        weights |= _conv1d(f"{to}ff.layers.2", block.mlp.c_proj)
        weights |= _norm(f"{to}norm1", block.ln_1) | _norm(f"{to}norm2", block.ln_2)
    model.load_state_dict(weights)
    return model


def _norm(name: str, norm: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"{name}.scale": norm.weight, f"{name}.shift": norm.bias}


def _conv1d(name: str, layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": layer.weight.T, f"{name}.bias": layer.bias}
