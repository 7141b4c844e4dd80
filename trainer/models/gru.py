"""The gated recurrent unit, written out: torch's own fused one cannot be stacked by vmap."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iolaus.trainer.models._gated import GatedLayer, SequenceClassifier

__all__ = ["GRU", "GRULayer"]


class GRULayer(GatedLayer):
    """One layer of `nn.GRU`: the same function of the same four parameters.

    Their rows are reset gate, update gate, candidate. The reset gate acts on what comes from h
    after the product, bias_hh included, so that the two biases of the candidate are not one.
    Source: Cho et al., arXiv 1406.1078, as written in the documentation of `nn.GRU`.
    """

    def __init__(self, n_inputs: int, n_hidden: int) -> None:
        super().__init__(n_inputs, n_hidden, n_gates=3)

    def from_inputs(self, inputs: Tensor) -> Tensor:
        """What inputs add to the gates; see `GatedLayer`."""
        return F.linear(inputs, self.weight_ih, self.bias_ih)

    def recur(self, from_inputs: Tensor) -> list[Tensor]:
        """The h of each time step; see `GatedLayer`."""
        hidden: list[Tensor] = []
        for x in from_inputs.unbind(0):
            reset_x, update_x, candidate_x = x.chunk(3, -1)
            h = F.linear(hidden[-1], self.weight_hh, self.bias_hh) if hidden else self.bias_hh
            reset_h, update_h, candidate_h = h.chunk(3, -1)
            update = torch.sigmoid(update_x + update_h)
            candidate = torch.tanh(candidate_x + torch.sigmoid(reset_x + reset_h) * candidate_h)
            kept = update * hidden[-1] if hidden else 0.0
            hidden.append((1 - update) * candidate + kept)
        return hidden


class GRU(SequenceClassifier):
    """Embedding, n_layers of GRU over the sequence, and a linear layer on the last h."""

    def __init__(
        self,
        n_symbols: int,
        n_classes: int,
        n_embedding: int = 32,
        n_hidden: int = 32,
        n_layers: int = 1,
    ) -> None:
        super().__init__(GRULayer, n_symbols, n_classes, n_embedding, n_hidden, n_layers)
