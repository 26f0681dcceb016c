"""What `batch --engine ray` adds: from options to a cluster's workers."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gptcli.batch.ray.connection import Cluster, ClusterPlan, connected, imported_ray
from gptcli.checkpoint.presets import PRESETS
from gptcli.core.errors import UsageError
from gptcli.core.options import Option, check
from gptcli.version import __version__

if TYPE_CHECKING:
    from gptcli.batch.job import JobSpec
    from gptcli.batch.ray.pool import ClusterAnswers
    from gptcli.cli.model_options import ModelOptions

CLUSTER = "Cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Who computes: this process, or workers of a Ray cluster."""

    engine: Annotated[
        Literal["ray"] | None,
        Option("ray: many workers, on one machine or a cluster; same output.", CLUSTER),
    ] = None
    workers: Annotated[
        int | None, Option("How many; 1 without it.", CLUSTER, metavar="N", ge=1)
    ] = None
    ray_address: Annotated[
        str | None,
        Option(
            "A running cluster: auto, or host:port; else one is started here.",
            CLUSTER,
            metavar="ADDRESS",
        ),
    ] = None
    num_gpus_per_worker: Annotated[
        float | None,
        Option(
            "With `device=cuda`; 1 without it, 0.5 lets two workers share one.",
            CLUSTER,
            metavar="X",
            ge=0,
        ),
    ] = None

    def __post_init__(self) -> None:
        check(self)
        if self.engine is None:
            for name in ("workers", "ray_address", "num_gpus_per_worker"):
                if getattr(self, name) is not None:
                    raise UsageError(name, "needs `engine=ray`")

    def plan(self, model: "ModelOptions") -> ClusterPlan | None:
        """The cluster; None for this process alone.

        Raises:
            UsageError: GPUs are wanted of a CPU's workers, or Ray is not installed.
        """
        if self.engine is None:
            return None
        imported_ray()
        on_gpu, gpus = model.device.startswith("cuda"), self.num_gpus_per_worker
        if gpus and not on_gpu:
            raise UsageError("num_gpus_per_worker", f"needs `device=cuda`, got {model.device}")
        return ClusterPlan(
            workers=self.workers or 1,
            address=self.ray_address or os.environ.get("RAY_ADDRESS") or None,
            gpus=(1.0 if gpus is None else gpus) if on_gpu else 0.0,
            threads=model.threads or 1,
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
