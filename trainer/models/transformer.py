"""A small Transformer encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Block", "Transformer"]


class Block(nn.Module):
    """Self-attention, then two linear layers with a ReLU between.

    Each half comes after a LayerNorm and is added to its input. Every position sees every other.
    dropout: of what each half adds, while training.
    """

    def __init__(self, n_features: int, n_heads: int, n_hidden: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(n_features)
        self.query_key_value = nn.Linear(n_features, 3 * n_features)
        self.attention_output = nn.Sequential(
            nn.Linear(n_features, n_features), nn.Dropout(dropout)
        )
        self.feedforward = nn.Sequential(
            nn.LayerNorm(n_features),
            nn.Linear(n_features, n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_features),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features [n_examples, length, n_features] for features of the same shape."""
        x = x + self._attend(self.attention_norm(x))
        added: Tensor = self.feedforward(x)
        return x + added

    def _attend(self, x: Tensor) -> Tensor:
        n_examples, length, n_features = x.shape
        heads = self.query_key_value(x).reshape(
            n_examples, length, 3, self.n_heads, n_features // self.n_heads
        )
        # [n_examples, n_heads, length, ...] each
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        # Not F.scaled_dot_product_attention: on a CPU vmap runs its fused kernel model by model,
        # and on sequences this short it is slower than the three operations in its place.
        weights = torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)
        attended = weights @ value
        mixed: Tensor = self.attention_output(
            attended.transpose(1, 2).reshape(n_examples, length, n_features)
        )
        return mixed


def check_heads(n_features: int, n_heads: int) -> None:
    """Raise ValueError where features cannot be shared evenly among the heads of attention."""
    if n_features % n_heads:
        raise ValueError(
            f"model.n_features={n_features} must be a multiple of model.n_heads={n_heads}"
        )


class Transformer(nn.Module):
    """Embeddings of symbol and position, n_layers of `Block`, LayerNorm, mean, linear layer.

    The mean is over the sequence. length: the longest sequence there can be. n_hidden: width within
    a block's linear layers. dropout: of the sum of both embeddings and of what each half of a block
    adds, as in the paper. Sources: Vaswani et al., arXiv 1706.03762; the norm before and not after:
    Xiong et al., arXiv 2002.04745.
    """

    def __init__(
        self,
        n_symbols: int,
        n_classes: int,
        length: int,
        n_features: int = 32,
        n_heads: int = 4,
        n_hidden: int = 64,
        n_layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        check_heads(n_features, n_heads)
        super().__init__()
        self.embedding = nn.Embedding(n_symbols, n_features)
        self.positions = nn.Parameter(torch.randn(length, n_features))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(Block(n_features, n_heads, n_hidden, dropout) for _ in range(n_layers))
        )
        self.norm = nn.LayerNorm(n_features)
        self.output = nn.Linear(n_features, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [n_examples, n_classes] for tokens [n_examples, length]."""
        x = self.dropout(self.embedding(tokens) + self.positions[: tokens.shape[1]])
        logits: Tensor = self.output(self.norm(self.blocks(x)).mean(1))
        return logits
