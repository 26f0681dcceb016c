"""Layers that threads make are those that one would have made, and an end is an end."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from test_load import CONFIG
from torch import Tensor

from gptcli.core.errors import InputError
from gptcli.engine.ahead import WORKERS, Ahead
from gptcli.engine.fast import FastGPT
from gptcli.engine.layers import HEAD, Embedding, Floats, of_blocks
from gptcli.engine.linear import Linear, fbgemm, has_fbgemm
from gptcli.model.gpt import untrained

MODEL = replace(CONFIG, emb_dim=64, n_heads=4, n_layers=5)


class Watched:
    """The weights of a model; who asked for what, and where it goes wrong."""

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        self._weights = Floats(untrained(MODEL, 1), "int8")
        self.config = self._weights.config
        self.asked: dict[tuple[str, ...], threading.Thread] = {}
        self._broken = broken

    def tensor(self, name: str) -> Tensor:
        return self._weights.tensor(name)

    def embedding(self) -> Embedding:
        return self._weights.embedding()

    def linear(self, *names: str) -> Linear:
        self.asked[names] = threading.current_thread()
        if names == self._broken:
            raise InputError("weights", "are damaged")
        return self._weights.linear(*names)


def test_blocks_are_made_by_threads_and_the_head_by_the_caller() -> None:
    weights = Watched()
    with Ahead(weights) as ahead:
        fast = FastGPT(ahead)
    assert weights.asked.keys() == {(HEAD,), *of_blocks(MODEL.n_layers)}
    assert weights.asked.pop((HEAD,)) is threading.current_thread()
    assert threading.current_thread() not in weights.asked.values()
    assert len(set(weights.asked.values())) <= WORKERS
    ids = torch.arange(12)[None]
    assert torch.equal(fast(ids), FastGPT(untrained(MODEL, 1), "int8")(ids))


def test_what_goes_wrong_in_a_thread_is_the_callers_and_ends_the_others() -> None:
    broken = next(of_blocks(MODEL.n_layers))
    weights = Watched(broken)
    before = torch.get_num_threads()
    with pytest.raises(InputError, match="are damaged"), Ahead(weights) as ahead:
        FastGPT(ahead)
    assert torch.get_num_threads() == before
    alive = [thread for thread in threading.enumerate() if thread.name.startswith("layers")]
    assert not alive


@pytest.fixture
def engine() -> Iterator[str]:
    """A setting of the process's own that is not FBGEMM."""
    engines = torch.backends.quantized
    others = [name for name in engines.supported_engines if name not in {"fbgemm", "none"}]
    if not has_fbgemm() or not others:
        pytest.skip("needs FBGEMM and another library")
    before, engines.engine = engines.engine, others[0]
    yield others[0]
    engines.engine = before


def test_the_library_stays_until_the_last_thread_has_packed(engine: str) -> None:
    engines = torch.backends.quantized
    with fbgemm():
        with fbgemm():
            pass
        assert engines.engine == "fbgemm"
    assert engines.engine == engine
