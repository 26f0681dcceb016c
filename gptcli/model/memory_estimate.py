"""Estimate the memory to run or train a model, and the largest model that fits.

The figures are computed, not measured. They follow what `gptcli.engine` and `gptcli.train.trainer`
allocate on a CPU; a test compares each with a measured run.

Letters in formulas: those of `gptcli.model.parameters`, H n_heads, B sequences, S tokens of each,
    N = B S.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gptcli.core.errors import InputError
from gptcli.core.memory import available_bytes
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import GROUP
from gptcli.model.parameters import BYTES, cache_bytes, count

# Python with what a command imports, roughly; training takes 250 MiB, with PyTorch.
PROCESS_BYTES = 50 << 20
_BLOCK = 16  # the kernels pad outputs, positions and head_dim to multiples of this
PREFILL_TOKENS = 512  # most tokens of a call to the engine, over all sequences

DTYPES = (*BYTES, "int8", "int4")
_FLOAT = 4
_SCALE = 4  # bytes: of an int8 row; of an int4 group with its zero
_MOST_ROWS = 32
_ROWS_SHARE = 0.5  # of what is left once the model is loaded


@dataclass(frozen=True, slots=True)
class GenerationMemory:
    """Bytes to generate B sequences of S tokens with the native engine.

    Attributes:
        weights: in their dtype. With int4, token embedding and output head are int8; with int8 and
            int4, positions are float32.
        cache: keys and values of all positions, always float32.
        activations: of the longest call, a prefill: 3 E + F floats a token.
        logits: of the B sequences, and a copy to sample from.
        loading: peak while weights are read from a file: all weights and one layer in float, or the
            token embedding both in float and quantised.
    """

    weights: int
    cache: int
    activations: int
    logits: int
    loading: int

    @property
    def total(self) -> int:
        """Total during generation, without PROCESS_BYTES."""
        return self.weights + self.cache + self.activations + self.logits


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes to train in float32 with AdamW on B sequences of S tokens at once.

    Attributes:
        weights: all parameters.
        gradients: as many bytes.
        optimizer: AdamW's two moments of each parameter.
        activations: that the forward pass keeps for the backward pass.
        loss: logits and their gradients, at the start of the backward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """Total if all exist at once, as they do with gradient accumulation."""
        fixed = self.weights + self.gradients + self.optimizer
        return fixed + self.activations + self.loss


def generation_memory(config: GPTConfig, dtype: str, texts: int, tokens: int) -> GenerationMemory:
    """The memory to generate `texts` sequences at a time, each of `tokens`, prompt included."""
    V, E, F = config.vocab_size, config.emb_dim, config.hidden_dim
    D, is_quantized = config.head_dim, dtype not in BYTES
    embedding = _matrix(V, E, "int8" if is_quantized else dtype)  # or an output head
    embeddings = embedding if config.tie_weights else 2 * embedding
    weights = embeddings + _block_matrices(config, dtype) + _positions_and_vectors(config, dtype)
    layer = E * max(3 * E, F) * (_FLOAT if is_quantized else BYTES[dtype])
    while_quantizing = embeddings + V * E * _FLOAT if is_quantized else 0
    positions = 2 * config.n_layers * config.n_heads * _padded(tokens, _BLOCK)
    step = min(texts * tokens, PREFILL_TOKENS)
    return GenerationMemory(
        weights=weights,
        cache=texts * positions * (D + _padded(D, _BLOCK)) // 2 * _FLOAT,
        activations=step * (3 * E + F) * _FLOAT,
        logits=2 * texts * V * _FLOAT,
        loading=max(while_quantizing, weights + layer),
    )


def _block_matrices(config: GPTConfig, dtype: str) -> int:
    """Bytes of the linear layers' weights in all blocks."""
    E, F = config.emb_dim, config.hidden_dim
    shapes = (*((E, E),) * 4, (F, E), (E, F))
    return config.n_layers * sum(_matrix(outputs, inputs, dtype) for outputs, inputs in shapes)


def _positions_and_vectors(config: GPTConfig, dtype: str) -> int:
    """Bytes of the position embedding, and of biases and norms, which are always float32."""
    counts = count(config)
    vectors = counts.blocks - counts.matrices + counts.final_norm
    return counts.position_embedding * BYTES.get(dtype, _FLOAT) + vectors * _FLOAT


def _matrix(outputs: int, inputs: int, dtype: str) -> int:
    """Bytes of one matrix. A quantised one is stored in tiles of 16 outputs by 32 inputs.

    int8 has a scale for each output; int4 a scale and a zero, two bytes each, for each group of
    inputs.
    """
    if dtype in BYTES:
        return outputs * inputs * BYTES[dtype]
    rows, columns = _padded(outputs, _BLOCK), _padded(inputs, GROUP)
    if dtype == "int8":
        return rows * columns + rows * _SCALE
    return rows * columns // 2 + rows * columns // GROUP * _SCALE


def _padded(n: int, to: int) -> int:
    return -(-n // to) * to


def training_memory(config: GPTConfig, rows: int, tokens: int) -> TrainingMemory:
    """The memory to train on `rows` sequences of `tokens` tokens at once.

    For each token a block keeps 8 E + 2 F floats: inputs and outputs of both norms (4 E), query,
    key and value (3 E), the output of attention (E), the hidden layer before and after the
    activation (2 F); and 4 + H more: mean and deviation of both norms, and each head's log-sum-exp.
    Dropout adds 2 E, and 3 B H S^2 inside the attention, which is then not fused. Outside of the
    blocks: input and output of the last norm, dropout of the embeddings, the log-probabilities.
    """
    N, E, L = rows * tokens, config.emb_dim, config.n_layers
    rates, H = config.drop_rates, config.n_heads
    block = N * (8 * E + 2 * config.hidden_dim + 4 + H)
    block += 2 * N * E * (rates.shortcut > 0) + (3 * N * tokens - N) * H * (rates.attn > 0)
    outside = N * (2 * E + 2 + config.vocab_size) + N * E * (rates.emb > 0)
    weights = _FLOAT * count(config).total
    return TrainingMemory(
        weights=weights,
        gradients=weights,
        optimizer=2 * weights,
        activations=_FLOAT * (L * block + outside),
        loss=_FLOAT * 2 * N * config.vocab_size,
    )


def default_batch_size(config: GPTConfig) -> int:
    """Default batch size: the sequences whose cache fits into half of the free memory.

    At least 1 and at most 32; more gain little on a CPU.
    """
    available = available_bytes()
    if available is None:
        return _MOST_ROWS
    row = cache_bytes(config, config.context_length)
    return max(1, min(_MOST_ROWS, int(available * _ROWS_SHARE / row) - 1))


def weight_bytes(config: GPTConfig, width: str) -> int:
    """Bytes of weights that one decode step reads, whatever its batch size.

    All linear layers with the output head, biases and norms; not the few looked-up rows of the
    embeddings. `width` is a dtype, "int8" or "int4"; with these two all but matrices are float32,
    and the head of int4 is int8.
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
    """Bytes of weights, keys and values read to decode one token that attends to `seen` tokens."""
    return weight_bytes(config, width) + cache_bytes(config, 1, cache) * seen


def largest_model(
    like: GPTConfig, cost: Callable[[GPTConfig], int], budget: int
) -> GPTConfig | None:
    """The widest model of the proportions of `like` with a cost of at most `budget`.

    Searches over `scaled_to_heads`; `cost` must grow with the size. None if even one head costs
    more.
    """

    def fits(n_heads: int) -> bool:
        try:
            return cost(scaled_to_heads(like, n_heads)) <= budget
        except InputError:  # a size beyond the limits of a config
            return False

    few, many = 0, 1  # `few` heads fit, `many` do not
    while fits(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if fits(middle) else (few, middle)
    return scaled_to_heads(like, few) if few else None


def scaled_to_heads(like: GPTConfig, n_heads: int) -> GPTConfig:
    """The config of the proportions of `like` with this many heads.

    Vocabulary, context and head_dim stay, and so do the ratios of emb_dim to n_layers and of
    n_inner to emb_dim.

    Raises:
        InputError: no config can have such sizes.
    """
    emb_dim = n_heads * like.head_dim
    n_layers = max(1, round(emb_dim * like.n_layers / like.emb_dim))
    inner = like.n_inner and max(1, round(like.n_inner * emb_dim / like.emb_dim))
    return replace(like, n_heads=n_heads, emb_dim=emb_dim, n_layers=n_layers, n_inner=inner)
