"""What `batch --engine ray` adds: from options to a cluster's workers."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptcli.batch.ray.connection import Cluster, ClusterPlan, connected, imported_ray
from gptcli.checkpoint.presets import PRESETS
from gptcli.core.errors import UsageError
from gptcli.version import __version__

if TYPE_CHECKING:
    from gptcli.batch.job import JobSpec
    from gptcli.batch.ray.pool import ClusterAnswers
    from gptcli.cli.model_options import ModelOptions


def cluster_plan(
    engine: Literal["ray"] | None,
    workers: int | None,
    address: str | None,
    gpus: float | None,
    *,
    device: str,
    threads: int | None,
) -> ClusterPlan | None:
    """The options of a cluster; None without `--engine`, which the others need.

    Raises:
        UsageError: they do not go together, or Ray is not installed.
    """
    if engine is None:
        for option, value in (
            ("--workers", workers),
            ("--ray-address", address),
            ("--num-gpus-per-worker", gpus),
        ):
            if value is not None:
                raise UsageError(option, "needs --engine ray")
        return None
    imported_ray()
    on_gpu = device.startswith("cuda")
    if gpus and not on_gpu:
        raise UsageError("--num-gpus-per-worker", f"needs --device cuda, got {device}")
    return ClusterPlan(
        workers=workers or 1,
        address=address or os.environ.get("RAY_ADDRESS") or None,
        gpus=(1.0 if gpus is None else gpus) if on_gpu else 0.0,
        threads=threads or 1,
    )


class Team:
    """A cluster that is connected when it is first needed."""

    def __init__(self, plan: ClusterPlan | None, stack: ExitStack) -> None:
        """The connection ends with `stack`."""
        self._plan, self._stack = plan, stack
        self._cluster: Cluster | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is `--engine ray`."""
        return self._plan is not None

    def machine(self, device: str) -> dict[str, Any]:
        """What the output's header is to say of the workers' machines, if they may be others."""
        if self._plan is None or self._plan.address is None:
            return {}
        return {"machine": self._connect(self._plan).machine(device)}

    def answers(
        self,
        options: "ModelOptions",
        spec: "JobSpec",
        identity: Mapping[str, Any],
        *,
        rows: int | None,
        max_tokens: int | None,
    ) -> "ClusterAnswers":
        """Workers that begin to load their models."""
        assert self._plan is not None
        cluster = self._connect(self._plan)
        from gptcli.batch.ray.pool import ClusterAnswers
        from gptcli.batch.ray.worker import WorkerPlan

        plan = WorkerPlan(
            model=_anywhere(options.model),
            config=options.config and options.config.absolute(),
            weights=options.weights and options.weights.absolute(),
            offline=options.offline,
            spec=spec,
            identity={**identity, "version": __version__},
            device=options.device,
            dtype=options.dtype,
            quantize=options.quantize,
            threads=self._plan.threads,
            check_finite=options.check_finite,
            rows=rows,
            sharing=cluster.sharing(),
            max_tokens=max_tokens,
        )
        return ClusterAnswers(cluster, plan)

    def _connect(self, plan: ClusterPlan) -> Cluster:
        if self._cluster is None:
            self._cluster = self._stack.enter_context(connected(plan))
        return self._cluster


def _anywhere(model: str | None) -> str | None:
    """The model's name as it holds in another working directory."""
    return model if model is None or model in PRESETS else str(Path(model).absolute())
