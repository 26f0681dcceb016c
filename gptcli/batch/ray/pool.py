"""A pool of Ray workers that answers a batch's records, a chunk at a time.

It takes the place of `gptcli.batch.worker.BatchWorker`; all else is as in a single process. An
answer depends on its record alone, so a chunk whose worker or machine is lost goes to another
worker, and a slow chunk is sent to a second worker as well.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from gptcli.batch.job import JobSpec
from gptcli.batch.ray.connection import SAME_INSTALL, Cluster, brief
from gptcli.batch.ray.worker import PackedError, RayWorker, Ready, Result, WorkerPlan
from gptcli.batch.request import Failure, Record
from gptcli.checkpoint.presets import PRESETS
from gptcli.core.errors import RunError
from gptcli.generation.llm import LLM
from gptcli.generation.model_spec import ModelSpec
from gptcli.version import __version__

_WAIT = 0.1  # seconds to wait for replies between two calls of `on_token`
_CHUNKS_PER_BATCH, _CHUNKS_AHEAD = 4, 2
_CHUNK_CHARACTERS = 1 << 20  # of all prompts of a chunk, about
_MAX_CALLS = 16
_MAX_LOSSES = 5  # workers that may die over one chunk
# A chunk is slow after so many seconds, and so many times the typical time.
_DUPLICATE_AFTER, _SLOW_FACTOR = 5.0, 3.0
_WAITING_NOTICE = 30.0  # seconds without a worker until a notice says so

Emit = Callable[[Result], None]


@dataclass(slots=True, eq=False)
class _Chunk:
    """Records that are sent to a worker in one call.

    Attributes:
        losses: workers that died over it.
        in_flight: workers that are answering it now.
        is_done: whether the first reply has come; later ones are ignored.
    """

    records: list[Record]
    losses: int = 0
    in_flight: int = 0
    is_done: bool = False
    sent_at: float = 0.0


@dataclass(slots=True, eq=False)
class _WorkerHandle:
    """A worker as the pool sees it.

    Attributes:
        actor: Ray's handle of it.
        node, process: where it runs, once that is known.
        rows: sequences at a time, 0 while it loads its model.
        chunks: those it is answering.
    """

    actor: Any
    node: str = ""
    process: int = 0
    rows: int = 0
    chunks: list[_Chunk] = field(default_factory=list)

    @property
    def chunk_size(self) -> int:
        """Records per chunk; a few chunks fill the rows, so that they stay full between replies."""
        return max(1, self.rows // _CHUNKS_PER_BATCH)

    @property
    def room(self) -> int:
        """How many more chunks it can take."""
        most = min(_MAX_CALLS, -(-self.rows // self.chunk_size) + _CHUNKS_AHEAD)
        return most - len(self.chunks) if self.rows else 0


class WorkerPool:
    """The workers of a cluster, with the interface of `gptcli.batch.worker.BatchWorker`.

    Attributes:
        active: records sent and not answered yet.
        new_tokens: in the answers so far.
        shared_tokens: None; workers do not report theirs.
        workers: all of them, also those that still load their models.
        on_token: called at least ten times a second; it may raise to end the job.
        on_ready: called when the first worker has loaded its model.
        notify: called with a notice when a worker fails.
    """

    def __init__(self, cluster: Cluster, plan: WorkerPlan) -> None:
        self.active = self.new_tokens = 0
        self.shared_tokens: int | None = None
        self.on_token: Callable[[], object] = lambda: None
        self.on_ready: Callable[[], object] = lambda: None
        self.notify: Callable[[str], object] = lambda _text: None
        self._ray, self._plan = cluster.ray, plan
        # Dead workers are replaced here and not by Ray, so that their chunks need not wait.
        self._actor = cluster.ray.remote(RayWorker).options(
            **cluster.resources(), max_restarts=0, max_task_retries=0, max_concurrency=_MAX_CALLS
        )
        self.workers: list[_WorkerHandle] = []
        self._calls: dict[Any, tuple[_WorkerHandle, _Chunk | None]] = {}  # None: load
        self._requeued: deque[_Chunk] = deque()
        self._failed_starts, self._is_ready = 0, False
        self._typical = 0.0  # seconds a chunk takes
        self._notice_at = monotonic() + _WAITING_NOTICE
        for _ in range(cluster.plan.workers):
            self._start_worker()

    def run(self, records: Iterator[Record | Failure | None], emit: Emit) -> None:
        """Answer all records, each chunk as soon as it is done.

        None among the records means "none yet"; failures are passed on.

        Raises:
            RunError: no worker can start, or several died over one chunk.
            GptcliError: a worker's model failed.
        """
        source = _ChunkSource(records, emit, self)
        while not (source.is_exhausted and self.active == 0):
            self.on_token()
            self._dispatch(source)
            self._collect(emit)

    def _start_worker(self) -> None:
        worker = _WorkerHandle(self._actor.remote(self._plan))
        self.workers.append(worker)
        self._calls[worker.actor.load.remote()] = worker, None

    def _dispatch(self, source: "_ChunkSource") -> None:
        """Send chunks while a worker has room, to the idlest first."""
        while (worker := max(self.workers, key=lambda worker: worker.room)).room > 0:
            if self._requeued:
                chunk = self._requeued.popleft()
            elif records := source.take(worker.chunk_size):
                chunk = _Chunk(records)
            elif not worker.chunks and (slow := self._slowest()) is not None:
                chunk = slow
            else:
                return
            self._submit(worker, chunk)

    def _submit(self, worker: _WorkerHandle, chunk: _Chunk) -> None:
        chunk.sent_at, chunk.in_flight = monotonic(), chunk.in_flight + 1
        worker.chunks.append(chunk)
        self._calls[worker.actor.answer.remote(chunk.records)] = worker, chunk

    def _slowest(self) -> _Chunk | None:
        """The oldest chunk in flight, if it takes much longer than chunks typically do."""
        chunks = [chunk for _, chunk in self._calls.values() if chunk and chunk.in_flight == 1]
        oldest = min(chunks, key=lambda chunk: chunk.sent_at, default=None)
        patience = max(_DUPLICATE_AFTER, _SLOW_FACTOR * self._typical)
        if oldest is None or oldest.is_done or monotonic() - oldest.sent_at < patience:
            return None
        return oldest

    def _collect(self, emit: Emit) -> None:
        """Handle the replies that come within a moment."""
        if not self._calls:
            return
        for call in self._ray.wait(list(self._calls), num_returns=1, timeout=_WAIT)[0]:
            self._handle_reply(call, emit)
        if not any(worker.rows for worker in self.workers) and monotonic() > self._notice_at:
            self._notice_at = monotonic() + _WAITING_NOTICE
            self.notify("no worker has started yet; the cluster may have no free CPUs or GPUs")

    def _handle_reply(self, call: Any, emit: Emit) -> None:
        worker, chunk = self._calls.pop(call)
        errors = self._ray.exceptions
        try:
            reply = self._ray.get(call)
        except errors.RayTaskError:  # a bug in our own code: as if raised here
            raise
        except errors.RayError as problem:
            self._replace(worker, problem)
            return
        if chunk is None:
            self._loaded(worker, reply)
        elif isinstance(reply, PackedError):
            raise reply.unpacked()
        else:
            self._finished(worker, chunk, reply, emit)

    def _loaded(self, worker: _WorkerHandle, reply: Ready | PackedError) -> None:
        if isinstance(reply, Ready):
            if not self._is_ready:
                self._is_ready = True
                self.on_ready()
            worker.node, worker.process, worker.rows = reply.node, reply.process, reply.rows
            self._failed_starts = 0
            return
        self.stop(worker)
        if not self.workers:
            raise reply.unpacked()
        self.notify(f"going on without a worker: {reply.unpacked()}")

    def _finished(
        self, worker: _WorkerHandle, chunk: _Chunk, results: list[Result], emit: Emit
    ) -> None:
        worker.chunks.remove(chunk)
        chunk.in_flight -= 1
        if chunk.is_done:
            return
        chunk.is_done = True
        took = monotonic() - chunk.sent_at
        self._typical = 0.8 * self._typical + 0.2 * took if self._typical else took
        self.active -= len(chunk.records)
        for result in results:
            if not isinstance(result, Failure):
                self.new_tokens += sum(len(sample.ids) for sample in result.samples)
            emit(result)

    def _replace(self, worker: _WorkerHandle, problem: Exception) -> None:
        """Replace a worker that died, or whose machine is gone, and requeue its chunks."""
        self.stop(worker)
        if not worker.rows:
            self._failed_starts += 1
            if self._failed_starts > _MAX_LOSSES:
                raise RunError(
                    "`engine=ray`", f"no worker can start ({brief(problem)})", SAME_INSTALL
                )
        where = f" on {worker.node}" if worker.node else ""
        self.notify(f"a worker{where} died; others answer its records")
        for chunk in worker.chunks:
            self._requeue(chunk)
        self._start_worker()

    def _requeue(self, chunk: _Chunk) -> None:
        chunk.in_flight -= 1
        chunk.losses += 1
        if chunk.losses > _MAX_LOSSES:
            first, last = chunk.records[0].line, chunk.records[-1].line
            problem = f"{chunk.losses} workers died over lines {first:,} to {last:,} of the input"
            raise RunError("`engine=ray`", problem, "A smaller `batch_size` needs less memory")
        if not chunk.is_done and not chunk.in_flight:
            self._requeued.append(chunk)

    def stop(self, worker: _WorkerHandle) -> None:
        """End a worker and drop its calls."""
        self.workers = [other for other in self.workers if other is not worker]
        self._calls = {call: kept for call, kept in self._calls.items() if kept[0] is not worker}
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.actor)


class _ChunkSource:
    """Cuts the records into chunks; failures are passed on at once."""

    def __init__(
        self, records: Iterator[Record | Failure | None], emit: Emit, pool: WorkerPool
    ) -> None:
        self._records, self._emit, self._pool = records, emit, pool
        self.is_exhausted = False

    def take(self, most: int) -> list[Record]:
        """Up to `most` records, only those that need no waiting."""
        taken: list[Record] = []
        size = 0
        while len(taken) < most and size < _CHUNK_CHARACTERS and (record := self._next()):
            if isinstance(record, Failure):
                self._emit(record)
            else:
                taken.append(record)
                size += len(record.prompt)
                self._pool.active += 1  # now: with a record to answer, reading must not wait
        return taken

    def _next(self) -> Record | Failure | None:
        try:
            return next(self._records)
        except StopIteration:
            self.is_exhausted = True
            return None


def start_pool(
    cluster: Cluster,
    llm: LLM,
    spec: JobSpec,
    identity: Mapping[str, Any],
    *,
    rows: int | None,
    max_tokens: int | None,
) -> WorkerPool:
    """Start the cluster's workers, which begin to load the model of `llm`.

    `identity` is what the output's header says about the model; `rows` and `max_tokens` limit each
    worker's batch.
    """
    plan = WorkerPlan(
        model=_for_any_directory(llm, cluster.plan.threads),
        spec=spec,
        identity={**identity, "version": __version__},
        rows=rows,
        sharing=cluster.workers_per_node(),
        max_tokens=max_tokens,
    )
    return WorkerPool(cluster, plan)


def _for_any_directory(llm: LLM, threads: int) -> ModelSpec:
    """The model with absolute paths, and with what "auto" has chosen on this machine."""
    spec = llm.spec
    is_path = spec.model is not None and llm.name not in PRESETS and Path(spec.model).exists()
    return replace(
        spec,
        model=str(Path(spec.model).absolute()) if is_path and spec.model else spec.model,
        config=spec.config and spec.config.absolute(),
        weights=spec.weights and spec.weights.absolute(),
        dtype=llm.dtype,
        threads=threads,
        engine="native" if llm.is_native else "torch",
    )
