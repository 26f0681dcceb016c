"""How much memory a model takes to run and to train, by arithmetic alone.

Follows what our own code keeps (`gptcli.engine.fast`, `gptcli.engine.quantize`,
`gptcli.train.trainer`) on a CPU; a test holds each figure against a measured run. Knows no
tensors, no files and no torch.

Letters in formulas: those of `gptcli.model.parameters`, H n_heads, B texts, S tokens of each,
    N = B S.
"""

from dataclasses import dataclass

from gptcli.model.config import GPTConfig
from gptcli.model.parameters import BYTES, cache_bytes, count

PROGRAM = 250 << 20  # Python with PyTorch and nothing in it, roughly
GROUP = 32  # inputs that share a scale in int4
PROMPT_TOKENS = 512  # of all texts that are read in one step, beside one whole prompt

DTYPES = (*BYTES, "int8", "int4")
_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Running:
    """Bytes to write B texts of S tokens with one model.

    Attributes:
        weights: in the dtype they are computed with; positions and norms of int8 and int4 are
            float32, and the token embedding and head of int4 are int8.
        head_copy: a tied head of 8 bits once more, in the layout that the processor multiplies
            fastest; a float one has no copy, for the rows of its embedding are read from the file.
        cache: keys and values of all positions, float32 whatever the weights are.
        activations: of the longest step, which reads prompts: 3 E + F numbers a token.
        logits: of the B texts, with what sampling makes of them.
        loading: the most that is held before the first token, weights being read from a file:
            embedding and head in float beside their final form, or in the end all weights, and
            the floats of two layers with what rounding makes of them.
    """

    weights: int
    head_copy: int
    cache: int
    activations: int
    logits: int
    loading: int

    @property
    def total(self) -> int:
        """All of it while texts are being written, without PROGRAM."""
        return self.weights + self.head_copy + self.cache + self.activations + self.logits


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
        """All at once, as when gradients of several parts of a batch are added up."""
        fixed = self.weights + self.gradients + self.optimizer
        return fixed + self.activations + self.loss


def running(config: GPTConfig, dtype: str, texts: int, tokens: int) -> Running:
    """The memory to write `texts` texts at a time, `tokens` long each, prompt included."""
    V, E = config.vocab_size, config.emb_dim
    total = count(config).total
    head = _linear(V, E, "int8" if dtype == "int4" else dtype)
    step = min(texts * tokens, tokens + PROMPT_TOKENS)
    F, tied = config.hidden_dim, config.tie_weights
    layer = E * max(3 * E, F)
    if dtype in BYTES:
        weights = total * BYTES[dtype]
        head_copy = 0  # the embedding of a tied head stays in the file
        outer = (2 if tied else 3) * V * E * BYTES[dtype]
        outer += _FLOAT * V * E if dtype == "float16" else 0  # what its layout is made of
        beside = 2 * layer * BYTES[dtype]
    else:
        rest = total - count(config).matrices - (1 if tied else 2) * V * E
        weights = _FLOAT * rest + V * (E + _FLOAT) + _matrices(config, dtype) + (not tied) * head
        head_copy = head if tied else 0
        outer = (1 if tied else 2) * V * (E + _FLOAT) + _FLOAT * V * E
        beside = 2 * layer * (_FLOAT + (5 if dtype == "int4" else 1))
    return Running(
        weights=weights,
        head_copy=head_copy,
        cache=texts * cache_bytes(config, tokens),
        activations=step * (3 * E + F) * _FLOAT,
        logits=6 * texts * V * _FLOAT,
        loading=max(outer, weights + head_copy + beside),
    )


def _matrices(config: GPTConfig, dtype: str) -> int:
    """Bytes of the linear layers in all blocks: query, key and value are one of them."""
    E, F = config.emb_dim, config.hidden_dim
    shapes = ((3 * E, E), (E, E), (F, E), (E, F))
    return config.n_layers * sum(_linear(outputs, inputs, dtype) for outputs, inputs in shapes)


def _linear(outputs: int, inputs: int, dtype: str) -> int:
    """Bytes of one layer's matrix: int8 has a scale, a zero and a bias for each output; int4 has
    a scale and a zero, two bytes each, for each group of inputs, and a bias for each output.
    """
    if dtype == "int8":
        return outputs * inputs + outputs * (4 + 8 + 4)
    if dtype == "int4":
        return outputs * inputs // 2 + outputs * inputs // GROUP * 4 + outputs * 4
    return outputs * inputs * BYTES[dtype]


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
