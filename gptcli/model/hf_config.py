"""Convert configs of Hugging Face GPT-2 and nanoGPT to the book's keys, and back.

Keys of a Hugging Face config that change the network are translated, or are a problem if the
network does not support them. All others are ignored.
"""

from collections.abc import Mapping
from typing import Any

from gptcli.core.escape import described

# The book's key → Hugging Face's. GPT2Config has second names for some, in _OTHER_NAMES.
_HUGGINGFACE = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "emb_dim": "n_embd",
    "n_heads": "n_head",
    "n_layers": "n_layer",
    "drop_rate": "resid_pdrop",
    "drop_rate_emb": "embd_pdrop",
    "drop_rate_attn": "attn_pdrop",
    "tie_weights": "tie_word_embeddings",
    "activation": "activation_function",
    "n_inner": "n_inner",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "scale_attn_weights": "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx": "scale_attn_by_inverse_layer_idx",
}
_OTHER_NAMES = {
    "n_positions": ("max_position_embeddings", "n_ctx"),  # files of 2019 may have n_ctx alone
    "n_embd": ("hidden_size",),
    "n_head": ("num_attention_heads",),
    "n_layer": ("num_hidden_layers",),
}
# GPT2Config's defaults for missing keys.
_GPT2: dict[str, object] = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "tie_word_embeddings": True,
}
# Keys of unsupported features, with the values that switch these off. reorder_and_upcast_attn is
# ignored: it changes only rounding.
_REFUSED: dict[str, tuple[str, tuple[object, ...]]] = {
    "add_cross_attention": ("false", (False,)),
    "quantization_config": ("nothing", (None,)),
    "pruned_heads": ("none", ({}, None)),
}
_NANOGPT = {
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "emb_dim": "n_embd",
    "context_length": "block_size",
    "vocab_size": "vocab_size",
    "drop_rate": "dropout",
    "bias": "bias",
}
_BOOK_ONLY = frozenset({"context_length", "emb_dim", "n_heads", "n_layers"})


def is_huggingface(mapping: Mapping[str, object]) -> bool:
    """Whether the keys are Hugging Face's, and none is one of the book's own."""
    marks = {"model_type", "architectures", "n_embd"}
    return not marks.isdisjoint(mapping) and _BOOK_ONLY.isdisjoint(mapping)


def is_nanogpt(mapping: Mapping[str, object]) -> bool:
    """Whether the keys are those of nanoGPT's `model_args`, alone or beside its other settings."""
    if isinstance(mapping.get("model_args"), Mapping):
        return True
    others = _BOOK_ONLY | {"model_type", "n_positions"}
    return "block_size" in mapping and others.isdisjoint(mapping)


def unsupported(mapping: Mapping[str, object]) -> list[str]:
    """Problems: settings of a Hugging Face config that the network does not support.

    Another model_type is the only problem reported: its other keys mean other things.
    """
    model = mapping.get("model_type", "gpt2")
    if model != "gpt2":
        return [f'model_type: expected the text "gpt2", found {described(model)}']
    problems = [
        f"{key}: not supported (expected {expected}, found {described(mapping[key])})"
        for key, (expected, harmless) in _REFUSED.items()
        if key in mapping and mapping[key] not in harmless
    ]
    for name, (other, *_) in _OTHER_NAMES.items():  # n_ctx is obsolete, no second name
        if mapping.get(other, mapping.get(name)) != mapping.get(name, mapping.get(other)):
            both = f"{described(mapping[name])} and {described(mapping[other])}"
            problems.append(f"{name} and {other}: expected one value, found {both}")
    return problems


def from_huggingface(mapping: Mapping[str, object]) -> tuple[dict[str, object], dict[str, str]]:
    """Values by the book's keys, and the name of each key in the file."""
    names = dict(_HUGGINGFACE)
    for key, name in _HUGGINGFACE.items():
        if name not in mapping:
            names[key] = next((n for n in _OTHER_NAMES.get(name, ()) if n in mapping), name)
    known = {**_GPT2, **mapping}
    values = {key: known[name] for key, name in names.items() if name in known}
    for key in ("drop_rate_emb", "drop_rate_attn"):
        if values[key] == values["drop_rate"]:
            del values[key]
    return {**values, "qkv_bias": True}, names


def from_nanogpt(mapping: Mapping[str, object]) -> tuple[dict[str, object], dict[str, str]]:
    """As `from_huggingface`, for nanoGPT; unknown keys are kept, for the caller to refuse.

    nanoGPT uses the exact GELU. Its oldest models used GPT-2's, which no file tells: their config
    needs `activation: gelu_new`.
    """
    found = mapping.get("model_args")
    given = dict(found if isinstance(found, Mapping) else mapping)
    given = {"dropout": 0.0, "bias": True, "activation": "gelu", "tie_weights": True} | given
    values = {key: given.pop(name) for key, name in _NANOGPT.items() if name in given}
    return {**given, **values, "qkv_bias": values["bias"]}, _NANOGPT


def to_huggingface(config: Mapping[str, Any], rates: tuple[float, float, float]) -> dict[str, Any]:
    """A `config.json` that transformers reads as this model.

    Args:
        config: every key of a `GPTConfig`.
        rates: its dropout of embeddings, attention and shortcuts.
    """
    dropout = dict(zip(("drop_rate_emb", "drop_rate_attn", "drop_rate"), rates, strict=True))
    values = {**config, **dropout}
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **{name: values[key] for key, name in _HUGGINGFACE.items()},
    }
