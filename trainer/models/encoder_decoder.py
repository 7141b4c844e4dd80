"""A Transformer that reads one sequence and writes another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iolaus.trainer.models.transformer import check_heads

__all__ = ["PAD", "EncoderDecoder"]

PAD = 0  # the symbol that fills a sequence up to its length; nothing attends to it


class Attention(nn.Module):
    """What each position of one sequence takes from the positions of another, or of its own."""

    def __init__(self, n_features: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(n_features, n_features)
        self.key = nn.Linear(n_features, n_features)
        self.value = nn.Linear(n_features, n_features)
        self.output = nn.Linear(n_features, n_features)

    def forward(self, x: Tensor, memory: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Features of x's shape [n, t, n_features], and the scores [n, n_heads, t, s] behind them.

        memory: [n, s, n_features]. hidden: whether a position of memory is not to be seen,
        [n, 1, 1 or t, s]; its score is minus infinity.
        """
        query, key, value = (
            layer(of).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer, of in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(hidden, -torch.inf)
        attended = scores.softmax(-1) @ value
        return self.output(attended.transpose(1, 2).flatten(2)), scores


class Layer(nn.Module):
    """Self-attention, attention to the source if it `has_source`, two linear layers with a ReLU.

    Each comes after a LayerNorm and, with dropout, is added to its input.
    """

    def __init__(
        self, n_features: int, n_heads: int, n_hidden: int, dropout: float, has_source: bool
    ) -> None:
        super().__init__()
        self.own_norm = nn.LayerNorm(n_features)
        self.own = Attention(n_features, n_heads)
        if has_source:
            self.source_norm = nn.LayerNorm(n_features)
            self.source = Attention(n_features, n_heads)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(n_features),
            nn.Linear(n_features, n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_features),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, hidden: Tensor, memory: Tensor | None = None, ends: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Features of x's shape, and the scores of the attention to the source if there is one.

        hidden, ends: of x and of the source, see `Attention`. memory: the source's features.
        """
        normed = self.own_norm(x)
        x = x + self.dropout(self.own(normed, normed, hidden)[0])
        scores = None
        if memory is not None:
            taken, scores = self.source(self.source_norm(x), memory, ends)
            x = x + self.dropout(taken)
        return x + self.dropout(self.feedforward(x)), scores


class Stack(nn.Module):
    """Embeddings of symbol and position, layers, LayerNorm."""

    def __init__(
        self,
        n_symbols: int,
        length: int,
        n_features: int,
        n_heads: int,
        n_hidden: int,
        n_layers: int,
        dropout: float,
        has_source: bool,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_symbols, n_features)
        self.positions = nn.Parameter(torch.randn(length, n_features))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(n_features, n_heads, n_hidden, dropout, has_source) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(n_features)

    def forward(
        self,
        symbols: Tensor,
        hidden: Tensor,
        memory: Tensor | None = None,
        ends: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Features [n, t, n_features] of symbols [n, t], and each layer's scores of the source."""
        x = self.dropout(self.embedding(symbols) + self.positions[: symbols.shape[1]])
        found = []
        for layer in self.layers:
            x, scores = layer(x, hidden, memory, ends)
            if scores is not None:
                found.append(scores)
        return self.norm(x), found


class EncoderDecoder(nn.Module):
    """n_layers that read the source and n_layers that write the target, symbol by symbol.

    n_source, n_target: symbols of either language. source_length, target_length: the longest
    sequences there can be. n_features, n_heads, n_hidden, n_layers, dropout: of both halves.
    decoder_first: the decoder's parameters are made before the encoder's. That changes no
    computation, and, since they are drawn from one generator, all the first weights. Source:
    Vaswani et al., arXiv 1706.03762, with the norm before each part (Xiong et al., arXiv
    2002.04745) and learned positions.
    """

    def __init__(
        self,
        n_source: int,
        n_target: int,
        source_length: int,
        target_length: int,
        n_features: int = 32,
        n_heads: int = 4,
        n_hidden: int = 64,
        n_layers: int = 2,
        dropout: float = 0.1,
        decoder_first: bool = False,
    ) -> None:
        check_heads(n_features, n_heads)
        super().__init__()
        self.source_length = source_length
        sizes = (n_features, n_heads, n_hidden, n_layers, dropout)
        for half in ("decoder", "encoder") if decoder_first else ("encoder", "decoder"):
            if half == "encoder":
                self.encoder = Stack(n_source, source_length, *sizes, has_source=False)
            else:
                self.decoder = Stack(n_target, target_length, *sizes, has_source=True)
                self.output = nn.Linear(n_features, n_target)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [n, t, n_target] of the symbol that comes next, for each prefix of the target.

        inputs: source and target side by side, int64 [n, source_length + t]; PAD fills up the
        source.
        """
        return self.attend(inputs)[0]

    def attend(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and each layer's scores [n, n_heads, t, source_length] of source positions.

        Their softmax is the attention; they are minus infinity where the source is PAD.
        """
        source, target = inputs[:, : self.source_length], inputs[:, self.source_length :]
        memory, ends = self.encode(source)
        return self.decode(target, memory, ends)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Features [n, s, n_features] of a source [n, s], and where it has ended [n, 1, 1, s]."""
        ends = (source == PAD)[:, None, None, :]
        return self.encoder(source, ends)[0], ends

    def decode(self, target: Tensor, memory: Tensor, ends: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `attend`, for a source that has been read."""
        length = target.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=target.device).triu(1)
        features, scores = self.decoder(target, later[None, None], memory, ends)
        return self.output(features), scores
