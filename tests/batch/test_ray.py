"""The batch job on a real Ray cluster of several nodes, all of them on this machine.

Its workers are processes of their own that load a tiny model from files; workers and nodes are
killed while they answer, and every byte must be what one process writes.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from batch_jobs import prompts, tiny_directory, write
from engines import engine_of
from safetensors.torch import load_file, save_file

from gptcli.batch.fingerprint import identity
from gptcli.batch.job import JobSpec, OpenAIDefaults
from gptcli.batch.ray.connection import Cluster, ClusterPlan, connected
from gptcli.batch.ray.pool import WorkerPool
from gptcli.batch.ray.worker import PackedError, RayWorker, Ready, WorkerPlan
from gptcli.batch.result_lines import header
from gptcli.batch.runner import InterruptedJobError
from gptcli.batch.worker import BatchWorker
from gptcli.checkpoint.load import load_model
from gptcli.checkpoint.resolve import resolve
from gptcli.cli.ray_options import ClusterOptions
from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.generation.llm import LLM
from gptcli.generation.model_spec import ModelSpec
from gptcli.sampling.params import SamplingParams
from gptcli.tokenizer.tokenizer import load_tokenizer
from gptcli.version import __version__

pytestmark = pytest.mark.slow
SPEC = JobSpec(
    seed=7,
    params=SamplingParams(max_new_tokens=20, temperature=1.2),
    openai=OpenAIDefaults(max_new_tokens=20, temperature=1.2),  # said on the command line
)
RECORDS = 120
NODE = {"num_cpus": 2, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompts(tmp_path_factory.mktemp("input") / "in.jsonl", RECORDS)


@pytest.fixture(scope="module")
def expected(model: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one process without Ray writes."""
    output = tmp_path_factory.mktemp("expected") / "out.jsonl"
    write(source, output, SPEC, answers=lambda: alone(model))
    return output.read_bytes()


def parent(process: int) -> int:
    """What started a process; Ray's workers are children of their node's raylet."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def alone(model: Path) -> BatchWorker:
    tokenizer = load_tokenizer("bytes.tiktoken", model, vocab_size=256)
    return BatchWorker(engine_of(load_model(resolve(str(model)))), tokenizer, SPEC, rows=5)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes; the second is lost in the last test that uses them."""
    pytest.importorskip("ray", reason="needs Ray, the extra `ray`")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster as Nodes

    head = {**NODE, "include_dashboard": False}
    cluster = Nodes(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def link(nodes: Any) -> Iterator[Cluster]:
    with connected(ClusterPlan(workers=2, address=nodes.address)) as cluster:
        yield cluster


def plan_for(model: Path, spec: JobSpec = SPEC, **changes: Any) -> WorkerPlan:
    named = ModelSpec(model=str(model), offline=True, threads=1, **changes.pop("named", {}))
    what = {**identity(LLM.open(named)), "version": __version__}
    common: dict[str, Any] = {"rows": 4, "identity": what, "spec": spec, "model": named}
    return WorkerPlan(**{**common, **changes})


class Patient(WorkerPool):
    """Answers that begin when every worker has its model, so that each has some of the work."""

    def _dispatch(self, source: Any) -> None:
        if self.new_tokens or all(worker.rows for worker in self.workers):
            super()._dispatch(source)


class Watched:
    """A cluster's answers, and something that happens to it once answers have begun to come."""

    def __init__(self, link: Cluster, plan: WorkerPlan, happens: Callable[[Any], object]) -> None:
        self.answers = Patient(link, plan)
        self.said: list[str] = []
        self.answers.notify = self.said.append
        self.answers.on_token = self._look
        self._happens, self._has_happened = happens, False

    def _look(self) -> None:
        if self.answers.new_tokens and not self._has_happened:
            self._has_happened = True
            self._happens(self.answers)

    def dismiss(self) -> None:
        """Make room for the next test's workers."""
        for worker in self.answers.workers:
            self.answers.stop(worker)


@dataclass
class OnCluster:
    """One batch, its output, and what one process writes."""

    link: Cluster
    model: Path
    source: Path
    output: Path
    expected: bytes

    def run(
        self,
        happens: Callable[[Any], object] = lambda _answers: None,
        *,
        workers: int = 2,
        plan: WorkerPlan | None = None,
        **more: Any,
    ) -> list[str]:
        """What was said of workers."""
        plan = plan or plan_for(self.model)
        link = Cluster(self.link.ray, ClusterPlan(workers=workers))
        watched = Watched(link, plan, happens)
        try:
            write(self.source, self.output, plan.spec, answers=lambda: watched.answers, **more)
        finally:
            watched.dismiss()
        return watched.said

    @property
    def is_right(self) -> bool:
        return self.output.read_bytes() == self.expected


@pytest.fixture
def job(link: Cluster, model: Path, source: Path, expected: bytes, tmp_path: Path) -> OnCluster:
    return OnCluster(link, model, source, tmp_path / "out", expected)


def test_an_address_where_nothing_is_says_so_at_once() -> None:
    pytest.importorskip("ray", reason="needs Ray, the extra `ray`")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    nowhere = ClusterPlan(workers=1, address=f"127.0.0.1:{port}")
    with pytest.raises(RunError, match="no cluster answers"), connected(nowhere):
        pass


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_writes_the_same_bytes(workers: int, job: OnCluster) -> None:
    assert job.run(workers=workers) == []
    assert job.is_right


def test_a_worker_killed_in_mid_job_changes_no_byte(job: OnCluster) -> None:
    def kill(answers: Any) -> None:
        busy = max(answers.workers, key=lambda worker: len(worker.chunks))
        assert busy.chunks
        os.kill(busy.process, signal.SIGKILL)

    said = job.run(kill)
    assert job.is_right
    assert any("died" in text for text in said)


def test_a_job_that_was_interrupted_is_resumed_without_a_cluster(job: OnCluster) -> None:
    def interrupt(_answers: Any) -> None:
        raise InterruptedJobError

    with pytest.raises(InterruptedJobError):
        job.run(interrupt, workers=1)
    begun = job.output.read_bytes()
    assert begun != job.expected
    assert job.expected.startswith(begun)
    write(job.source, job.output, SPEC, mode="resume", answers=lambda: alone(job.model))
    assert job.is_right


def test_workers_that_cannot_be_of_the_job_end_it(job: OnCluster) -> None:
    plan = plan_for(job.model)
    other = replace(plan, identity={**plan.identity, "machine": {"processor": "ABACUS"}})
    with pytest.raises(RunError, match=r"would compute another job.*ABACUS"):
        job.run(plan=other, workers=1)


def test_a_fault_of_the_model_ends_the_job(job: OnCluster, tmp_path: Path) -> None:
    broken = tiny_directory(tmp_path / "model")
    weights = load_file(broken / "model.safetensors")
    weights["final_norm.scale"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(RunError, match="finite"):
        job.run(plan=plan_for(broken, named={"check_finite": False}), workers=1)


def test_the_command_writes_the_same_bytes_and_nothing_else(nodes: Any, job: OnCluster) -> None:
    command = [sys.executable, "-m", "gptcli", "batch", str(job.source), "-o", str(job.output)]
    command += ["-m", str(job.model), "--seed=7", "--max-new-tokens=20", "--temperature=1.2"]
    command += ["--engine=ray", "--workers=2", f"--ray-address={nodes.address}", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    first, _, rest = job.output.read_bytes().partition(b"\n")
    what = dict(plan_for(job.model).identity)
    assert first + b"\n" == header(SPEC, what)
    assert rest == job.expected.partition(b"\n")[2]


def test_a_node_lost_in_mid_job_changes_no_byte(nodes: Any, job: OnCluster) -> None:
    def remove(answers: Any) -> None:
        node = nodes.list_all_nodes()[-1]
        raylet = node.all_processes["raylet"][0].process.pid
        lost = [worker for worker in answers.workers if parent(worker.process) == raylet]
        assert any(worker.chunks for worker in lost)
        nodes.remove_node(node, allow_graceful=False)
        deadline = monotonic() + 120
        while any(Path(f"/proc/{worker.process}").exists() for worker in lost):
            assert monotonic() < deadline, "the workers of a lost node live on"
            sleep(0.1)

    said = job.run(remove, workers=3)  # one more than a node has room for
    assert job.is_right
    assert any("died" in text for text in said)


def test_a_worker_answers_calls_of_any_size_together(model: Path, source: Path) -> None:
    from gptcli.batch.io.inputs import open_file
    from gptcli.batch.request import Record, RecordReader
    from gptcli.batch.runner import RecordStream

    with open_file(source) as opened:
        reading = RecordStream(opened.lines(), RecordReader(SPEC), lambda: None)
        records = [record for record in reading if isinstance(record, Record)][:12]
    worker = RayWorker(plan_for(model))
    assert isinstance(worker.load(), Ready)
    together, apart = worker.answer(records), [worker.answer([record]) for record in records]
    assert sorted(map(repr, together)) == sorted(repr(answers[0]) for answers in apart)


@pytest.mark.parametrize("kind", [RunError, UsageError, InputError])
def test_an_error_travels_whole(kind: type[RunError]) -> None:
    error = kind("where", "what", "do this")
    again = PackedError.of(error).unpacked()
    assert type(again) is kind
    assert str(again) == str(error)


def test_a_missing_ray_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"gptcli\[ray\]"):
        ClusterOptions(engine="ray", workers=2).plan(ModelSpec())


def test_options_of_a_cluster_need_one() -> None:
    with pytest.raises(UsageError, match="workers: needs `engine=ray`"):
        ClusterOptions(workers=2)
    assert ClusterOptions().plan(ModelSpec()) is None


def test_a_gpu_for_each_worker_needs_a_device_that_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    pytest.importorskip("ray", reason="needs Ray, the extra `ray`")
    with pytest.raises(UsageError, match="device=cuda"):
        ClusterOptions(engine="ray", workers=2, num_gpus_per_worker=0.5).plan(ModelSpec())
    plan = ClusterOptions(engine="ray", workers=2).plan(ModelSpec(device="cuda", threads=3))
    assert plan == ClusterPlan(workers=2, gpus=1.0, threads=3)
