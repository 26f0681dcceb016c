"""The `config.json` of a Hugging Face GPT-2, in the book's terms. Knows no files.

Such a file holds many keys that do not touch the model, which are ignored; a key that would
make another model than the book's is a problem, never ignored.
"""

from collections.abc import Mapping

from gptcli.core.escape import described

_NAMES = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "emb_dim": "n_embd",
    "n_heads": "n_head",
    "n_layers": "n_layer",
    "drop_rate": "resid_pdrop",
    "tie_weights": "tie_word_embeddings",
}
_USUAL = {"resid_pdrop": 0.1, "tie_word_embeddings": True}  # what GPT-2 has when the file is silent
_BOOK_ONLY = frozenset({"context_length", "emb_dim", "n_heads", "n_layers"})

# key: the values with which the model is the book's; a key that is not there has the first.
# gelu_pytorch_tanh is gelu_new by another name; reorder_and_upcast_attn changes no more than
# rounding, dropout other than resid_pdrop nothing after training, so neither is here.
_SUPPORTED: dict[str, tuple[object, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}


def is_huggingface(mapping: Mapping[str, object]) -> bool:
    """Whether the keys are Hugging Face's; one of the book's own sizes says that they are not."""
    marks = {"model_type", "architectures", "n_embd"}
    return not marks.isdisjoint(mapping) and _BOOK_ONLY.isdisjoint(mapping)


def unsupported(mapping: Mapping[str, object]) -> list[str]:
    """What the file asks of the model that the book's cannot do; another model_type comes alone."""
    model = mapping.get("model_type", "gpt2")
    if model != "gpt2":
        return [f'model_type: expected the text "gpt2", found {described(model)}']
    problems = [
        f"{key}: expected {described(good[0])}, found {described(mapping[key])}"
        for key, good in _SUPPORTED.items()
        if key in mapping and mapping[key] not in good
    ]
    inner, wide = mapping.get("n_inner"), mapping.get("n_embd")
    if inner is not None and not (isinstance(wide, int) and inner == 4 * wide):
        problems.append(f"n_inner: expected nothing or 4 n_embd, found {described(inner)}")
    return problems


def book_keys(mapping: Mapping[str, object]) -> tuple[dict[str, object], dict[str, str]]:
    """The values under the book's keys, and what the file calls each of them."""
    names = dict(_NAMES)
    if "n_positions" not in mapping and "n_ctx" in mapping:  # files of 2019 have both or n_ctx
        names["context_length"] = "n_ctx"
    known = {**_USUAL, **mapping}
    values = {key: known[name] for key, name in names.items() if name in known}
    return {**values, "qkv_bias": True}, names
