"""A tiny model of bytes and batches over it, in this process and as one."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from engines import engine_of
from safetensors.torch import save_file
from tokenizer_files import byte_ranks, write_ranks

from gptcli.batch.io.inputs import open_file
from gptcli.batch.io.tables import input_lines
from gptcli.batch.job import JobSpec
from gptcli.batch.output import Mode, open_output
from gptcli.batch.request import RecordReader
from gptcli.batch.result_lines import header
from gptcli.batch.runner import RecordStream, Tally, run_job
from gptcli.batch.worker import BatchWorker
from gptcli.engine.interface import Engine
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, untrained
from gptcli.sampling.params import SamplingParams
from gptcli.tokenizer.encodings import TiktokenTokenizer
from gptcli.tokenizer.tokenizer import Tokenizer

CONFIG = {
    "vocab_size": 257,
    "context_length": 48,
    "emb_dim": 32,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
    "tokenizer": "bytes.tiktoken",
}
IDENTITY = {"model": None, "config": "c", "weights": "w", "tokenizer": "t", "dtype": "float32"}
SPEC = JobSpec(seed=7, params=SamplingParams(max_new_tokens=6, temperature=1.2))


@cache
def tiny_book() -> GPTModel:
    """The tiny model as the book's network."""
    return untrained(GPTConfig(**CONFIG), seed=1)  # type: ignore[arg-type]


@cache
def tiny_model() -> Engine:
    return engine_of(tiny_book())


@cache
def bytes_tokenizer() -> Tokenizer:
    """A token for each byte, and the end of text after them."""
    import tiktoken

    ranks = {bytes([b]): b for b in range(256)}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 256}
    )
    return TiktokenTokenizer(encoding)


def worker(spec: JobSpec = SPEC, rows: int = 4, **more: Any) -> BatchWorker:
    return BatchWorker(tiny_model(), bytes_tokenizer(), spec, rows=rows, **more)


def write(
    source: Path,
    output: Path,
    spec: JobSpec = SPEC,
    rows: int = 4,
    mode: Mode = "new",
    *,
    answers: Callable[[], Any] | None = None,
    poll: Callable[[], object] = lambda: None,
) -> Tally:
    """One batch in this process."""
    tally = Tally()
    with open_file(source) as opened:
        run_job(
            open_output(output, header(spec, IDENTITY), mode),
            input_lines(str(source), opened, spec.column),
            spec,
            answers or (lambda: worker(spec, rows)),
            tally,
            poll=poll,
        )
    return tally


def prompts(path: Path, count: int) -> Path:
    """Records of all kinds: sampled, greedy, several samples, stopped, and bad in many ways."""
    kinds: list[Callable[[int], object]] = [
        lambda n: {"prompt": f"prompt {n}"},
        lambda n: {"prompt": "x" * (n % 40 + 1), "id": f"id {n}", "max_new_tokens": n % 13},
        lambda n: {"prompt": f"naïve {n}", "temperature": 0},
        lambda n: {"prompt": "b", "num_samples": 3, "top_k": 5, "max_new_tokens": 4},
        lambda n: {"prompt": "c" * 60},
        lambda n: {"custom_id": f"c{n}", "body": {"prompt": "d", "max_tokens": 3, "n": 2}},
        lambda n: {"prompt": "e", "stop": ["a", "\x00", "é"], "seed": n},
        lambda n: [n],
    ]
    lines = [json.dumps(kinds[n % len(kinds)](n)) for n in range(count)]
    lines[count // 2 : count // 2] = ["", "{", "   ", "null"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def tiny_directory(path: Path) -> Path:
    """The same kind of model as files."""
    path.mkdir(exist_ok=True)
    config = {**CONFIG, "vocab_size": 256}
    model = untrained(GPTConfig(**config), seed=1)  # type: ignore[arg-type]
    (path / "config.json").write_text(json.dumps(config))
    write_ranks(path / "bytes.tiktoken", byte_ranks())
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, path / "model.safetensors"
    )
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The records of an output, its header left out."""
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()[1:]]


class Canned:
    """Answers that were computed once: for tests of all that is not the model."""

    def __init__(self, source: Path, spec: JobSpec = SPEC) -> None:
        self._results: dict[int, Any] = {}
        with open_file(source) as opened:
            reading = RecordStream(opened.lines(), RecordReader(spec), lambda: None)
            worker(spec, rows=8).run(reading, self._keep)

    def _keep(self, result: Any) -> None:
        self._results[getattr(result, "record", result).line] = result

    def run(self, records: Any, emit: Any) -> None:
        for record in records:
            if record is not None:
                emit(self._results[record.line])


class Short:
    """An engine that finds no memory now and then.

    For more texts than `most`, for a prompt's scores beside more texts than `beside`, or at one
    step.
    """

    def __init__(
        self,
        engine: Engine,
        error: Exception,
        most: int = 99,
        at_step: int | None = None,
        beside: int = 99,
    ) -> None:
        self._engine, self._error, self._most, self._at_step = engine, error, most, at_step
        self._beside, self.config, self.new_cache = beside, engine.config, engine.new_cache
        self.steps = self.widest = 0

    def step(self, spans: Any) -> Any:
        is_scored = any(span.n_logits > 1 for span in spans)
        if is_scored and (self._beside == 0 or self.widest > self._beside):
            self.widest = 0
            raise self._error
        self.widest = max(self.widest, len(spans))
        self.steps += 1
        if len(spans) > self._most or self.steps == self._at_step:
            raise self._error
        return self._engine.step(spans)
