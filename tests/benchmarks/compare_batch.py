"""Many prompts of mixed length, as `gptcli batch` meets them, next to its peers.

`python tests/benchmarks/compare_batch.py`: prompts of 8 to 400 tokens, each with 16 to 200 new
ones, from a seed. gptcli fills a row as soon as it is free; transformers and CTranslate2 get groups
of 32 that end at about the same length, which suits them best; llama.cpp takes one after the
other. Counted are the tokens asked for; a peer's further ones are its own. Prints markdown.
"""

import argparse
import random
import sys
from statistics import median

from weights import SHAPES
from workers import conditions, middle, options, started, table

WIDTHS = {
    "gptcli": ["float32", "float16", "bfloat16", "int8", "int4"],
    "transformers": ["float32", "bfloat16"],
    "CTranslate2": ["float32", "int8"],
    "llama.cpp": ["Q8_0", "Q4_0"],
}


def main() -> None:
    """Measure and print."""
    asked = arguments(str(__doc__).partition("\n")[0]).parse_args()
    prompts, new_tokens = work(asked)
    with started(asked, WIDTHS) as workers:
        for worker in workers:  # warm up
            worker.call("batch", prompts[:4], [4] * len(prompts[:4]))
        speeds: dict[str, list[float]] = {worker.name: [] for worker in workers}
        for number in range(asked.rounds):
            for worker in random.Random(number).sample(workers, len(workers)):
                seconds, tokens = worker.call("batch", prompts, new_tokens)
                speeds[worker.name].append(tokens / seconds)
                print(f"round {number + 1}: {worker.name}: {seconds:.1f} s", file=sys.stderr)
    amount = f"{sum(map(len, prompts)):,} tokens in and {sum(new_tokens):,} out"
    print(f"{conditions(asked)}; {len(prompts)} prompts, {amount}; new tokens per second:\n")
    own = [name for name in speeds if name.startswith("gptcli")]
    rows = [
        [name, middle(values), *(ratio(speeds[one], values) for one in own)]
        for name, values in speeds.items()
    ]
    print(table(["engine", "tokens/s", *(f"{name}, times" for name in own)], rows))


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line: what there is to write."""
    parser = options(description)
    parser.set_defaults(rounds=1)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--in-tokens", type=int, nargs=2, default=(8, 400), metavar="N")
    parser.add_argument("--out-tokens", type=int, nargs=2, default=(16, 200), metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def work(asked: argparse.Namespace) -> tuple[list[list[int]], list[int]]:
    """The prompts, and how many tokens each is to get."""
    draw = random.Random(asked.seed)
    vocab = SHAPES[asked.shape].vocab - 1
    prompts = [
        [draw.randrange(vocab) for _ in range(draw.randint(*asked.in_tokens))]
        for _ in range(asked.prompts)
    ]
    return prompts, [draw.randint(*asked.out_tokens) for _ in prompts]


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Of the same rounds."""
    return f"{median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}"


if __name__ == "__main__":
    main()
