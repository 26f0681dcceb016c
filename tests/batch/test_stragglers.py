"""Workers of a cluster that are slow: their chunks are answered by others, once, to the same bytes.

Ray's part is played by a stand-in with a clock of its own, so that slowness costs no time.
"""

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batch_jobs import SPEC, prompts, worker, write

from gptcli.batch.ray.connection import Cluster, ClusterPlan
from gptcli.batch.ray.pool import WorkerPool
from gptcli.batch.ray.worker import Ready, WorkerPlan
from gptcli.generation.model_spec import ModelSpec

RECORDS, QUICK, NEVER = 40, 0.5, 1e9
PLAN = WorkerPlan(model=ModelSpec(), spec=SPEC, identity={})


class GoneError(Exception):
    """As Ray raises for a worker that has died."""


class Call:
    """What a call comes to, and from when on it is there."""

    def __init__(self, ready_at: float, value: Any) -> None:
        self.ready_at, self.value = ready_at, value


class StandIn:
    """Of Ray, what the cluster's side of a job uses; each worker takes its seconds for a chunk."""

    exceptions = SimpleNamespace(RayError=GoneError, RayTaskError=ZeroDivisionError)

    def __init__(self, seconds: list[float], *, dies: bool = False) -> None:
        self.now, self.asked = 0.0, list[tuple[int, int]]()  # (worker, line)
        self._seconds, self._numbers, self._dies = seconds, count(), dies

    def remote(self, _worker: type) -> Any:
        made = SimpleNamespace(remote=lambda _plan: self._hire(next(self._numbers)))
        return SimpleNamespace(options=lambda **_needs: made)

    def _hire(self, number: int) -> Any:
        ready = Ready(f"node {number}", number, 4)
        return SimpleNamespace(
            load=SimpleNamespace(remote=lambda: Call(self.now, ready)),
            answer=SimpleNamespace(remote=lambda records: self._answer(number, records)),
        )

    def _answer(self, number: int, records: list[Any]) -> Call:
        self.asked += [(number, record.line) for record in records]
        seconds = self._seconds[min(number, len(self._seconds) - 1)]
        if self._dies and seconds > QUICK:
            return Call(self.now + seconds, GoneError())
        results: list[Any] = []
        worker().run(iter(records), results.append)
        return Call(self.now + seconds, results)

    def wait(self, calls: list[Call], num_returns: int, timeout: float) -> Any:
        ready = [call for call in calls if call.ready_at <= self.now][:num_returns]
        if not ready:
            self.now += timeout
            assert self.now < 60, "nobody helps the slow worker"
        return ready, None

    def get(self, call: Call) -> Any:
        if isinstance(call.value, Exception):
            raise call.value
        return call.value

    def kill(self, _actor: Any) -> None:
        pass


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompts(tmp_path_factory.mktemp("stragglers") / "in", RECORDS)


@pytest.fixture(scope="module")
def expected(source: Path) -> bytes:
    write(source, source.with_name("expected"))
    return source.with_name("expected").read_bytes()


def answered(
    ray: StandIn, source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> WorkerPool:
    monkeypatch.setattr("gptcli.batch.ray.pool.monotonic", lambda: ray.now)
    answers = WorkerPool(Cluster(ray, ClusterPlan(workers=2)), PLAN)
    write(source, output, answers=lambda: answers)
    return answers


def new_tokens(output: bytes) -> int:
    """In the answers of a whole output."""
    total = 0
    for value in map(json.loads, output.splitlines()[1:]):
        if value["status"] == "ok" and "response" in value:
            total += value["response"]["body"]["usage"]["completion_tokens"]
        elif value["status"] == "ok":
            total += sum(sample["new_tokens"] for sample in value.get("samples", [value]))
    return total


@pytest.mark.parametrize("seconds", [NEVER, 8.0], ids=["never", "late"])
def test_what_a_slow_worker_has_is_answered_by_another(
    seconds: float, source: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn([seconds, QUICK])
    answers = answered(ray, source, tmp_path / "out", monkeypatch)
    assert (tmp_path / "out").read_bytes() == expected
    assert answers.new_tokens == new_tokens(expected)  # what came twice counts once
    assert answers.active == 0
    slow = {line for worker, line in ray.asked if worker == 0}
    again = {line for worker, line in ray.asked if worker == 1} & slow
    assert again
    assert (again == slow) == (seconds == NEVER)  # a late one may still come before its copy


def test_a_worker_that_is_as_quick_as_others_is_not_helped(
    source: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn([2.0, 2.0])
    answered(ray, source, tmp_path / "out", monkeypatch)
    assert (tmp_path / "out").read_bytes() == expected
    lines = [line for _, line in ray.asked]
    assert len(lines) == len(set(lines))


def test_a_slow_worker_that_dies_when_others_have_its_work_changes_nothing(
    source: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn([6.2, QUICK], dies=True)
    answers = answered(ray, source, tmp_path / "out", monkeypatch)
    assert (tmp_path / "out").read_bytes() == expected
    assert answers.new_tokens == new_tokens(expected)
    assert {worker.node for worker in answers.workers} == {"node 1", "node 2"}  # another started
