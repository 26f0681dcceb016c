"""What `gptcli batch` promises, measured: kills that change nothing, memory, workers under Ray.

`python tests/benchmarks/endurance.py kills` kills one job after another at random moments, at
random batch sizes, and compares every output with that of a job left alone. `memory` reads lines
that cost no text but go the whole way: they are read, parsed, looked up by id, answered with what
is wrong with them, and written; the bytes that each further line takes are those of the table of
ids. `workers` is the same job in one process and under Ray. Prints markdown.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from workers import ROOT, processor, table

OK = (0, 4)  # all records answered, or all but those that are bad

# What records may ask for, one after the other.
ASKED: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"num_samples": 3, "top_k": 20, "max_new_tokens": 6},
    {"stop": [".", "the"], "seed": 5},
    {"top_p": 0.8, "repetition_penalty": 1.3, "logprobs": 2},
    {"max_new_tokens": 0},
    {"min_p": 0.1, "no_repeat_ngram": 2, "presence_penalty": 0.5},
]
# What is wrong with some of them.
BAD = [
    b"{",
    b"[1]",
    b'{"prompt": "\xff"}',
    b'{"prompt": ""}',
    b'{"prompt": "a", "id": "first"}',
    b'{"prompt": "a", "temperatur": 1}',
    b'{"prompt": "a", "top_p": 7}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "' + b"very " * 5000 + b'long"}',
    b'{"prompt": "a", "prompt": "b"}',
]


def main() -> None:
    """Measure and print."""
    asked = arguments()
    with tempfile.TemporaryDirectory(dir=asked.directory) as directory:
        heading, *rows = MEASURES[asked.measure](asked, Path(directory))
    print(f"{datetime.now(timezone.utc):%Y-%m-%d}, {processor()}, {asked.threads} threads each:\n")
    print(table(heading, rows))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--model", help="the built-in one without it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where files are written for a while")
    parser.add_argument("--records", type=int, default=200, help="of a job")
    parser.add_argument("--new-tokens", type=int, default=24, help="at most, for each text")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    sizes = [10_000, 1_000_000, 10_000_000]
    parser.add_argument("--lines", type=int, nargs="+", default=sizes, metavar="N", help="with ids")
    parser.add_argument("--plain", type=int, nargs="+", default=sizes, metavar="N", help="without")
    return parser.parse_args()


def kills(asked: argparse.Namespace, directory: Path) -> list[list[str]]:
    """Jobs killed again and again until they are done."""
    source, draw = requests(directory / "in.jsonl", asked.records), random.Random(asked.seed)
    expected, output = directory / "expected.jsonl", directory / "killed.jsonl"
    start = time.monotonic()
    finished(asked, source, expected)
    seconds, whole = time.monotonic() - start, expected.read_bytes()
    killed = writing = jobs = different = 0
    while killed < asked.kills:
        output.unlink(missing_ok=True)
        for wrote in until_done(asked, source, output, draw, seconds):
            killed, writing = killed + 1, writing + wrote
            print(f"kill {killed} of job {jobs + 1}", file=sys.stderr)
        jobs, different = jobs + 1, different + (output.read_bytes() != whole)
    head = ["records of a job", "jobs", "kills", "of these while writing", "outputs that differ"]
    count = whole.count(b"\n") - 1
    return [head, [f"{number:,}" for number in (count, jobs, killed, writing, different)]]


def until_done(
    asked: argparse.Namespace, source: Path, output: Path, draw: random.Random, seconds: float
) -> Iterator[bool]:
    """Each kill of one job, and whether the job had written something since the one before."""
    while True:
        size = output.stat().st_size if output.exists() else 0
        more = ["--resume", "--batch-size", draw.randint(1, 12)]
        process = subprocess.Popen(command(asked, source, output, *more), **quiet())
        try:
            code = process.wait(draw.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code in OK:
            return
        if code != -9:
            raise SystemExit(f"a job ended by itself, with exit code {code}")
        wrote = output.exists() and output.stat().st_size > size
        seconds *= 1 if wrote else 1.2  # a machine that became slow must not kill for ever
        yield wrote


def memory(asked: argparse.Namespace, directory: Path) -> list[list[str]]:
    """The most memory that jobs of more and more lines held."""
    rows = [["lines", "ids", "peak MB", "MB over the fewest lines", "bytes for each more", "CPU s"]]
    kinds: list[tuple[str, Sequence[int], Callable[[int], bytes], list[str]]] = [
        ("none", asked.plain, lambda _n: b"\xff\n", ["--text"]),  # not UTF-8
        ("all differ", asked.lines, lambda n: b'{"id": "record %d", "prompt": ""}\n' % n, []),
    ]
    for name, sizes, line, more in kinds:
        first = None
        for count in sizes:
            peak, seconds = peak_of(asked, directory, map(line, range(count)), more)
            first = first or (count, peak)
            grown, lines = peak - first[1], count - first[0]
            each = f"{grown / lines:.1f}" if lines else ""
            rows.append([f"{count:,}", name, *(f"{x / 1e6:,.0f}" for x in (peak, grown)), each])
            rows[-1].append(f"{seconds:,.0f}")
            print(" ".join(rows[-1]), file=sys.stderr)
    return rows


def peak_of(
    asked: argparse.Namespace, directory: Path, lines: Iterator[bytes], more: list[str]
) -> tuple[int, float]:
    """Bytes that one job held at most, and its seconds on a processor."""
    source, output = directory / "in", directory / "out"
    with source.open("wb") as file:
        file.writelines(lines)
    process = subprocess.Popen(command(asked, source, output, *more), **quiet())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in OK:
        raise SystemExit(f"a job ended with exit code {process.returncode}")
    output.unlink()
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, usage.ru_utime + usage.ru_stime


def workers(asked: argparse.Namespace, directory: Path) -> list[list[str]]:
    """The same job in one process and by Ray's workers."""
    source = requests(directory / "in.jsonl", asked.records)
    rows = [["", "s in all", "to begin and end", "at work", "records/s at work", "same bytes"]]
    whole = b""
    for count in (0, *asked.workers):
        output = directory / f"out{count}.jsonl"
        start = time.monotonic()
        more = ["--engine", "ray", "--workers", count] if count else []
        summary = finished(asked, source, output, *more)
        seconds, work = time.monotonic() - start, summary["seconds"]
        whole = whole or output.read_bytes()
        name = f"Ray, workers: {count}" if count else "one process"
        times = [f"{x:,.1f}" for x in (seconds, seconds - work, work, summary["records"] / work)]
        rows.append([name, *times, "yes" if output.read_bytes() == whole else "NO"])
        print(" ".join(rows[-1]), file=sys.stderr)
    return rows


def requests(path: Path, count: int) -> Path:
    """An input of many kinds of records, one in twelve of them bad."""
    lines = []
    for number in range(count):
        if number % 12 == 7:
            lines.append(BAD[number // 12 % len(BAD)])
        elif number % 12 == 3:
            body = {
                "prompt": f"The {number}th dog",
                "max_tokens": number % 20,
                "n": 2,
                "echo": True,
            }
            lines.append(json.dumps({"custom_id": f"c{number}", "body": body}).encode())
        else:
            prompt = "Once upon a time, " * (number % 4) + f"a cat named Zoë the {number}th"
            id = f"record {number}" if number else "first"
            record = {"id": id, "prompt": prompt, **ASKED[number % len(ASKED)]}
            lines.append(json.dumps(record).encode())
    path.write_bytes(b"\n".join(lines) + b"\n\n")
    return path


def finished(asked: argparse.Namespace, *what: Any) -> dict[str, Any]:
    """One job left alone: its summary."""
    done = subprocess.run(
        command(asked, *what, "--json"), check=False, **{**quiet(), "stdout": subprocess.PIPE}
    )
    if done.returncode not in OK:
        raise SystemExit(f"a job ended with exit code {done.returncode}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def command(asked: argparse.Namespace, source: Path, output: Path, *more: Any) -> list[str]:
    """`gptcli batch`."""
    fixed = ["--seed", 1, "--max-new-tokens", asked.new_tokens, "--threads", asked.threads, "-q"]
    model = ["--model", asked.model] if asked.model else []
    parts = [sys.executable, "-m", "gptcli", "batch", source, "-o", output, *fixed, *model, *more]
    return [str(part) for part in parts]


def quiet() -> dict[str, Any]:
    """How a job runs: this checkout, nothing on the terminal."""
    silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return {**silent, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}


MEASURES = {"kills": kills, "memory": memory, "workers": workers}

if __name__ == "__main__":
    main()
