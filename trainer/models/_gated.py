"""What the gated recurrences share: parameters as torch's, and the classifier around them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GatedLayer", "SequenceClassifier"]


class GatedLayer(nn.Module, ABC):
    """A layer of a recurrence whose parameters have a block of n_hidden rows per gate.

    weight_ih [n_gates n_hidden, n_inputs], weight_hh [n_gates n_hidden, n_hidden], bias_ih and
    bias_hh [n_gates n_hidden] are drawn as torch's recurrences draw them, in the same order, each
    evenly in +-1/sqrt(n_hidden).
    """

    def __init__(self, n_inputs: int, n_hidden: int, n_gates: int) -> None:
        super().__init__()
        bound, n_rows = n_hidden**-0.5, n_gates * n_hidden
        self.weight_ih = nn.Parameter(torch.empty(n_rows, n_inputs).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(n_rows, n_hidden).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(n_rows).uniform_(-bound, bound))
        self.bias_hh = nn.Parameter(torch.empty(n_rows).uniform_(-bound, bound))

    @abstractmethod
    def from_inputs(self, inputs: Tensor) -> Tensor:
        """What inputs [..., n_inputs] add to the gates, [..., n_gates n_hidden]."""

    @abstractmethod
    def recur(self, from_inputs: Tensor) -> list[Tensor]:
        """The h of each time step, [n_examples, n_hidden], beginning from zero.

        from_inputs: of the inputs, [length, n_examples, n_gates n_hidden].
        """

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """The h of each time step for inputs [length, n_examples, n_inputs]; see `recur`."""
        # One product for all time steps; only the recurrence itself has to go step by step.
        return self.recur(self.from_inputs(inputs))


class SequenceClassifier(nn.Module):
    """Embedding, n_layers of a recurrence over the sequence, and a linear layer on the last h.

    layer: makes one from (n_inputs, n_hidden).
    """

    def __init__(
        self,
        layer: Callable[[int, int], GatedLayer],
        n_symbols: int,
        n_classes: int,
        n_embedding: int,
        n_hidden: int,
        n_layers: int,
    ) -> None:
        if n_layers < 1:
            raise ValueError(f"model.n_layers must be from 1 up; got {n_layers}")
        super().__init__()
        self.embedding = nn.Embedding(n_symbols, n_embedding)
        widths = [n_embedding] + [n_hidden] * n_layers
        self.layers = nn.ModuleList(layer(*pair) for pair in pairwise(widths))
        self.output = nn.Linear(n_hidden, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [n_examples, n_classes] for tokens [n_examples, length]."""
        first, *others = cast(Iterable[GatedLayer], self.layers)
        times = tokens.t()  # time first: each step's numbers lie together
        if self.embedding.num_embeddings < tokens.numel():  # one product per symbol, looked up
            hidden = first.recur(F.embedding(times, first.from_inputs(self.embedding.weight)))
        else:
            hidden = first(self.embedding(times))
        for layer in others:
            hidden = layer(torch.stack(hidden))
        logits: Tensor = self.output(hidden[-1])
        return logits
