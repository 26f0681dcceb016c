"""The book's DummyGPTModel: a GPT whose blocks and norms return their input.

It shows the data flow, and the cost of everything but the transformer blocks.
"""

import torch
from torch import Tensor, nn

from gptcli.model.config import GPTConfig


class DummyTransformerBlock(nn.Module):
    """Returns its input."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E) → the same."""
        return x


class DummyLayerNorm(nn.Module):
    """Returns its input; takes LayerNorm's arguments."""

    def __init__(self, normalized_shape: int, eps: float = 1e-5) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(…, E) → the same."""
        return x


class DummyGPTModel(nn.Module):
    """Token and position embedding, dropout, dummy blocks, dummy norm, output head without bias."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.emb_dim)
        self.pos_emb = nn.Embedding(config.context_length, config.emb_dim)
        self.drop_emb = nn.Dropout(config.drop_rates.emb)
        self.trf_blocks = nn.Sequential(
            *(DummyTransformerBlock(config) for _ in range(config.n_layers))
        )
        self.final_norm = DummyLayerNorm(config.emb_dim)
        self.out_head = nn.Linear(config.emb_dim, config.vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) ids → (B, T, V) logits."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions))
        return self.out_head(self.final_norm(self.trf_blocks(x)))
