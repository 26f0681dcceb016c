"""A worker process of a cluster: a model that answers the records it is sent.

Several calls wait at once, each in a thread of its own, and one thread writes the texts of all of
them together, so that the batch stays full from one chunk of records to the next.
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
from gptcli.batch.worker import Answerer
from gptcli.core.errors import GptcliError, InputError, RunError, UsageError
from gptcli.core.escape import listed
from gptcli.generation.llm import LLM
from gptcli.generation.model_spec import ModelSpec
from gptcli.model.memory_estimate import default_rows
from gptcli.version import __version__

Result = Answer | Failure
_KINDS = {kind.__name__: kind for kind in (RunError, UsageError, InputError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What a worker needs to give the same answers as any other process of the job.

    Attributes:
        model: which, and how it computes; paths are absolute.
        spec: of the job.
        identity: what the output's header says of model and version; a worker with another refuses.
        rows: texts at a time, None for what its memory allows.
        sharing: how many workers share a machine's memory, at most.
        max_tokens: that all texts hold together.
    """

    model: ModelSpec
    spec: JobSpec
    identity: Mapping[str, Any]
    rows: int | None = None
    sharing: int = 1
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has its model: where it is, and how many texts it writes at a time."""

    node: str
    process: int
    rows: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A GptcliError as it travels between processes."""

    kind: str
    where: str
    problem: str
    hint: str

    @classmethod
    def of(cls, error: GptcliError) -> "Refusal":
        """The error, packed."""
        return cls(type(error).__name__, error.where, error.problem, error.hint)

    def error(self) -> GptcliError:
        """The error, unpacked."""
        return _KINDS.get(self.kind, RunError)(self.where, self.problem, self.hint)


@dataclass(slots=True)
class _Waiting:
    """One call in flight: its records are being answered."""

    left: int
    results: list[Result] = field(default_factory=list)
    done: "Future[list[Result]]" = field(default_factory=Future)


class Worker:
    """A model, once it is loaded; then `answer` may be called from many threads."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._queue: SimpleQueue[Record] = SimpleQueue()
        self._waiting: dict[int, _Waiting] = {}  # by line
        self._lock = Lock()
        self._fault: BaseException | None = None

    def load(self) -> Ready | Refusal:
        """Load the model, compare it with the job's, and begin."""
        try:
            answerer, rows = self._answerer()
        except GptcliError as error:
            return Refusal.of(error)
        Thread(target=self._work, args=(answerer,), daemon=True).start()
        return Ready(socket.gethostname(), os.getpid(), rows)

    def answer(self, records: Sequence[Record]) -> list[Result] | Refusal:
        """Answer records, in no order.

        A fault of the model, now or earlier, is given back; any other exception is raised.
        """
        call = _Waiting(len(records))
        with self._lock:
            if self._fault is not None:
                call.done.set_exception(self._fault)
            self._waiting.update((record.line, call) for record in records)
        for record in records:
            self._queue.put(record)
        try:
            return call.done.result()
        except GptcliError as error:
            return Refusal.of(error)

    def _answerer(self) -> tuple[Answerer, int]:
        plan = self._plan
        llm = LLM.open(plan.model)
        _require_same(plan, llm)
        rows = plan.rows or max(1, default_rows(llm.config) // plan.sharing)
        most = plan.max_tokens
        return Answerer(llm.engine, llm.tokenizer, plan.spec, rows=rows, max_tokens=most), rows

    def _work(self, answerer: Answerer) -> None:
        """Write texts for ever; whatever ends that is handed to everyone who waits."""
        try:
            answerer.run(self._records(answerer), self._emit)
        except BaseException as problem:  # noqa: BLE001  # raised where somebody waits for it
            with self._lock:
                self._fault = problem
                for call in {id(call): call for call in self._waiting.values()}.values():
                    call.done.set_exception(problem)
                self._waiting.clear()

    def _records(self, answerer: Answerer) -> Iterator[Record | None]:
        while True:
            try:
                yield self._queue.get(block=answerer.active == 0)
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
    if found := differences(plan.identity, mine):
        problem = f"this machine's part would not be of the same job: {listed(found)}"
        raise RunError(socket.gethostname(), problem)
