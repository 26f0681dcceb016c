"""gptcli next to its peers on this machine: `python tests/benchmarks/compare.py`.

Builds one random GPT-2 in every engine's format, checks that greedy tokens agree, measures the
engines in turn, round after round, and prints markdown: speeds, and how many times as fast gptcli
is, at its best width of as many bits, as each peer. Needs the extra `compare`; a peer that is not
installed is left out. llama-cpp-python is to be built from source for the processor it runs on;
OpenVINO's models are exported by optimum-cli (OPTIMUM_CLI), from another environment if need be
(--python OpenVINO=/path/to/python).
"""

import argparse
import random
import sys
from collections import defaultdict
from statistics import median

from engines import ENGINES
from weights import SHAPES
from workers import Worker, conditions, middle, options, started, table

MEASURES = ("decode", "prefill", "batch")
BITS = {
    "32": {"float32", "F32"},
    "16": {"float16", "bfloat16", "F16", "BF16", "fp32"},  # OpenVINO's is bfloat16 where it can
    "8": {"int8", "Q8_0"},
    "4": {"int4", "Q4_0"},
}
NO_BATCH = {"llama.cpp", "OpenVINO"}
Speeds = dict[str, dict[str, list[float]]]  # worker → measure → tokens/s, round by round


def main() -> None:
    """Measure and print."""
    asked = arguments()
    widths = {name: list(engine.widths) for name, engine in ENGINES.items()}
    with started(asked, widths) as workers:
        said = agreement(workers, asked)
        speeds: Speeds = {worker.name: defaultdict(list) for worker in workers}
        for number in range(asked.rounds):
            order = random.Random(number).sample(workers, len(workers))
            for worker in order:
                try:
                    measure(worker, speeds[worker.name], asked, number)
                except (RuntimeError, OSError) as problem:  # it is left out, the others go on
                    workers.remove(worker)
                    print(problem, file=sys.stderr)
            print(f"round {number + 1} of {asked.rounds}", file=sys.stderr)
    show(asked, workers, speeds, said)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options(str(__doc__).partition("\n")[0])
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--rows", type=int, default=32, help="texts of the batch; 0: none")
    parser.add_argument("--row-tokens", type=int, default=64)
    return parser.parse_args()


def prompt(asked: argparse.Namespace, length: int, seed: int) -> list[int]:
    """Another one in each round: some engines remember prompts."""
    draw = random.Random(seed)
    return [draw.randrange(SHAPES[asked.shape].vocab - 1) for _ in range(length)]


def agreement(workers: list[Worker], asked: argparse.Namespace) -> dict[str, str]:
    """How many greedy tokens of each are those of the first; it warms everything up as well."""
    said, reference = {}, None
    ids = prompt(asked, asked.prompt, -1)
    for worker in workers:
        made = worker.call("write", ids, asked.new_tokens)[1]
        worker.call("write", prompt(asked, asked.prefill, -1), 1)
        reference = reference or made
        pairs = list(zip(made, reference, strict=True))
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))
        said[worker.name] = f"{same} of {len(pairs)}"
    return said


def measure(
    worker: Worker, speeds: dict[str, list[float]], asked: argparse.Namespace, number: int
) -> None:
    """One round of one engine."""
    long, short = prompt(asked, asked.prefill, number), prompt(asked, asked.prompt, number)
    speeds["prefill"].append(asked.prefill / worker.call("write", long, 1)[0])
    first, all_ = 1.0, 0.0
    while all_ <= first:  # a pause of the machine can make one token take longer than many
        first = worker.call("write", short, 1)[0]
        all_ = worker.call("write", short, asked.new_tokens)[0]
    speeds["decode"].append((asked.new_tokens - 1) / (all_ - first))
    if asked.rows and worker.engine not in NO_BATCH:
        prompts = [prompt(asked, asked.prompt, number * 1000 + row) for row in range(asked.rows)]
        worker.call("batch", prompts[:2], [2, 2])  # what an engine does once for batches
        seconds, tokens = worker.call("batch", prompts, [asked.row_tokens] * asked.rows)
        speeds["batch"].append(tokens / seconds)


def show(
    asked: argparse.Namespace, workers: list[Worker], speeds: Speeds, said: dict[str, str]
) -> None:
    """Both tables."""
    print(f"{conditions(asked)}; tokens per second:\n")
    header = ["engine", "weights", f"decode, after {asked.prompt}", f"prefill {asked.prefill}"]
    header += [f"batch {asked.rows}", "import and load, s", "greedy tokens as the first"]
    rows = []
    for worker in workers:
        cells = [cell(speeds[worker.name][name]) for name in MEASURES]
        rows.append(
            [worker.engine, worker.width, *cells, f"{worker.loaded:.1f}", said[worker.name]]
        )
    print(table(header, rows))
    print("\nHow many times as fast gptcli is (median of the rounds' ratios):\n")
    print(table(["bits", "peer", "gptcli", *MEASURES], list(ratios(workers, speeds))))


def ratios(workers: list[Worker], speeds: Speeds) -> list[list[str]]:
    """A row for each peer, next to gptcli at as many bits."""
    rows = []
    for bits, widths in BITS.items():
        ours = [w for w in workers if w.engine == "gptcli" and w.width in widths]
        if not ours:
            continue
        own = max(ours, key=lambda worker: median(speeds[worker.name]["decode"]))
        for peer in (w for w in workers if w.engine != "gptcli" and w.width in widths):
            pairs = [(speeds[own.name][name], speeds[peer.name][name]) for name in MEASURES]
            rows.append([bits, peer.name, own.width, *(ratio(a, b) for a, b in pairs)])
    return rows


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Of the same rounds."""
    if not theirs or not ours:
        return ""
    return f"{median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}"


def cell(values: list[float]) -> str:
    """Empty where an engine has no such measure."""
    return middle(values) if values else ""


if __name__ == "__main__":
    main()
