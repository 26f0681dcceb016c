"""Digests of logits that every machine must meet: models of odd shapes, at every width.

`python tests/engine/test_golden.py` prints the table anew. A digest changes only when the
arithmetic of docs/engine.md does, and then texts change too.
"""

import sys
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from native_models import at_width, random_weights

from gptcli.engine import library
from gptcli.engine.native import NativeEngine, Span
from gptcli.model.config import GPTConfig

pytestmark = pytest.mark.skipif(
    library.why_unavailable() is not None, reason="needs the kernels, and so a C compiler"
)

CASES: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {
    "heads of 3": (
        {"vocab_size": 53, "context_length": 29, "emb_dim": 21, "n_heads": 7, "n_layers": 3},
        {},
    ),
    "no biases, head of its own": (
        {"vocab_size": 70, "context_length": 40, "emb_dim": 64, "n_heads": 4, "n_layers": 2},
        {"bias": False, "qkv_bias": False, "tied": False},
    ),
    "one wide head, exact gelu": (
        {
            "vocab_size": 33,
            "context_length": 50,
            "emb_dim": 75,
            "n_heads": 1,
            "n_layers": 2,
            "n_inner": 50,
            "activation": "gelu",
        },
        {"qkv_bias": False},
    ),
    "GPT-2's heads, wide inside": (
        {
            "vocab_size": 300,
            "context_length": 600,
            "emb_dim": 128,
            "n_heads": 2,
            "n_layers": 1,
            "n_inner": 1056,
            "activation": "silu",
            "scale_attn_by_inverse_layer_idx": True,
        },
        {},
    ),
    "unscaled, quick gelu": (
        {
            "vocab_size": 17,
            "context_length": 70,
            "emb_dim": 96,
            "n_heads": 2,
            "n_layers": 4,
            "activation": "quick_gelu",
            "layer_norm_epsilon": 1e-3,
            "scale_attn_weights": False,
        },
        {},
    ),
}
WIDTHS = ("float32", "bfloat16", "float16", "int8", "int4")
DIGESTS: dict[str, list[str]] = {
    "heads of 3": [
        "9ead5c2e65af37c3",
        "19d04bfde92ac7b0",
        "13efdc2d0af386d1",
        "4efa3d4399d1aa42",
        "-",
    ],
    "no biases, head of its own": [
        "9f6c8a0e2f73bb19",
        "f2d4ea0394cadc13",
        "ebde26a1ad623212",
        "02a552839f76eb86",
        "db68a3b1e730a4da",
    ],
    "one wide head, exact gelu": [
        "ee06b6f7641e539c",
        "34d0d8469cdf011d",
        "35cb7b1d886629c9",
        "a3e4e2c80a49f4da",
        "-",
    ],
    "GPT-2's heads, wide inside": [
        "1927f11718371302",
        "0f70cb2c5482d2bd",
        "be87872b962c7897",
        "b0dcc6de16b16c46",
        "f464d0bf7213d433",
    ],
    "unscaled, quick gelu": [
        "1e867a855500ae85",
        "c5863d03a1b43b9b",
        "ee11efe838c9523f",
        "036df38c4c1c5b1d",
        "a0e8f1970ace300d",
    ],
}


def digest(case: str, width: str, isa: str) -> str:
    """Of all logits of a text that fills the context; int4 where the shape allows it."""
    sizes, parts = CASES[case]
    config = GPTConfig(**sizes)
    if width == "int4" and (config.emb_dim % 32 or config.hidden_dim % 32):
        return "-"
    rounding: Any = width if width in {"int8", "int4"} else None
    weights = at_width(random_weights(config, seed=11, **parts), width)
    model = NativeEngine(config, weights, threads=2, width=rounding, isa=isa)
    ids = [(n * n + 5 * n + 3) % config.vocab_size for n in range(config.context_length)]
    cache = model.new_cache()
    logits = np.concatenate(
        [model.step([Span(cache, part, len(part))]) for part in (ids[:7], ids[7:8], ids[8:])]
    )
    assert np.isfinite(logits).all()
    return sha256(logits.tobytes()).hexdigest()[:16]


@cache
def builds() -> list[str]:
    return [build.name for build in library.builds() if build.is_supported]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", WIDTHS)
def test_logits_have_the_recorded_digest_in_every_build(case: str, width: str) -> None:
    found = {isa: digest(case, width, isa) for isa in builds()}
    assert found == dict.fromkeys(found, DIGESTS[case][WIDTHS.index(width)])


def main() -> None:
    for case in CASES:
        digests = ", ".join(f'"{digest(case, width, "plain")}"' for width in WIDTHS)
        sys.stdout.write(f'    "{case}": [{digests}],\n')


if __name__ == "__main__":
    main()
