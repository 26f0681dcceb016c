"""Layers that are made side by side, before they are asked for.

Rounding and packing weights takes longer than reading them, and each layer's is the work of one
thread. A `gptcli.layers.Weights` around another. Knows no files.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from gptcli.layers import Embedding, Weights
from gptcli.linear import Linear

WORKERS = 2  # each holds the floats of one layer

Names = tuple[str, ...]


class Ahead:
    """Weights whose blocks' layers are made by threads, the head meanwhile by whoever asks."""

    def __init__(self, weights: Weights) -> None:
        """`weights` must allow several threads to ask for layers."""
        self.config = weights.config
        self._weights = weights
        self._made: dict[Names, Future[Linear]] = {}

    def __enter__(self) -> "Ahead":
        """Begin."""
        self._threads = torch.get_num_threads()
        # On a busy machine the threads of one product would wait for one another.
        self._pool = ThreadPoolExecutor(WORKERS, "layers", torch.set_num_threads, (1,))
        for names in blocks(self.config.n_layers):
            self._made[names] = self._pool.submit(self._weights.linear, *names)
        return self

    def __exit__(self, *_problem: object) -> None:
        """Make no more."""
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)  # PyTorch's libraries have it from the last to say so

    def tensor(self, name: str) -> Tensor:
        """As the weights have it."""
        return self._weights.tensor(name)

    def embedding(self) -> Embedding:
        """As the weights have it."""
        return self._weights.embedding()

    def linear(self, *names: str) -> Linear:
        """As the weights have it, by now or soon."""
        if (made := self._made.pop(names, None)) is not None:
            return made.result()
        return self._weights.linear(*names)


def blocks(n_layers: int) -> Iterator[Names]:
    """The layers that are made as one, in the order in which `gptcli.fast` asks for them."""
    for block in (f"trf_blocks.{n}" for n in range(n_layers)):
        yield tuple(f"{block}.att.W_{part}" for part in ("query", "key", "value"))
        yield from ((f"{block}.{part}",) for part in ("att.out_proj", "ff.layers.0", "ff.layers.2"))
