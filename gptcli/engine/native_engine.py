"""The compiled kernels as an engine; see `gptcli.engine.interface`."""

from collections.abc import Mapping
from typing import Any

from gptcli.engine.native import NativeGPT, Network
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import Width


class NativeEngine(NativeGPT):
    """Computes on a CPU, with the same bits on every one."""

    def __init__(
        self,
        config: GPTConfig,
        tensors: Mapping[str, Any],
        *,
        threads: int | None = None,
        width: Width | None = None,
        isa: str | None = None,
    ) -> None:
        """As `NativeGPT` has it.

        Raises:
            UsageError, RunError: as `NativeGPT`.
            InputError: a config that cannot be computed.
        """
        config.require_computable()
        network = Network(
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            emb_dim=config.emb_dim,
            n_heads=config.n_heads,
            n_layers=config.n_layers,
            inner_dim=config.hidden_dim,
            activation=config.activation,
            epsilon=config.layer_norm_epsilon,
            scale_attention=config.scale_attn_weights,
            scale_by_layer=config.scale_attn_by_inverse_layer_idx,
        )
        super().__init__(network, tensors, threads=threads, width=width, isa=isa)
        self.config = config
