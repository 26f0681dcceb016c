"""How many texts to write at once, from the memory there is. Knows no torch."""

from gptcli.core.memory import available_bytes
from gptcli.model.config import GPTConfig

MOST_ROWS = 32  # more gain little on a CPU
_SHARE = 0.5  # of what is left once the model is loaded
_CACHE_BYTES = 4  # of a number in the cache


def row_bytes(config: GPTConfig, tokens: int | None = None) -> int:
    """What one text's keys and values take, `tokens` long or as long as the context."""
    return 2 * config.n_layers * config.emb_dim * (tokens or config.context_length) * _CACHE_BYTES


def default_rows(config: GPTConfig) -> int:
    """As many as fit into half of the memory that is free, at least 1 and at most 32."""
    available = available_bytes()
    if available is None:
        return MOST_ROWS
    return max(1, min(MOST_ROWS, int(available * _SHARE / row_bytes(config)) - 1))
