"""What decoding keeps of its speed beside another busy process.

`python tests/benchmarks/busy.py`: gptcli at every width, and whichever peers are named with --only,
each quiet and beside a process that spins on one core, in turn, round after round.
"""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from compare import prompt
from engines import ENGINES
from workers import Worker, conditions, middle, options, started, table

SPIN = "while True: pass"
WARM_TOKENS = 24  # a change of company is noticed within so many


def main() -> None:
    """Measure and print a Markdown table."""
    parser = options(str(__doc__).partition("\n")[0])
    parser.set_defaults(rounds=3)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    asked = parser.parse_args()
    asked.only = asked.only or ["gptcli"]
    with started(asked, {name: list(engine.widths) for name, engine in ENGINES.items()}) as workers:
        quiet: dict[str, list[float]] = {worker.name: [] for worker in workers}
        busy: dict[str, list[float]] = {worker.name: [] for worker in workers}
        for number in range(asked.rounds):
            ids = prompt(asked, asked.prompt, number)
            for worker in random.Random(number).sample(workers, len(workers)):
                quiet[worker.name].append(speed(worker, ids, asked.new_tokens))
                with spinning():
                    busy[worker.name].append(speed(worker, ids, asked.new_tokens))
    print(f"{conditions(asked)}; tokens per second, decoding:\n")
    rows = [
        [name, middle(quiet[name]), middle(busy[name]), kept(quiet[name], busy[name])]
        for name in quiet
    ]
    print(table(["engine and weights", "quiet", "one core busy", "kept"], rows))


def speed(worker: Worker, ids: list[int], new_tokens: int) -> float:
    """Tokens per second after the first few."""
    worker.call("write", ids, WARM_TOKENS)
    short = worker.call("write", ids, WARM_TOKENS)[0]
    long = worker.call("write", ids, WARM_TOKENS + new_tokens)[0]
    return new_tokens / (long - short)


@contextmanager
def spinning() -> Iterator[None]:
    """Another process takes all it can get of a core."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def kept(quiet: list[float], busy: list[float]) -> str:
    """The median share, of the same rounds."""
    return f"{median(b / q for q, b in zip(quiet, busy, strict=True)):.0%}"


if __name__ == "__main__":
    main()
