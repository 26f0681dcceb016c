"""The largest model of a family that fits into a memory: same proportions, any size.

A family keeps the vocabulary, the context, the width of a head, the ratio of width to depth and
that of the feed-forward network's width to the model's.
"""

from collections.abc import Callable
from dataclasses import replace

from gptcli.model.config import GPTConfig

WIDEST = 1 << 20  # what a config may have
MOST_LAYERS = 100_000

Cost = Callable[[GPTConfig], int]


def largest(like: GPTConfig, cost: Cost, budget: int) -> GPTConfig | None:
    """The widest relative of `like` that costs at most `budget`; None if the narrowest costs more.

    `cost` must grow with the size. A family has a member for each number of heads.
    """
    few, many = 0, 1  # `few` heads fit, `many` do not
    while _exists(like, many) and cost(relative(like, many)) <= budget:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        fits = _exists(like, middle) and cost(relative(like, middle)) <= budget
        few, many = (middle, many) if fits else (few, middle)
    return relative(like, few) if few else None


def relative(like: GPTConfig, n_heads: int) -> GPTConfig:
    """The member of the family with this many heads."""
    emb_dim, n_layers = _sizes(like, n_heads)
    inner = like.n_inner and max(1, round(like.n_inner * emb_dim / like.emb_dim))
    return replace(like, n_heads=n_heads, emb_dim=emb_dim, n_layers=n_layers, n_inner=inner)


def _sizes(like: GPTConfig, n_heads: int) -> tuple[int, int]:
    emb_dim = n_heads * like.head_dim
    return emb_dim, max(1, round(emb_dim * like.n_layers / like.emb_dim))


def _exists(like: GPTConfig, n_heads: int) -> bool:
    emb_dim, n_layers = _sizes(like, n_heads)
    inner = (like.n_inner or 0) * emb_dim // like.emb_dim
    return emb_dim <= WIDEST and n_layers <= MOST_LAYERS and inner < 4 * WIDEST
