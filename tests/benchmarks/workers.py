"""Workers: an engine and a width in a process each, asked in rounds.

What is missing or refuses is left out, with a word on standard error.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from engines import ENGINES, ROOT
from weights import SHAPES, huggingface

REST = 0.3  # seconds for the threads of one engine to fall asleep before the next begins


class Worker:
    """One engine at one width."""

    def __init__(self, engine: str, width: str, source: Path, options: argparse.Namespace) -> None:
        self.engine, self.width = engine, width
        python = dict(pair.split("=", 1) for pair in options.python).get(engine, sys.executable)
        script = Path(__file__).with_name("engines.py")
        command = [python, str(script), engine, width, str(source), str(options.threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        said = self._read()
        self.problem: str | None = said.get("problem")
        self.loaded: float = said.get("loaded", 0.0)

    @property
    def name(self) -> str:
        """Engine and width."""
        return f"{self.engine} {self.width}"

    def call(self, name: str, *arguments: Any) -> tuple[float, Any]:
        """Seconds and result of a call."""
        time.sleep(REST)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        self._process.stdin.flush()
        said = self._read()
        if "problem" in said:
            raise RuntimeError(f"{self.name}: {said['problem']}")
        return said["seconds"], said["result"]

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"problem": "the process ended"}


def options(description: str) -> argparse.ArgumentParser:
    """What both comparisons are told."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="124m")
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], metavar="ENGINE[:WIDTH]")
    parser.add_argument(
        "--python", action="append", default=[], metavar="ENGINE=PATH", help="another interpreter"
    )
    return parser


@contextmanager
def started(asked: argparse.Namespace, widths: dict[str, list[str]]) -> Iterator[list[Worker]]:
    """A worker for each engine and width that works here."""
    source = huggingface(SHAPES[asked.shape], asked.directory / asked.shape)
    workers: list[Worker] = []
    try:
        for engine in ENGINES:
            for width in widths.get(engine, []):
                if asked.only and not {engine, f"{engine}:{width}"} & set(asked.only):
                    continue
                worker = Worker(engine, width, source, asked)
                if worker.problem:
                    print(f"left out: {worker.name}: {worker.problem}", file=sys.stderr)
                else:
                    workers.append(worker)
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def conditions(asked: argparse.Namespace) -> str:
    """When, where and how: the line above a table."""
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    what = f"{asked.threads} threads, GPT-2 {asked.shape}, rounds {asked.rounds}"
    return f"{today}, {processor()}, {what}, median ± half the range"


def processor() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.machine()} ({os.cpu_count()} cores)"


def middle(values: list[float], digits: int = 0) -> str:
    """Median, and half of the range as a share of it."""
    centre = median(values)
    spread = (max(values) - min(values)) / 2 / centre
    return f"{centre:,.{digits}f} ±{spread:.0%}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
