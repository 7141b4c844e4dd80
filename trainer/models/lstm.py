"""The long short-term memory, written out: torch's own fused one cannot be stacked by vmap."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LSTM", "LSTMLayer"]


class LSTMLayer(nn.Module):
    """One layer of `nn.LSTM`: the same function of the same four parameters.

    They are drawn in the same way and order: weight_ih [4 n_hidden, n_inputs], weight_hh [4
    n_hidden, n_hidden], bias_ih and bias_hh [4 n_hidden], each evenly in +-1/sqrt(n_hidden) at
    first; their rows are input gate, forget gate, candidate, output gate. That one bias would do is
    known; two are kept since optimizers move their sum twice as far. Source: Hochreiter and
    Schmidhuber, Neural Computation 9 (1997), with the forget gate of Gers et al. (2000), as written
    in the documentation of `nn.LSTM`.
    """

    def __init__(self, n_inputs: int, n_hidden: int) -> None:
        super().__init__()
        bound = n_hidden**-0.5
        self.weight_ih = nn.Parameter(torch.empty(4 * n_hidden, n_inputs).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(4 * n_hidden, n_hidden).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(4 * n_hidden).uniform_(-bound, bound))
        self.bias_hh = nn.Parameter(torch.empty(4 * n_hidden).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """The h of each time step, [n_examples, n_hidden], beginning from zero.

        inputs: [length, n_examples, n_inputs].
        """
        # One product for all time steps; only the recurrence itself has to go step by step.
        from_inputs = F.linear(inputs, self.weight_ih, self.bias_ih + self.bias_hh).unbind(0)
        hidden: list[Tensor] = []
        cell: Tensor | None = None
        for x in from_inputs:
            gates = x + F.linear(hidden[-1], self.weight_hh) if hidden else x
            write, keep, candidate, show = gates.chunk(4, -1)
            written = torch.sigmoid(write) * torch.tanh(candidate)
            cell = written if cell is None else torch.sigmoid(keep) * cell + written
            hidden.append(torch.sigmoid(show) * torch.tanh(cell))
        return hidden


class LSTM(nn.Module):
    """Embedding, n_layers of LSTM over the sequence, and a linear layer on the last h."""

    def __init__(
        self,
        n_symbols: int,
        n_classes: int,
        n_embedding: int = 32,
        n_hidden: int = 32,
        n_layers: int = 1,
    ) -> None:
        if n_layers < 1:
            raise ValueError(f"model.n_layers must be from 1 up; got {n_layers}")
        super().__init__()
        self.embedding = nn.Embedding(n_symbols, n_embedding)
        widths = [n_embedding] + [n_hidden] * n_layers
        self.layers = nn.ModuleList(LSTMLayer(*pair) for pair in pairwise(widths))
        self.output = nn.Linear(n_hidden, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [n_examples, n_classes] for tokens [n_examples, length]."""
        first, *others = self.layers
        hidden = first(self.embedding(tokens.t()))  # time first: each step's numbers lie together
        for layer in others:
            hidden = layer(torch.stack(hidden))
        logits: Tensor = self.output(hidden[-1])
        return logits
