"""A Ray worker process: a model that answers the records it is sent.

Each call waits in a thread of its own, and one thread decodes the records of all calls together, so
that the batch stays full from one chunk to the next.
"""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from gptcli.batch.fingerprint import identity
from gptcli.batch.job import JobSpec
from gptcli.batch.request import Failure, Record
from gptcli.batch.result_lines import Answer, differences
from gptcli.batch.worker import BatchWorker
from gptcli.core.errors import GptcliError, InputError, RunError, UsageError
from gptcli.core.escape import listed
from gptcli.generation.llm import LLM
from gptcli.generation.model_spec import ModelSpec
from gptcli.model.memory_estimate import default_batch_size
from gptcli.version import __version__

Result = Answer | Failure
_KINDS = {kind.__name__: kind for kind in (RunError, UsageError, InputError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What a worker needs to give the same answers as any other process of the job.

    Attributes:
        model: which, and how it computes; paths are absolute.
        spec: of the job.
        identity: model and version in the output's header; a worker where they differ refuses.
        rows: sequences at a time, None for as many as its memory allows.
        sharing: how many workers share a machine's memory, at most.
        max_tokens: of all active sequences together.
    """

    model: ModelSpec
    spec: JobSpec
    identity: Mapping[str, Any]
    rows: int | None = None
    sharing: int = 1
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Reply to `load`: where the worker runs, and how many sequences it decodes at a time."""

    node: str
    process: int
    rows: int


@dataclass(frozen=True, slots=True)
class PackedError:
    """A GptcliError as it is sent between processes."""

    kind: str
    where: str
    problem: str
    hint: str

    @classmethod
    def of(cls, error: GptcliError) -> "PackedError":
        """Pack an error, which itself does not survive pickling."""
        return cls(type(error).__name__, error.where, error.problem, error.hint)

    def unpacked(self) -> GptcliError:
        """The error again."""
        return _KINDS.get(self.kind, RunError)(self.where, self.problem, self.hint)


@dataclass(slots=True)
class _Call:
    """One call of `answer`, and how many of its records have no answer yet."""

    left: int
    results: list[Result] = field(default_factory=list)
    done: "Future[list[Result]]" = field(default_factory=Future)


class RayWorker:
    """The actor: `load` comes first, then `answer` from many threads at once."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._queue: SimpleQueue[Record] = SimpleQueue()
        self._waiting: dict[int, _Call] = {}  # by line
        self._lock = Lock()
        self._fault: BaseException | None = None

    def load(self) -> Ready | PackedError:
        """Load the model, check that it is the job's, and start decoding."""
        try:
            worker, rows = self._batch_worker()
        except GptcliError as error:
            return PackedError.of(error)
        Thread(target=self._work, args=(worker,), daemon=True).start()
        return Ready(socket.gethostname(), os.getpid(), rows)

    def answer(self, records: Sequence[Record]) -> list[Result] | PackedError:
        """Answer records; the results come in no order.

        A GptcliError of the model, now or earlier, is returned; any other exception is raised.
        """
        call = _Call(len(records))
        with self._lock:
            if self._fault is not None:
                call.done.set_exception(self._fault)
            self._waiting.update((record.line, call) for record in records)
        for record in records:
            self._queue.put(record)
        try:
            return call.done.result()
        except GptcliError as error:
            return PackedError.of(error)

    def _batch_worker(self) -> tuple[BatchWorker, int]:
        plan = self._plan
        llm = LLM.open(plan.model)
        _require_same(plan, llm)
        rows = plan.rows or max(1, default_batch_size(llm.config) // plan.sharing)
        most = plan.max_tokens
        worker = BatchWorker(llm.engine, llm.tokenizer, plan.spec, rows=rows, max_tokens=most)
        return worker, rows

    def _work(self, worker: BatchWorker) -> None:
        """Decode for ever; an exception that ends it is given to every waiting call."""
        try:
            worker.run(self._records(worker), self._emit)
        except BaseException as problem:  # noqa: BLE001  # raised in `answer`
            with self._lock:
                self._fault = problem
                for call in {id(call): call for call in self._waiting.values()}.values():
                    call.done.set_exception(problem)
                self._waiting.clear()

    def _records(self, worker: BatchWorker) -> Iterator[Record | None]:
        while True:
            try:
                yield self._queue.get(block=worker.active == 0)
            except Empty:
                yield None

    def _emit(self, result: Result) -> None:
        line = result.line if isinstance(result, Failure) else result.record.line
        with self._lock:
            call = self._waiting.pop(line)
        call.results.append(result)
        call.left -= 1
        if call.left == 0:
            call.done.set_result(call.results)


def _require_same(plan: WorkerPlan, llm: LLM) -> None:
    full = str(plan.identity.get("weights")).startswith("full:")
    mine = {**identity(llm, full=full), "version": __version__}
    if found := differences(mine, plan.identity):
        raise RunError(socket.gethostname(), f"would compute another job: {listed(found)}")
