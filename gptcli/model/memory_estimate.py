"""Estimate the memory to run or train a model, and the largest model that fits.

Arithmetic alone. The figures follow what our own code keeps on a CPU (`gptcli.engine`,
`gptcli.train.trainer`); a test holds each against a measured run.

Letters in formulas: those of `gptcli.model.parameters`, H n_heads, B texts, S tokens of each,
    N = B S.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gptcli.core.errors import InputError
from gptcli.core.memory import available_bytes
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import GROUP
from gptcli.model.parameters import BYTES, cache_bytes, count

PROGRAM = 50 << 20  # Python with what a command imports, roughly; training takes 250 with PyTorch
_BLOCK = 16  # outputs, positions or numbers of a head that the kernels keep side by side
PROMPT_TOKENS = 512  # of all texts that are computed in one call

DTYPES = (*BYTES, "int8", "int4")
_FLOAT = 4
_SCALE = 4  # bytes: of an int8 row; of an int4 group with its zero
_MOST_ROWS = 32
_ROWS_SHARE = 0.5  # of what is left once the model is loaded


@dataclass(frozen=True, slots=True)
class Running:
    """Bytes to generate B sequences of S tokens with the native engine.

    Attributes:
        weights: in the dtype they are kept in; the token embedding and the output head of int4 are
            int8, and the positions of both are float32.
        cache: keys and values of all positions, float32 whatever the weights are.
        activations: of the longest call, a prefill: 3 E + F floats a token.
        logits: of the B sequences, and a copy to sample from.
        loading: the most that is held before the first token, weights being read from a file: all
            of them and the floats of one layer, or the token embedding in float beside what it is
            rounded to.
    """

    weights: int
    cache: int
    activations: int
    logits: int
    loading: int

    @property
    def total(self) -> int:
        """Total during generation, without PROGRAM."""
        return self.weights + self.cache + self.activations + self.logits


@dataclass(frozen=True, slots=True)
class Training:
    """Bytes to train in float32 with AdamW on B rows of S tokens at once.

    Attributes:
        weights: P parameters.
        gradients: as many.
        optimizer: AdamW's two averages of each parameter.
        activations: what the backward pass needs of the forward one.
        loss: gradients of the logits, and the logits they come from, where the two meet.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """Total with everything held at once, as in gradient accumulation."""
        fixed = self.weights + self.gradients + self.optimizer
        return fixed + self.activations + self.loss


def running(config: GPTConfig, dtype: str, texts: int, tokens: int) -> Running:
    """The memory to generate `texts` sequences at a time, each of `tokens`, prompt included."""
    V, E, F = config.vocab_size, config.emb_dim, config.hidden_dim
    D, rounded = config.head_dim, dtype not in BYTES
    outer = _matrix(V, E, "int8" if rounded else dtype)
    heads = 1 if config.tie_weights else 2
    weights = (heads * outer + _matrices(config, dtype)) + _others(config, dtype)
    layer = E * max(3 * E, F) * (_FLOAT if rounded else BYTES[dtype])
    head_in_float = heads * outer + V * E * _FLOAT if rounded else 0
    positions = 2 * config.n_layers * config.n_heads * _padded(tokens, _BLOCK)
    step = min(texts * tokens, PROMPT_TOKENS)
    return Running(
        weights=weights,
        cache=texts * positions * (D + _padded(D, _BLOCK)) // 2 * _FLOAT,
        activations=step * (3 * E + F) * _FLOAT,
        logits=2 * texts * V * _FLOAT,
        loading=max(head_in_float, weights + layer),
    )


def _matrices(config: GPTConfig, dtype: str) -> int:
    """Bytes of the linear layers' weights in all blocks."""
    E, F = config.emb_dim, config.hidden_dim
    shapes = (*((E, E),) * 4, (F, E), (E, F))
    return config.n_layers * sum(_matrix(outputs, inputs, dtype) for outputs, inputs in shapes)


def _others(config: GPTConfig, dtype: str) -> int:
    """Bytes of positions, and of biases and norms, which are always float32."""
    counts = count(config)
    vectors = counts.blocks - counts.matrices + counts.final_norm
    return counts.position_embedding * BYTES.get(dtype, _FLOAT) + vectors * _FLOAT


def _matrix(outputs: int, inputs: int, dtype: str) -> int:
    """Bytes of one matrix. A rounded one is kept in tiles of 16 outputs by 32 inputs: int8 with a
    scale for each output, int4 with a scale and a zero, two bytes each, for each group of inputs.
    """
    if dtype in BYTES:
        return outputs * inputs * BYTES[dtype]
    rows, columns = _padded(outputs, _BLOCK), _padded(inputs, GROUP)
    if dtype == "int8":
        return rows * columns + rows * _SCALE
    return rows * columns // 2 + rows * columns // GROUP * _SCALE


def _padded(n: int, to: int) -> int:
    return -(-n // to) * to


def training(config: GPTConfig, rows: int, tokens: int) -> Training:
    """The memory to train on `rows` rows of `tokens` tokens at once.

    A block keeps 8 E + 2 F numbers a token: both norms' inputs and outputs (4 E), query, key and
    value (3 E), what attention gives (E), the hidden layer before and after the activation (2 F);
    and for each token mean and deviation of two norms and a sum of each head's. Dropout adds 2 E
    and, inside the attention, which is then no longer fused, 3 B H S^2. Outside of the blocks: the
    last norm's input and output, dropout of the embeddings, the log-probabilities.
    """
    N, E, L = rows * tokens, config.emb_dim, config.n_layers
    rates, H = config.drop_rates, config.n_heads
    block = N * (8 * E + 2 * config.hidden_dim + 4 + H)
    block += 2 * N * E * (rates.shortcut > 0) + (3 * N * tokens - N) * H * (rates.attn > 0)
    outside = N * (2 * E + 2 + config.vocab_size) + N * E * (rates.emb > 0)
    weights = _FLOAT * count(config).total
    return Training(
        weights=weights,
        gradients=weights,
        optimizer=2 * weights,
        activations=_FLOAT * (L * block + outside),
        loss=_FLOAT * 2 * N * config.vocab_size,
    )


def default_rows(config: GPTConfig) -> int:
    """Default batch size: as many sequences as fit into half of the free memory.

    At least 1 and at most 32; more gain little on a CPU.
    """
    available = available_bytes()
    if available is None:
        return _MOST_ROWS
    row = cache_bytes(config, config.context_length)
    return max(1, min(_MOST_ROWS, int(available * _ROWS_SHARE / row) - 1))


def weight_bytes(config: GPTConfig, width: str) -> int:
    """Bytes of weights that one step reads, whatever its batch size.

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
    """Bytes read to decode one token that attends to `seen`: weights, keys and values."""
    return weight_bytes(config, width) + cache_bytes(config, 1, cache) * seen


def largest(like: GPTConfig, cost: Callable[[GPTConfig], int], budget: int) -> GPTConfig | None:
    """The widest model of `like`'s family within `budget`; None if even the narrowest is not.

    `cost` must grow with the size. A family has a member for each number of heads, as far as a
    config can have its sizes.
    """

    def fits(n_heads: int) -> bool:
        try:
            return cost(relative(like, n_heads)) <= budget
        except InputError:  # a size beyond what a config may have
            return False

    few, many = 0, 1  # `few` heads fit, `many` do not
    while fits(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if fits(middle) else (few, middle)
    return relative(like, few) if few else None


def relative(like: GPTConfig, n_heads: int) -> GPTConfig:
    """The member of the family of `like` with this many heads.

    A family keeps the vocabulary, the context, the width of a head, the ratio of width to depth
    and that of the feed-forward network's width to the model's.

    Raises:
        InputError: no config can have such sizes.
    """
    emb_dim = n_heads * like.head_dim
    n_layers = max(1, round(emb_dim * like.n_layers / like.emb_dim))
    inner = like.n_inner and max(1, round(like.n_inner * emb_dim / like.emb_dim))
    return replace(like, n_heads=n_heads, emb_dim=emb_dim, n_layers=n_layers, n_inner=inner)
