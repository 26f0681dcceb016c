"""One random GPT-2, in the file format of every engine that `compare.py` measures.

All files are made from the same Hugging Face directory, which is made from a seed: nothing is
downloaded. What exists already is kept.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Of a GPT-2; the vocabulary is always GPT-2's."""

    emb_dim: int
    n_layers: int
    n_heads: int
    context: int = 1024
    vocab: int = 50257


SHAPES = {
    "tiny": Shape(64, 2, 4),
    "124m": Shape(768, 12, 12),
    "355m": Shape(1024, 24, 16),
    "774m": Shape(1280, 36, 20),
}


def huggingface(shape: Shape, directory: Path) -> Path:
    """config.json, model.safetensors and a word-level tokenizer whose words are t0, t1, ..."""
    if not (directory / "model.safetensors").exists():
        directory.mkdir(parents=True, exist_ok=True)
        _write_json(directory / "config.json", _config(shape))
        _write_tokenizer(shape, directory)
        tensors = dict(_tensors(shape))
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def gguf(source: Path, width: str) -> Path:
    """llama.cpp's file, every matrix F32, BF16, Q8_0 or Q4_0: embedding and head too."""
    import gguf as library

    path = source.with_name(f"{source.name}-{width}.gguf")
    if path.exists():
        return path
    config = json.loads((source / "config.json").read_text())
    kind = library.GGMLQuantizationType[width]
    writer = library.GGUFWriter(path.with_suffix(".tmp"), "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(library.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in load_file(source / "model.safetensors").items():
        matrix = tensor.T if tensor.ndim == 2 and name.startswith("h.") else tensor
        matrix = np.ascontiguousarray(matrix)
        as_float = matrix.ndim == 1 or name == "wpe.weight"
        stored = matrix if as_float else library.quants.quantize(matrix, kind)
        raw = None if as_float else kind
        writer.add_tensor(_gguf_name(name), stored, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".tmp").rename(path)
    return path


def ctranslate2(source: Path, width: str) -> Path:
    """CTranslate2's directory, by its own converter."""
    from ctranslate2.converters import TransformersConverter

    path = source.with_name(f"{source.name}-ct2-{width}")
    if not path.exists():
        quantization = None if width == "float32" else width
        TransformersConverter(str(source)).convert(str(path), quantization=quantization)
    return path


def openvino(source: Path, width: str, optimum_cli: str) -> Path:
    """OpenVINO's directory, by `optimum-cli`, which may be in an environment of its own."""
    path = source.with_name(f"{source.name}-ov-{width}")
    if not path.exists():
        command = [optimum_cli, "export", "openvino", "--model", str(source)]
        command += ["--task", "text-generation-with-past", "--weight-format", width]
        command += ["--group-size", "32"] if width == "int4" else []
        subprocess.run([*command, str(path)], check=True, capture_output=True)
    return path


def _config(shape: Shape) -> dict[str, Any]:
    last = shape.vocab - 1
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": shape.vocab,
        "n_positions": shape.context,
        "n_ctx": shape.context,
        "n_embd": shape.emb_dim,
        "n_layer": shape.n_layers,
        "n_head": shape.n_heads,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": last,
        "eos_token_id": last,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _tensors(shape: Shape) -> Iterator[tuple[str, Array]]:
    """Wide enough that tokens vary and the best stands out; GPT-2's own 0.02 repeats one token."""
    draw = np.random.default_rng(0)
    E = shape.emb_dim

    def normal(*size: int, deviation: float, mean: float = 0.0) -> Array:
        values = draw.standard_normal(size, dtype=np.float32) * np.float32(deviation)
        return values + np.float32(mean)

    yield "wte.weight", normal(shape.vocab, E, deviation=0.05)
    yield "wpe.weight", normal(shape.context, E, deviation=0.05)
    for n in range(shape.n_layers):
        for norm in ("ln_1", "ln_2"):
            yield f"h.{n}.{norm}.weight", normal(E, deviation=0.1, mean=1.0)
            yield f"h.{n}.{norm}.bias", normal(E, deviation=0.05)
        matrices = {
            "attn.c_attn": (E, 3 * E),
            "attn.c_proj": (E, E),
            "mlp.c_fc": (E, 4 * E),
            "mlp.c_proj": (4 * E, E),
        }
        for name, (inputs, outputs) in matrices.items():
            yield f"h.{n}.{name}.weight", normal(inputs, outputs, deviation=inputs**-0.5)
            yield f"h.{n}.{name}.bias", normal(outputs, deviation=0.05)
    yield "ln_f.weight", normal(E, deviation=0.1, mean=1.0)
    yield "ln_f.bias", normal(E, deviation=0.05)


def _write_tokenizer(shape: Shape, directory: Path) -> None:
    last = f"t{shape.vocab - 1}"
    words = {f"t{n}": n for n in range(shape.vocab)}
    _write_json(
        directory / "tokenizer.json",
        {
            "version": "1.0",
            "added_tokens": [],
            "model": {"type": "WordLevel", "vocab": words, "unk_token": last},
            "pre_tokenizer": {"type": "Whitespace"},
        },
    )
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": last,
            "eos_token": last,
            "unk_token": last,
        },
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _gguf_name(name: str) -> str:
    if not name.startswith("h."):
        part, kind = name.split(".")
        return {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}[
            part
        ] + f".{kind}"
    _, block, *middle, kind = name.split(".")
    parts = {
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    return f"blk.{block}.{parts['.'.join(middle)]}.{kind}"
