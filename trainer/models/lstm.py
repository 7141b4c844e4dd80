"""The long short-term memory, written out: torch's own fused one cannot be stacked by vmap."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iolaus.trainer.models._gated import GatedLayer, SequenceClassifier

__all__ = ["LSTM", "LSTMLayer"]


class LSTMLayer(GatedLayer):
    """One layer of `nn.LSTM`: the same function of the same four parameters.

    Their rows are input gate, forget gate, candidate, output gate. That one bias would do is known;
    two are kept since optimizers move their sum twice as far. Source: Hochreiter and Schmidhuber,
    Neural Computation 9 (1997), with the forget gate of Gers et al. (2000), as written in the
    documentation of `nn.LSTM`.
    """

    def __init__(self, n_inputs: int, n_hidden: int) -> None:
        super().__init__(n_inputs, n_hidden, n_gates=4)

    def from_inputs(self, inputs: Tensor) -> Tensor:
        """What inputs add to the gates; see `GatedLayer`."""
        return F.linear(inputs, self.weight_ih, self.bias_ih + self.bias_hh)

    def recur(self, from_inputs: Tensor) -> list[Tensor]:
        """The h of each time step; see `GatedLayer`."""
        hidden: list[Tensor] = []
        cell: Tensor | None = None
        for x in from_inputs.unbind(0):
            gates = x + F.linear(hidden[-1], self.weight_hh) if hidden else x
            write, keep, candidate, show = gates.chunk(4, -1)
            written = torch.sigmoid(write) * torch.tanh(candidate)
            cell = written if cell is None else torch.sigmoid(keep) * cell + written
            hidden.append(torch.sigmoid(show) * torch.tanh(cell))
        return hidden


class LSTM(SequenceClassifier):
    """Embedding, n_layers of LSTM over the sequence, and a linear layer on the last h."""

    def __init__(
        self,
        n_symbols: int,
        n_classes: int,
        n_embedding: int = 32,
        n_hidden: int = 32,
        n_layers: int = 1,
    ) -> None:
        super().__init__(LSTMLayer, n_symbols, n_classes, n_embedding, n_hidden, n_layers)
