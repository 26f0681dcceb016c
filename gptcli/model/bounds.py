"""What a step of a model must move and compute at least: the bounds that
`gptcli.diagnostics.benchmark` holds.

By arithmetic alone: knows no tensors, no clock and no machine.

Letters in formulas: those of `gptcli.model.parameters`; a step puts one token of each row through.
"""

from gptcli.model.config import GPTConfig
from gptcli.model.parameters import BYTES, cache_bytes, count, forward_flops

GROUP = 32  # inputs that share a scale and a zero in int4
_SCALE = 4  # bytes: of an int8 row; of an int4 group with its zero


def weight_bytes(config: GPTConfig, width: str) -> int:
    """Bytes of weights that a step reads once, however many rows it has.

    All linear layers, the output head among them, and biases and norms. Of the embeddings a step
    looks up its own rows, which are left out. `width` is a dtype, "int8" or "int4"; next to both
    of these, what is no matrix stays float32, and int4 has an int8 head.
    """
    counts = count(config)
    outputs = (5 * config.emb_dim + config.hidden_dim) * config.n_layers  # of all matrices
    others = (counts.blocks - counts.matrices + counts.final_norm) * BYTES.get(width, 4)
    if width in BYTES:
        return (counts.matrices + counts.output_head) * BYTES[width] + others
    if width == "int8":
        matrices = counts.matrices + outputs * _SCALE
    else:
        matrices = counts.matrices // 2 + counts.matrices // GROUP * _SCALE
    return matrices + counts.output_head + config.vocab_size * _SCALE + others


def decode_bytes(config: GPTConfig, width: str, seen: float, cache: str = "float32") -> float:
    """Bytes for one token of one text that sees `seen` tokens: the weights, keys and values."""
    return weight_bytes(config, width) + cache_bytes(config, 1, cache) * seen


def prefill_flops(config: GPTConfig, tokens: int) -> int:
    """FLOPs to read a prompt: the token at i sees i + 1, and only the last one needs logits."""
    each = (forward_flops(config, 1) + forward_flops(config, tokens)) * tokens // 2
    return each - (tokens - 1) * 2 * config.vocab_size * config.emb_dim


def decode_flops(config: GPTConfig, past: int, tokens: int) -> int:
    """FLOPs for `tokens` tokens, one by one, after `past`."""
    return (forward_flops(config, past + 1) + forward_flops(config, past + tokens)) * tokens // 2
