"""The kernels alone, by width: `python tests/benchmarks/kernel_speed.py`.

Random weights of a GPT-2 shape; tokens per second of decoding after a prompt of 32, of a prompt of
512 and of 32 texts side by side. Widths take turns, and the best of all rounds counts: what else
runs on the machine only ever slows a round down.

The share of the bound is what decoding reaches of a plain read of its weights with the same
threads. The rate of a shared memory changes within seconds, so a few tokens and a read take turns;
the best token of each turn is compared with the best read, and the median of all turns is shown.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
from weights import SHAPES

from gptcli.diagnostics.machine import kernel_read
from gptcli.engine.native import NativeEngine, Span
from gptcli.model.config import GPTConfig

WIDTHS = ("float32", "bfloat16", "float16", "int8", "int4")
TURNS = 4  # of decoding and reading, in a round


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="124m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa")
    parser.add_argument("--width", action="append", choices=WIDTHS)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    asked = parser.parse_args()
    shape = SHAPES[asked.shape]
    config = GPTConfig(
        vocab_size=shape.vocab,
        context_length=shape.context,
        emb_dim=shape.emb_dim,
        n_heads=shape.n_heads,
        n_layers=shape.n_layers,
    )
    models = {}
    for width in asked.width or WIDTHS:
        start = perf_counter()
        models[width] = made(config, width, asked.threads, asked.isa)
        print(f"{width}: made in {perf_counter() - start:.2f} s", flush=True)
    best: dict[str, dict[str, float]] = {width: {} for width in models}
    shares: dict[str, list[float]] = {width: [] for width in models}
    for _ in range(asked.rounds):
        for width, model in models.items():
            found, some = measured(model, asked)
            shares[width] += some
            for name, speed in found.items():
                best[width][name] = max(best[width].get(name, 0), speed)
    build = next(iter(models.values())).build.name
    print(f"\n{asked.shape}, {asked.threads} threads, {build}; tokens per second, best of rounds\n")
    print("| width | decode | of the bound | read GB/s | prefill | batch |")
    print("|---|--:|--:|--:|--:|--:|")
    for width, found in best.items():
        share, low, high = median(shares[width]), min(shares[width]), max(shares[width])
        cells = [f"{found['decode']:.1f}", f"{share:.0%} ({low:.0%} to {high:.0%})"]
        cells += [f"{found['read']:.1f}", f"{found['prefill']:.0f}", f"{found['batch']:.0f}"]
        print(f"| {width} | {' | '.join(cells)} |")


def made(config: GPTConfig, width: str, threads: int, isa: str | None) -> NativeEngine:
    """A model of random weights."""
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        floats = draw.standard_normal(shape, np.float32) * np.float32(0.05)
        if width == "bfloat16":
            return (floats.view(np.uint32) >> 16).astype(np.uint16)
        return floats.astype(np.float16) if width == "float16" else floats

    E, inner, weights = config.emb_dim, config.hidden_dim, {}
    weights["tok_emb.weight"] = normal(config.vocab_size, E)
    weights["pos_emb.weight"] = normal(config.context_length, E)
    weights["final_norm.scale"] = np.ones(E, np.float32)
    sizes = {"att.out_proj": (E, E), "ff.layers.0": (inner, E), "ff.layers.2": (E, inner)}
    sizes |= {f"att.W_{part}": (E, E) for part in ("query", "key", "value")}
    for layer in range(config.n_layers):
        name = f"trf_blocks.{layer}"
        for norm in ("norm1", "norm2"):
            weights[f"{name}.{norm}.scale"] = np.ones(E, np.float32)
        for part, (rows, cols) in sizes.items():
            weights[f"{name}.{part}.weight"] = normal(rows, cols)
            weights[f"{name}.{part}.bias"] = normal(rows)
    rounding = width if width in {"int8", "int4"} else None
    return NativeEngine(config, weights, threads=threads, width=rounding, isa=isa)


def measured(
    model: NativeEngine, asked: argparse.Namespace
) -> tuple[dict[str, float], list[float]]:
    """The speeds of one round, and the shares of the bound."""
    context, V = model.config.context_length, model.config.vocab_size
    ids = np.random.default_rng(1).integers(0, V, context).tolist()
    cache = model.new_cache()
    length = min(asked.prefill, context)
    found = {"prefill": length / seconds(lambda: model.step([Span(cache, ids[:length])]))}
    cache = model.new_cache()
    model.step([Span(cache, ids[:32])])
    steps, reads, shares = [], [], []
    for turn in np.array_split(ids[: asked.new_tokens], TURNS):
        some = [seconds(lambda i=i: model.step([Span(cache, [i])])) for i in turn.tolist()]
        reads.append(kernel_read(model.weight_bytes, model.threads))
        shares.append(model.weight_bytes / min(some) / reads[-1])
        steps += some
    found["decode"], found["read"] = 1 / median(steps), max(reads) / 1e9
    caches = [model.new_cache(128) for _ in range(asked.rows)]
    model.step([Span(cache, ids[:32], 0) for cache in caches])
    tokens = ids[:8]
    taken = [seconds(lambda i=i: model.step([Span(c, [i]) for c in caches])) for i in tokens]
    found["batch"] = asked.rows / median(taken)
    return found, shares


def seconds(call: Callable[[], object]) -> float:
    """What a call takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


if __name__ == "__main__":
    main()
