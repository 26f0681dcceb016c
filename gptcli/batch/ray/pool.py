"""Answer a batch's records with Ray workers on any number of machines, a chunk at a time.

Takes the place of `gptcli.batch.worker.Answerer`; reading, order, the file and resuming are those
of the single process. An answer depends on its record alone, so a chunk whose worker or machine is
lost goes to another worker, and a slow chunk goes to a second worker as well.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from gptcli.batch.ray.connection import ALIKE, Cluster, brief
from gptcli.batch.ray.worker import Ready, Refusal, Result, Worker, WorkerPlan
from gptcli.batch.request import Failure, Record
from gptcli.core.errors import RunError

_WAIT = 0.1  # seconds until `on_token` is called again while nothing comes
_CHUNKS_A_BATCH, _CHUNKS_AHEAD = 4, 2
_CHUNK_CHARACTERS = 1 << 20  # of prompts, about
_CALLS_AT_ONCE = 16
_MOST_LOSSES = 5  # workers that one chunk may have been lost with
_COPY_AFTER, _SLOW = 5.0, 3.0  # seconds, and times as long as usual
_SAY_WAITING = 30.0  # seconds

Emit = Callable[[Result], None]


@dataclass(slots=True, eq=False)
class _Chunk:
    """Records that travel together.

    Attributes:
        losses: workers that were lost with it.
        holders: workers that have it now.
        is_done: its first answer is there; any other is not looked at.
    """

    records: list[Record]
    losses: int = 0
    holders: int = 0
    is_done: bool = False
    sent_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Hand:
    """A worker as seen from here.

    Attributes:
        actor: Ray's handle of it.
        node, process: where it runs, once that is known.
        rows: texts at a time, 0 while it loads its model.
        chunks: those it has.
    """

    actor: Any
    node: str = ""
    process: int = 0
    rows: int = 0
    chunks: list[_Chunk] = field(default_factory=list)

    @property
    def chunk_size(self) -> int:
        """Records; several chunks at a time keep the rows full while others are on their way."""
        return max(1, self.rows // _CHUNKS_A_BATCH)

    @property
    def room(self) -> int:
        """Chunks that it can take."""
        most = min(_CALLS_AT_ONCE, -(-self.rows // self.chunk_size) + _CHUNKS_AHEAD)
        return most - len(self.chunks) if self.rows else 0


class ClusterAnswers:
    """Workers that answer records: what `gptcli.batch.worker.Answerer` is on one machine.

    Attributes:
        active: records that are on their way.
        new_tokens: in the answers so far.
        shared_tokens: None; workers do not tell.
        hands: the workers, those that still load their models too.
        on_token: called at least ten times a second; it may raise to end everything.
        on_ready: called when the first worker has its model.
        notify: told in words what happens to workers.
    """

    def __init__(self, cluster: Cluster, plan: WorkerPlan) -> None:
        self.active = self.new_tokens = 0
        self.shared_tokens: int | None = None
        self.on_token: Callable[[], object] = lambda: None
        self.on_ready: Callable[[], object] = lambda: None
        self.notify: Callable[[str], object] = lambda _text: None
        self._ray, self._plan = cluster.ray, plan
        # A worker that dies is replaced here and not by Ray: its chunks need not wait for it.
        self._actor = cluster.ray.remote(Worker).options(
            **cluster.needs(), max_restarts=0, max_task_retries=0, max_concurrency=_CALLS_AT_ONCE
        )
        self.hands: list[_Hand] = []
        self._calls: dict[Any, tuple[_Hand, _Chunk | None]] = {}  # None: it loads its model
        self._again: deque[_Chunk] = deque()
        self._failed_starts, self._has_begun = 0, False
        self._usual = 0.0  # seconds that a chunk takes
        self._say_waiting_at = monotonic() + _SAY_WAITING
        for _ in range(cluster.plan.workers):
            self._hire()

    def run(self, records: Iterator[Record | Failure | None], emit: Emit) -> None:
        """Answer all records, each chunk as soon as it is done.

        A None among them is "none yet"; failures are passed on.

        Raises:
            RunError: no worker can be had, or one chunk has cost several of them.
            GptcliError: what a worker says of a fault of the model.
        """
        incoming = _Incoming(records, emit, self)
        while not (incoming.is_exhausted and self.active == 0):
            self.on_token()
            self._send(incoming)
            self._collect(emit)

    def _hire(self) -> None:
        hand = _Hand(self._actor.remote(self._plan))
        self.hands.append(hand)
        self._calls[hand.actor.load.remote()] = hand, None

    def _send(self, incoming: "_Incoming") -> None:
        """Give workers what they can take, the idlest first."""
        while (hand := max(self.hands, key=lambda hand: hand.room)).room > 0:
            if self._again:
                chunk = self._again.popleft()
            elif records := incoming.take(hand.chunk_size):
                chunk = _Chunk(records)
            elif not hand.chunks and (slow := self._slow()) is not None:
                chunk = slow
            else:
                return
            self._give(hand, chunk)

    def _give(self, hand: _Hand, chunk: _Chunk) -> None:
        chunk.sent_at, chunk.holders = monotonic(), chunk.holders + 1
        hand.chunks.append(chunk)
        self._calls[hand.actor.answer.remote(chunk.records)] = hand, chunk

    def _slow(self) -> _Chunk | None:
        """The slowest chunk in flight, if it takes much longer than usual."""
        chunks = [chunk for _, chunk in self._calls.values() if chunk and chunk.holders == 1]
        oldest = min(chunks, key=lambda chunk: chunk.sent_at, default=None)
        patience = max(_COPY_AFTER, _SLOW * self._usual)
        if oldest is None or oldest.is_done or monotonic() - oldest.sent_at < patience:
            return None
        return oldest

    def _collect(self, emit: Emit) -> None:
        """Wait a moment for calls to return."""
        if not self._calls:
            return
        for call in self._ray.wait(list(self._calls), num_returns=1, timeout=_WAIT)[0]:
            self._settle(call, emit)
        if not any(hand.rows for hand in self.hands) and monotonic() > self._say_waiting_at:
            self._say_waiting_at = monotonic() + _SAY_WAITING
            self.notify("no worker has begun yet; the cluster may have no room for one")

    def _settle(self, call: Any, emit: Emit) -> None:
        hand, chunk = self._calls.pop(call)
        errors = self._ray.exceptions
        try:
            reply = self._ray.get(call)
        except errors.RayTaskError:  # raised in our own code over there, as it would be here
            raise
        except errors.RayError as problem:
            self._lose(hand, problem)
            return
        if chunk is None:
            self._began(hand, reply)
        elif isinstance(reply, Refusal):
            raise reply.error()
        else:
            self._done(hand, chunk, reply, emit)

    def _began(self, hand: _Hand, reply: Ready | Refusal) -> None:
        if isinstance(reply, Ready):
            if not self._has_begun:
                self._has_begun = True
                self.on_ready()
            hand.node, hand.process, hand.rows = reply.node, reply.process, reply.rows
            self._failed_starts = 0
            return
        self.dismiss(hand)
        if not self.hands:
            raise reply.error()
        self.notify(f"a worker is left out: {reply.error()}")

    def _done(self, hand: _Hand, chunk: _Chunk, results: list[Result], emit: Emit) -> None:
        hand.chunks.remove(chunk)
        chunk.holders -= 1
        if chunk.is_done:
            return
        chunk.is_done = True
        took = monotonic() - chunk.sent_at
        self._usual = 0.8 * self._usual + 0.2 * took if self._usual else took
        self.active -= len(chunk.records)
        for result in results:
            if not isinstance(result, Failure):
                self.new_tokens += sum(len(sample.ids) for sample in result.samples)
            emit(result)

    def _lose(self, hand: _Hand, problem: Exception) -> None:
        """Replace a worker that died or lost its machine, and requeue its chunks."""
        self.dismiss(hand)
        if not hand.rows:
            self._failed_starts += 1
            if self._failed_starts > _MOST_LOSSES:
                raise RunError("`engine=ray`", f"no worker can begin ({brief(problem)})", ALIKE)
        where = f" on {hand.node}" if hand.node else ""
        self.notify(f"a worker{where} is gone; what it had goes to others")
        for chunk in hand.chunks:
            self._take_back(chunk)
        self._hire()

    def _take_back(self, chunk: _Chunk) -> None:
        chunk.holders -= 1
        chunk.losses += 1
        if chunk.losses > _MOST_LOSSES:
            first, last = chunk.records[0].line, chunk.records[-1].line
            problem = f"{chunk.losses} workers died over lines {first:,} to {last:,} of the input"
            raise RunError("`engine=ray`", problem, "A smaller `batch_size` needs less memory")
        if not chunk.is_done and not chunk.holders:
            self._again.append(chunk)

    def dismiss(self, hand: _Hand) -> None:
        """End a worker and forget what it was asked."""
        self.hands = [other for other in self.hands if other is not hand]
        self._calls = {call: kept for call, kept in self._calls.items() if kept[0] is not hand}
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(hand.actor)


class _Incoming:
    """Records as they come, by the chunk; what failed in reading is answered at once."""

    def __init__(
        self, records: Iterator[Record | Failure | None], emit: Emit, answers: ClusterAnswers
    ) -> None:
        self._records, self._emit, self._answers = records, emit, answers
        self.is_exhausted = False

    def take(self, most: int) -> list[Record]:
        """Up to `most` records, those that are here now."""
        taken: list[Record] = []
        size = 0
        while len(taken) < most and size < _CHUNK_CHARACTERS and (record := self._next()):
            if isinstance(record, Failure):
                self._emit(record)
            else:
                taken.append(record)
                size += len(record.prompt)
                self._answers.active += 1  # reading must not wait for more while one is in hand
        return taken

    def _next(self) -> Record | Failure | None:
        try:
            return next(self._records)
        except StopIteration:
            self.is_exhausted = True
            return None
