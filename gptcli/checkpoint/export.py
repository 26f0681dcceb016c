"""Export weights to other formats: Hugging Face's GPT-2 and llama.cpp's GGUF.

Float dtypes are kept; bfloat16 is held as uint16, because NumPy lacks it. Quantised weights become
float32.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gptcli.checkpoint.layouts import expected_shapes
from gptcli.checkpoint.save import book_tensors
from gptcli.checkpoint.weights import Weights
from gptcli.core.arrays import Array
from gptcli.core.errors import UsageError
from gptcli.engine.quantize import widened
from gptcli.model.config import GPTConfig

Tensors = Mapping[str, Array]

_BLOCK = {
    "norm1.scale": "ln_1.weight",
    "norm1.shift": "ln_1.bias",
    "norm2.scale": "ln_2.weight",
    "norm2.shift": "ln_2.bias",
    "att.out_proj.weight": "attn.c_proj.weight",
    "att.out_proj.bias": "attn.c_proj.bias",
    "ff.layers.0.weight": "mlp.c_fc.weight",
    "ff.layers.0.bias": "mlp.c_fc.bias",
    "ff.layers.2.weight": "mlp.c_proj.weight",
    "ff.layers.2.bias": "mlp.c_proj.bias",
}
_OUTER = {
    "tok_emb.weight": "wte.weight",
    "pos_emb.weight": "wpe.weight",
    "final_norm.scale": "ln_f.weight",
    "final_norm.shift": "ln_f.bias",
}
_QKV = ("att.W_query", "att.W_key", "att.W_value")
_GGUF = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def float_tensors(weights: Weights) -> dict[str, Array]:
    """Every tensor by the book's name; a tied head is left out."""
    if weights.width is None:
        return dict(book_tensors(weights))
    names = expected_shapes(weights.config)
    if weights.config.tie_weights:
        del names["out_head.weight"]
    return {name: weights.floats(name) for name in names}


def huggingface_tensors(config: GPTConfig, tensors: Tensors) -> Iterator[tuple[str, Array]]:
    """Tensors by GPT2LMHeadModel's names: query, key and value fused, block matrices (in, out).

    Absent biases are written as zeros, because GPT2LMHeadModel always has biases.
    """
    for ours, theirs in _OUTER.items():
        yield f"transformer.{theirs}", _or_zeros(tensors, ours, (config.emb_dim,))
    for n in range(config.n_layers):
        prefix, block = f"transformer.h.{n}", f"trf_blocks.{n}"
        for kind in ("weight", "bias"):
            shape = (config.emb_dim, config.emb_dim)[: 2 if kind == "weight" else 1]
            parts = [_or_zeros(tensors, f"{block}.{part}.{kind}", shape) for part in _QKV]
            joined = np.concatenate(parts)
            yield f"{prefix}.attn.c_attn.{kind}", np.ascontiguousarray(joined.T)
        for ours, theirs in _BLOCK.items():
            size = tensors[f"{block}.ff.layers.0.weight"].shape[0]
            width = size if ours == "ff.layers.0.bias" else config.emb_dim
            tensor = _or_zeros(tensors, f"{block}.{ours}", (width,))
            yield f"{prefix}.{theirs}", np.ascontiguousarray(tensor.T)
    if not config.tie_weights:
        yield "lm_head.weight", tensors["out_head.weight"]


def write_gguf(
    path: Path, config: GPTConfig, tensors: Tensors, add_vocabulary: Callable[[Any, Any], None]
) -> None:
    """Write a GGUF file of architecture gpt2: matrices in their dtype, all else in float32.

    Args:
        path: of the new file.
        config: of the model.
        tensors: by the book's names.
        add_vocabulary: called with the gguf module and the writer, to add the tokenizer.

    Raises:
        UsageError: the gguf library is not installed, or llama.cpp cannot run such a model.
    """
    try:
        gguf: Any = import_module("gguf")
    except ImportError:
        hint = 'Install it with: pip install "gptcli[gguf]"'
        raise UsageError("format", "gguf needs the gguf library", hint) from None
    _refuse_what_llama_cpp_lacks(config)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.emb_dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(tensors["trf_blocks.0.ff.layers.0.weight"].shape[0])
    writer.add_head_count(config.n_heads)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    kind = dtype_name(tensors["tok_emb.weight"])
    file_types = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
    writer.add_file_type(gguf.LlamaFileType[file_types[kind]])
    add_vocabulary(gguf, writer)
    for name, tensor in huggingface_tensors(config, tensors):
        _add_tensor(gguf, writer, name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensor(gguf: Any, writer: Any, name: str, tensor: Array) -> None:
    *parts, kind = name.removeprefix("transformer.").split(".")
    place = ""
    if parts[0] == "h":
        place, parts = f"blk.{parts[1]}.", parts[2:]
    own = f"{place}{_GGUF['.'.join(parts)]}.{kind}"
    if place and tensor.ndim == 2:
        tensor = np.ascontiguousarray(tensor.T)  # llama.cpp has (out, in)
    if tensor.ndim == 1 or parts == ["wpe"]:
        exact = widened(tensor) if tensor.dtype == np.uint16 else tensor.astype(np.float32)
        writer.add_tensor(own, exact)
    elif tensor.dtype == np.uint16:
        size = (tensor.shape[0], 2 * tensor.shape[1])  # in bytes
        bf16 = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(own, tensor.view(np.uint8), raw_shape=size, raw_dtype=bf16)
    else:
        writer.add_tensor(own, tensor)


def _refuse_what_llama_cpp_lacks(config: GPTConfig) -> None:
    network = {
        "activation": (config.activation, ("gelu_new", "gelu_pytorch_tanh")),
        "scale_attn_weights": (config.scale_attn_weights, (True,)),
        "scale_attn_by_inverse_layer_idx": (config.scale_attn_by_inverse_layer_idx, (False,)),
    }
    for key, (value, good) in network.items():
        if value not in good:
            raise UsageError("format", f"llama.cpp's GPT-2 cannot have {key} {value}")


def _or_zeros(tensors: Tensors, name: str, shape: tuple[int, ...]) -> Array:
    found = tensors.get(name)
    if found is not None:
        return found
    return np.zeros(shape, next(iter(tensors.values())).dtype)


def dtype_name(tensor: Array) -> str:
    """The name of an array's dtype, as PyTorch spells it."""
    return "bfloat16" if tensor.dtype == np.uint16 else tensor.dtype.name
