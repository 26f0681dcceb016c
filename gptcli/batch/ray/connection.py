"""Connect to a Ray cluster, or start one on this machine, for the length of a job.

Ray is an extra and imported only with `engine=ray`; its logs and usage reports are off.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gptcli.batch.fingerprint import machine
from gptcli.core.errors import RunError, UsageError
from gptcli.core.escape import shown

_STORE_BYTES = 512 << 20  # of Ray's object store: records and answers are small
_LOCAL = "local"
_CONNECT_TIMEOUT = 10.0  # seconds
SAME_INSTALL = "Install the same versions of gptcli, PyTorch and Ray on every machine"
_START_HINT = "Start one with `ray start --head`, or leave out `ray_address` to use one machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """How many workers, and where.

    Attributes:
        workers: processes, each with a model of its own.
        address: of a running cluster, `auto` or `host:port`; None starts one on this machine.
        gpus: per worker; below 1 several workers share one.
        threads: per worker; Ray counts them as CPUs.
    """

    workers: int
    address: str | None = None
    gpus: float = 0.0
    threads: int = 1


class Cluster:
    """A connection to a cluster.

    Attributes:
        ray: the module.
        plan: workers and address.
    """

    def __init__(self, ray: Any, plan: ClusterPlan) -> None:
        self.ray, self.plan = ray, plan

    def resources(self) -> dict[str, Any]:
        """Ray's options of a worker: CPUs, GPUs, and that workers spread over the nodes."""
        options = {"num_cpus": self.plan.threads, "scheduling_strategy": "SPREAD"}
        return {**options, "num_gpus": self.plan.gpus} if self.plan.gpus else options

    def workers_per_node(self) -> int:
        """How many workers share a machine at most, spread evenly."""
        nodes = sum(bool(node["Alive"]) for node in self.ray.nodes())
        return -(-self.plan.workers // max(1, nodes))

    def machine(self, device: str) -> Mapping[str, str]:
        """A worker's processor and PyTorch version, as the header of an output has them.

        Raises:
            RunError: no worker can start.
        """
        task = self.ray.remote(machine).options(**self.resources())
        try:
            found: Mapping[str, str] = self.ray.get(task.remote(device))
        except self.ray.exceptions.RayError as error:
            problem = f"no worker can start ({brief(error)})"
            raise RunError("`engine=ray`", problem, SAME_INSTALL) from None
        return found


class LazyCluster:
    """A cluster that is connected when it is first needed."""

    def __init__(self, plan: ClusterPlan, stack: ExitStack) -> None:
        """The connection ends with `stack`."""
        self.plan, self._stack = plan, stack
        self._cluster: Cluster | None = None

    def get(self) -> Cluster:
        """The connection.

        Raises:
            RunError: there is no cluster at the address, or none can be started here.
        """
        if self._cluster is None:
            self._cluster = self._stack.enter_context(connected(self.plan))
        return self._cluster


@contextmanager
def connected(plan: ClusterPlan) -> Iterator[Cluster]:
    """A connection for the length of a `with`; a connection of the caller's own is used and kept.

    Raises:
        UsageError: Ray is not installed.
        RunError: there is no cluster at the address, or none can be started here.
    """
    ray = imported_ray()
    if ray.is_initialized():
        yield Cluster(ray, plan)
        return
    _connect(ray, plan)
    try:
        yield Cluster(ray, plan)
    finally:
        ray.shutdown()


def brief(error: BaseException) -> str:
    """The last line of Ray's message, which says what happened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return shown(lines[-1].strip() if lines else type(error).__name__, 200)


def imported_ray() -> Any:
    """Ray, which takes a second or two to import.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray prints a warning about how a later version will treat devices.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # For a cluster started here. With Ray's own niceness of 15 a worker beside a busy process took
    # seven times as long as the same job without Ray.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        return import_module("ray")
    except ImportError:
        hint = "Run \"pip install 'gptcli[ray]'\", or leave `engine` out"
        raise UsageError("engine", "needs Ray, which is not installed", hint) from None


def _connect(ray: Any, plan: ClusterPlan) -> None:
    address = plan.address or _LOCAL
    more: dict[str, Any] = {}
    if address == _LOCAL:
        cpus = max(plan.workers * plan.threads, os.cpu_count() or 1)
        more = {"num_cpus": cpus, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    try:
        _require_listener(address)
        with _handlers_kept():
            ray.init(address=address, log_to_driver=False, logging_level="CRITICAL", **more)
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        where = "`engine=ray`" if plan.address is None else f"`ray_address={shown(address, 60)}`"
        raise RunError(where, f"no cluster answers ({brief(error)})", _START_HINT) from None


def _require_listener(address: str) -> None:
    """Fail now if nothing listens at the address: Ray itself would retry for ever."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT):
            pass


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore our signal handlers: Ray replaces that of SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
