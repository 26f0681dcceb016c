"""Options of `batch --engine ray`."""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from gptcli.batch.ray.connection import ClusterPlan, imported_ray
from gptcli.core.errors import UsageError
from gptcli.core.options import Option, check
from gptcli.generation.model_spec import ModelSpec

CLUSTER = "Cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """The engine, and the workers of a Ray cluster."""

    engine: Annotated[
        Literal["auto", "native", "torch", "ray"],
        Option(
            "native: the compiled kernels; torch: PyTorch; auto: native on a CPU;"
            " ray: many workers, on one machine or a cluster; same output.",
            CLUSTER,
        ),
    ] = "auto"
    workers: Annotated[
        int | None, Option("Number of workers; 1 without it.", CLUSTER, metavar="N", ge=1)
    ] = None
    ray_address: Annotated[
        str | None,
        Option(
            "A running cluster: auto or host:port; without it, one is started here.",
            CLUSTER,
            metavar="ADDRESS",
        ),
    ] = None
    num_gpus_per_worker: Annotated[
        float | None,
        Option(
            "GPUs per worker with `device=cuda`: 1 without it; with 0.5 two workers share one.",
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
        """The cluster to use; None for this process alone.

        Raises:
            UsageError: GPUs for workers on CPUs, or Ray is not installed.
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
