"""How fast gptcli writes many texts, by how many it writes at once.

`python tests/benchmarks/rows.py`: the prompts of `compare_batch.py`, fewer of them, at several
batch sizes in turn, round after round. Prints markdown.
"""

import random
import sys
from collections import defaultdict

from compare_batch import WIDTHS, arguments, work
from workers import conditions, middle, started, table


def main() -> None:
    """Measure and print."""
    parser = arguments(str(__doc__).partition("\n")[0])
    parser.set_defaults(prompts=64)
    parser.add_argument("--sizes", type=int, nargs="+", default=(1, 4, 8, 16, 32, 64))
    parser.add_argument("--width", nargs="+", default=["float32", "int8"], choices=WIDTHS["gptcli"])
    asked = parser.parse_args()
    prompts, new_tokens = work(asked)
    speeds: dict[tuple[str, int], list[float]] = defaultdict(list)
    with started(asked, {"gptcli": asked.width}) as workers:
        for worker in workers:
            worker.call("batch", prompts[:2], [2, 2])  # loads the model
        runs = [(worker, size) for worker in workers for size in asked.sizes]
        for number in range(asked.rounds):
            for worker, size in random.Random(number).sample(runs, len(runs)):
                seconds, tokens = worker.call("batch", prompts, new_tokens, size)
                speeds[worker.width, size].append(tokens / seconds)
                print(f"{worker.name}, {size} at once: {seconds:.1f} s", file=sys.stderr)
    amount = f"{sum(map(len, prompts)):,} tokens in and {sum(new_tokens):,} out"
    print(f"{conditions(asked)}; {len(prompts)} prompts, {amount}; new tokens per second:\n")
    lines = [[str(n), *(middle(speeds[width, n]) for width in asked.width)] for n in asked.sizes]
    print(table(["texts at once", *asked.width], lines))


if __name__ == "__main__":
    main()
