"""Digests of the native engine's logits, the same on every machine.

The weights are exact fractions computed from integers, so that they depend on no random number
generator and no library.
"""

from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptcli.engine.interface import Span
from gptcli.engine.quantize import bfloat16
from gptcli.model.config import GPTConfig
from gptcli.model.parameters import architecture, tensors

CONFIG = GPTConfig(
    vocab_size=131, context_length=40, emb_dim=96, n_heads=3, n_layers=2, qkv_bias=True
)
DIGESTS = {
    "float32": "4befbf0251b2ec10",
    "bfloat16": "c49c1ec3ea53edae",
    "float16": "cab618c0cc63b1db",
    "int8": "0ee5c4f414de5b5a",
    "int4": "be0998e0c41abf45",
}


def golden_digest(width: str, build: str | None = None, threads: int = 2) -> str:
    """The first 16 hex digits of the SHA-256 of all logits of one sequence.

    Args:
        width: of the weights: float32, bfloat16, float16, int8 or int4.
        build: of the kernels; None is the best for this processor.
        threads: that compute.
    """
    from gptcli.engine.native import NativeEngine  # noqa: PLC0415

    rounded: Any = width if width.startswith("int") else None
    engine = NativeEngine(CONFIG, _weights(width), threads=threads, width=rounded, isa=build)
    ids = [n * n % CONFIG.vocab_size for n in range(CONFIG.context_length)]
    logits = engine.step([Span(engine.new_cache(), ids, len(ids))])
    return sha256(np.ascontiguousarray(logits, np.float32).tobytes()).hexdigest()[:16]


def _weights(width: str) -> dict[str, NDArray[Any]]:
    narrow: Any = {"bfloat16": bfloat16, "float16": np.float16}.get(width, np.float32)
    return {
        name: narrow(_fractions(number, shape))
        for number, (name, shape) in enumerate(tensors(architecture(CONFIG)))
    }


def _fractions(number: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Multiples of 2**-16 from -1/2 to 1/2, by a linear congruential generator."""
    index = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(7919 * number)
    bits = (index * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)) >> np.uint64(
        48
    )
    return ((bits.astype(np.int64) - 32768) / 65536).astype(np.float32).reshape(shape)
