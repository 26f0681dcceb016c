"""Data-parallel training under `torchrun`: this process's rank, and values shared by all.

With one process every function here does nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import distributed as dist


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a training, as seen from this one."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_leader(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def broadcast(self, value: float) -> float:
        """The leader's value, in every process."""
        return self._all_reduce(value if self.is_leader else 0.0, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self._all_reduce(float(flag), dist.ReduceOp.MAX) > 0

    def total(self, value: float) -> float:
        """The sum over all processes."""
        return self._all_reduce(value, dist.ReduceOp.SUM)

    def _all_reduce(self, value: float, operation: "dist.ReduceOp.RedOpType") -> float:
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(shared, op=operation)
        return float(shared)


@contextmanager
def process_group(device: str) -> Iterator[Group]:
    """Context of the group that `torchrun` describes in the environment; left at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(device=device)
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    # Functions of this module have as a default argument the process group that there is when it is
    # imported, and the first optimizer imports it. Imported now, while there is none, it cannot
    # keep the group alive after destroy_process_group: a thread of gloo that is left asks for the
    # GIL while the interpreter shuts down, which aborts the process.
    import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Group(int(os.environ["RANK"]), size, device)
    finally:
        dist.destroy_process_group()
