"""Parameter counts, memory and FLOPs of a config, by arithmetic and without building a model.

Letters in formulas: V vocab_size, C context_length, E emb_dim, F hidden_dim (4 E unless n_inner
    says otherwise), L n_layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from gptcli.model.config import GPTConfig

_ACTIVATION_CLASSES = {  # of `gptcli.model.gpt`
    "gelu_new": "GELU",
    "gelu": "GELU (erf)",
    "relu": "ReLU",
    "silu": "SiLU",
    "quick_gelu": "QuickGELU",
}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Part:
    """A module or a tensor of the model, in the order of the book's constructor.

    Attributes:
        name: its attribute in the parent, as in the state dict.
        kind: the class of a module, empty for a tensor.
        shape: of a tensor, empty for a module.
        parts: of a module; of one copy where there are several.
        copies: number of equal modules in a row.
        detail: what the shapes do not show.
        is_shared: whether it is a tied tensor, which is counted elsewhere.
    """

    name: str
    kind: str = ""
    shape: tuple[int, ...] = ()
    parts: tuple["Part", ...] = ()
    copies: int = 1
    detail: str = ""
    is_shared: bool = False

    @property
    def count(self) -> int:
        """Parameters in all copies; 0 for a tied tensor."""
        if self.is_shared:
            return 0
        one = prod(self.shape) if self.shape else sum(part.count for part in self.parts)
        return one * self.copies

    def __getitem__(self, name: str) -> "Part":
        return next(part for part in self.parts if part.name == name)


def architecture(config: GPTConfig) -> Part:
    """The whole model as a tree of parts."""
    V, E = config.vocab_size, config.emb_dim
    head = Part("weight", shape=(V, E), is_shared=config.tie_weights)
    tied = "is tok_emb" if config.tie_weights else ""
    return Part(
        "model",
        "GPTModel",
        parts=(
            Part("tok_emb", "Embedding", parts=(Part("weight", shape=(V, E)),)),
            Part("pos_emb", "Embedding", parts=(Part("weight", shape=(config.context_length, E)),)),
            Part("drop_emb", "Dropout"),
            _block(config),
            _norm("final_norm", config),
            Part("out_head", "Linear", parts=(head,), detail=tied),
        ),
    )


def tensors(part: Part) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name in the state dict and shape of each tensor, tied ones too."""
    for child in part.parts:
        for index in range(child.copies):
            name = f"{child.name}.{index}" if child.kind == "TransformerBlock" else child.name
            if child.shape:
                yield name, child.shape
            yield from ((f"{name}.{inner}", shape) for inner, shape in tensors(child))


def _block(config: GPTConfig) -> Part:
    E, F = config.emb_dim, config.hidden_dim
    attention = Part(
        "att",
        "MultiHeadAttention",
        parts=(
            *(
                _linear(name, E, E, bias=config.qkv_bias)
                for name in ("W_query", "W_key", "W_value")
            ),
            _linear("out_proj", E, E, bias=config.bias),
        ),
    )
    layers = (
        _linear("0", E, F, bias=config.bias),
        Part("1", _ACTIVATION_CLASSES.get(config.activation, config.activation)),
        _linear("2", F, E, bias=config.bias),
    )
    feed_forward = Part("ff", "FeedForward", parts=(Part("layers", "Sequential", parts=layers),))
    return Part(
        "trf_blocks",
        "TransformerBlock",
        parts=(attention, feed_forward, _norm("norm1", config), _norm("norm2", config)),
        copies=config.n_layers,
    )


def _linear(name: str, inputs: int, outputs: int, *, bias: bool) -> Part:
    biases = (Part("bias", shape=(outputs,)),) if bias else ()
    return Part(name, "Linear", parts=(Part("weight", shape=(outputs, inputs)), *biases))


def _norm(name: str, config: GPTConfig) -> Part:
    names = ("scale", "shift") if config.bias else ("scale",)
    return Part(name, "LayerNorm", parts=tuple(Part(n, shape=(config.emb_dim,)) for n in names))


@dataclass(frozen=True, slots=True)
class Counts:
    """Exact parameters of one model; `attention`, `feed_forward` and `norms` are of one block."""

    token_embedding: int
    position_embedding: int
    attention: int
    feed_forward: int
    norms: int
    n_layers: int
    final_norm: int
    output_head: int  # V E, tied or not
    is_tied: bool
    matrices: int  # weights of the linear layers in all blocks, L (4 E^2 + 2 E F)
    masks: int  # elements of the causal masks, buffers in files of the book's model, L C^2

    @property
    def block(self) -> int:
        """One transformer block."""
        return self.attention + self.feed_forward + self.norms

    @property
    def blocks(self) -> int:
        """All transformer blocks."""
        return self.block * self.n_layers

    @property
    def tied(self) -> int:
        """Parameters if the output head is the token embedding."""
        return self.token_embedding + self.position_embedding + self.blocks + self.final_norm

    @property
    def untied(self) -> int:
        """Parameters with an output head of its own."""
        return self.tied + self.output_head

    @property
    def own_head(self) -> int:
        """Parameters of the output head, 0 if it is the token embedding."""
        return 0 if self.is_tied else self.output_head

    @property
    def total(self) -> int:
        """Parameters of this model: `tied` or `untied`, by its config."""
        return self.tied + self.own_head

    @property
    def without_positions(self) -> int:
        """`total` without the position embedding."""
        return self.total - self.position_embedding

    @property
    def without_embeddings(self) -> int:
        """Blocks and final norm, without both embeddings and the output head."""
        return self.blocks + self.final_norm

    @property
    def with_masks(self) -> int:
        """`total` and the mask buffers, which are not parameters."""
        return self.total + self.masks


def count(config: GPTConfig) -> Counts:
    """Count the parameters of a config."""
    model = architecture(config)
    block = model["trf_blocks"]
    L = config.n_layers
    return Counts(
        token_embedding=model["tok_emb"].count,
        position_embedding=model["pos_emb"].count,
        attention=block["att"].count,
        feed_forward=block["ff"].count,
        norms=block["norm1"].count + block["norm2"].count,
        n_layers=L,
        final_norm=model["final_norm"].count,
        output_head=config.vocab_size * config.emb_dim,
        is_tied=config.tie_weights,
        matrices=block_matrices(config),
        masks=L * config.context_length**2,
    )


def block_matrices(config: GPTConfig) -> int:
    """Weights of the linear layers in all blocks: L (4 E^2 + 2 E F), which is 12 L E^2."""
    E = config.emb_dim
    return config.n_layers * (4 * E**2 + 2 * E * config.hidden_dim)


def cache_bytes(config: GPTConfig, tokens: int, dtype: str = "float32") -> int:
    """Bytes of keys and values for `tokens` positions of one sequence: 2 L E each."""
    return 2 * config.n_layers * config.emb_dim * tokens * BYTES[dtype]


def forward_flops(config: GPTConfig, seen: int) -> int:
    """FLOPs of the forward pass of one token that attends to `seen` tokens, itself included.

    2 (L (4 E^2 + 2 E F) + V E) + 4 L E seen: two (multiply, add) for every weight of a linear
    layer, the output head included, then the scores and the weighted sum of attention. Embedding
    look-ups, biases, norms, activation and softmax are left out, as in Kaplan et al. 2020
    (arXiv:2001.08361, table 1), which this follows, and Chowdhery et al. 2022 (arXiv:2204.02311,
    appendix B).
    """
    E, L = config.emb_dim, config.n_layers
    return 2 * (block_matrices(config) + config.vocab_size * E) + 4 * L * E * seen


def mean_forward_flops(config: GPTConfig) -> int:
    """Mean of `forward_flops` over a full context, where token i attends to i + 1 tokens."""
    first, last = forward_flops(config, 1), forward_flops(config, config.context_length)
    return (first + last) // 2  # exact: it is linear in `seen`, and both are even


def training_flops(config: GPTConfig) -> int:
    """FLOPs to train on one token of a full context: a backward pass costs two forward passes."""
    return 3 * mean_forward_flops(config)


def prefill_flops(config: GPTConfig, tokens: int) -> int:
    """FLOPs to prefill `tokens` tokens: token i attends to i + 1, and only the last has logits."""
    each = (forward_flops(config, 1) + forward_flops(config, tokens)) * tokens // 2
    return each - (tokens - 1) * 2 * config.vocab_size * config.emb_dim


def decode_flops(config: GPTConfig, past: int, tokens: int) -> int:
    """FLOPs to decode `tokens` tokens one by one, after `past` tokens."""
    return (forward_flops(config, past + 1) + forward_flops(config, past + tokens)) * tokens // 2
