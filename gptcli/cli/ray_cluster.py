"""`batch --engine ray`: options of a Ray cluster, and its workers."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gptcli.batch.ray.connection import Cluster, ClusterPlan, connected, imported_ray
from gptcli.checkpoint.presets import PRESETS
from gptcli.core.errors import UsageError
from gptcli.core.options import Option, check
from gptcli.generation.model_spec import ModelSpec
from gptcli.version import __version__

if TYPE_CHECKING:
    from gptcli.batch.job import JobSpec
    from gptcli.batch.ray.pool import WorkerPool
    from gptcli.generation.llm import LLM

CLUSTER = "Cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Whether workers of a Ray cluster compute, and which."""

    engine: Annotated[
        Literal["auto", "native", "torch", "ray"],
        Option(
            "native: the compiled kernels; torch: PyTorch; auto: native on a CPU;"
            " ray: many workers, on one machine or a cluster; same output.",
            CLUSTER,
        ),
    ] = "auto"
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
        if self.engine != "ray":
            for name in ("workers", "ray_address", "num_gpus_per_worker"):
                if getattr(self, name) is not None:
                    raise UsageError(name, "needs `engine=ray`")

    def plan(self, model: ModelSpec) -> ClusterPlan | None:
        """The cluster; None for this process alone.

        Raises:
            UsageError: GPUs are wanted of a CPU's workers, or Ray is not installed.
        """
        if self.engine != "ray":
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
    """A Ray cluster, connected when it is first needed."""

    def __init__(self, plan: ClusterPlan | None, stack: ExitStack) -> None:
        """The connection ends with `stack`."""
        self._plan, self._stack = plan, stack
        self._cluster: Cluster | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is `--engine ray`."""
        return self._plan is not None

    def machine(self, llm: "LLM") -> dict[str, Any]:
        """What the output's header is to say of the workers' machines, if they may be others."""
        if self._plan is None or self._plan.address is None or llm.is_native:
            return {}
        return {"machine": self._connect(self._plan).machine(llm.spec.device)}

    def answers(
        self,
        llm: "LLM",
        spec: "JobSpec",
        identity: Mapping[str, Any],
        *,
        rows: int | None,
        max_tokens: int | None,
    ) -> "WorkerPool":
        """Workers that begin to load their models."""
        assert self._plan is not None
        cluster = self._connect(self._plan)
        from gptcli.batch.ray.pool import WorkerPool
        from gptcli.batch.ray.worker import WorkerPlan

        plan = WorkerPlan(
            model=_anywhere(llm, self._plan.threads),
            spec=spec,
            identity={**identity, "version": __version__},
            rows=rows,
            sharing=cluster.workers_per_node(),
            max_tokens=max_tokens,
        )
        return WorkerPool(cluster, plan)

    def _connect(self, plan: ClusterPlan) -> Cluster:
        if self._cluster is None:
            self._cluster = self._stack.enter_context(connected(plan))
        return self._cluster


def _anywhere(llm: "LLM", threads: int) -> ModelSpec:
    """The model as it is named in another working directory, computing as it does here."""
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
