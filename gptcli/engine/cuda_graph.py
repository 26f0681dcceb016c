"""One token's step as a recording, for a GPU: its 200 kernels are begun by one call, not by 200.

A recording (a CUDA graph) repeats the same kernels on the same memory. So the id and the position
are tensors that stay where they are, and attention sees a fixed number of the cache's positions,
those not yet written masked. There is a recording for each number, a multiple of 256: what a token
costs grows with its position in steps.

Shapes: S positions seen, L layers, B rows of the cache, H heads, C capacity, D head_dim, V
vocabulary.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

STEP = 256  # positions by which a recording sees more than the one before it

Step = Callable[[], Tensor]


class Network(Protocol):
    """What is recorded: `gptcli.engine.fast.FastGPT`."""

    def fixed(self, ids: Tensor, position: Tensor, attend: Any) -> Tensor:
        """(1,) id, (1,) position → (1, V) logits."""


class FixedAttention:
    """The attention of one token whose position is known to the device alone."""

    def __init__(self, position: Tensor, store: Tensor, seen: int) -> None:
        """Prepare a step.

        Args:
            position: (1,) of the token.
            store: (L, 2, B, H, C, D) keys and values; row 0 is written to.
            seen: S, more than the position.
        """
        self._position, self._held = position, store[:, :, 0, :, :seen]
        self._mask = (torch.arange(seen, device=store.device) <= position)[None]  # (1, S)

    def __call__(self, layer: int, heads: Tensor) -> Tensor:
        """(1, 3, H, D) query, key and value → (1, H, D)."""
        held = self._held[layer]
        query, *new = heads.to(held.dtype).transpose(0, 1).unsqueeze(3).unbind()  # (1, H, 1, D)
        held.index_copy_(2, self._position, torch.cat(new))
        keys, values = held.unsqueeze(1)
        found = F.scaled_dot_product_attention(query, keys, values, attn_mask=self._mask)
        return found[:, :, 0].to(heads.dtype)


class Replayed:
    """The recordings for one cache; another cache's take their place."""

    def __init__(self, network: Network, record: Callable[[Step], Step]) -> None:
        """`record` runs a step and gives what repeats it and returns its memory."""
        self._network, self._record = network, record
        self._store: Tensor | None = None
        self._steps: dict[int, Step] = {}

    def __call__(self, id: Tensor, past: int, store: Tensor) -> Tensor:
        """(1,) the token at position `past`, whose key and value the store gets → (1, V) logits."""
        if store is not self._store:
            self._begin(past, store)
        self._id.copy_(id)
        self._position.fill_(past)
        seen = min(store.shape[4], (past // STEP + 1) * STEP)
        if seen not in self._steps:
            self._steps[seen] = self._record(lambda: self._step(store, seen))
        return self._steps[seen]().clone()

    def _begin(self, past: int, store: Tensor) -> None:
        self._steps.clear()
        self._store = store
        self._id, self._position = torch.zeros(2, 1, dtype=torch.long, device=store.device)
        # What memory held before may be no number, and 0 times that is none either.
        store[:, :, 0, :, past:].zero_()

    def _step(self, store: Tensor, seen: int) -> Tensor:
        attend = FixedAttention(self._position, store, seen)
        return self._network.fixed(self._id, self._position, attend)


def cuda_graph(step: Step) -> Step:
    """Record a step on the current GPU."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries get their memory before the recording
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
