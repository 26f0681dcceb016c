"""Layers that are made side by side, before they are asked for.

Rounding and packing weights takes longer than reading them, and each layer's is the work of one
thread. A `gptcli.engine.layers.Weights` around another. Knows no files.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from gptcli.engine.layers import HEAD, Embedding, Names, Weights, of_blocks
from gptcli.engine.linear import Linear

WORKERS = 2  # each holds the floats of one layer


class Ahead:
    """Weights whose blocks' layers are made by threads, from the first one that is asked for.

    Not before: embedding and head, made first, hold more floats than all that follows.
    """

    def __init__(self, weights: Weights) -> None:
        """`weights` must allow several threads to ask for layers."""
        self.config = weights.config
        self._weights = weights
        self._made: dict[Names, Future[Linear]] = {}

    def __enter__(self) -> "Ahead":
        """Inside, layers may be asked for."""
        self._threads = torch.get_num_threads()
        # On a busy machine the threads of one product would wait for one another.
        self._pool = ThreadPoolExecutor(WORKERS, "layers", torch.set_num_threads, (1,))
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
        if names == (HEAD,):
            return self._weights.linear(*names)
        if not self._made:
            for each in of_blocks(self.config.n_layers):
                self._made[each] = self._pool.submit(self._weights.linear, *each)
        return self._made[names].result()
