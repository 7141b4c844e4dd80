"""The plain tanh recurrence, with its three parameters under their names in the literature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RNN"]


class RNN(nn.Module):
    """Embedding, `h = tanh(W x + U h + b)` over the sequence, and a linear layer on the last h.

    W: [n_hidden, n_embedding], evenly in +-1/sqrt(n_hidden) at first; U: [n_hidden, n_hidden],
    orthogonal at first, so that what the first digits wrote is neither lost nor blown up before
    training begins; b: [n_hidden], zero.
    Sources: Elman, Cognitive Science 14 (1990); the start: Saxe et al., arXiv 1312.6120; how its
    gradients explode: Pascanu et al., arXiv 1211.5063.
    """

    def __init__(
        self, n_symbols: int, n_classes: int, n_embedding: int = 32, n_hidden: int = 32
    ) -> None:
        super().__init__()
        bound = n_hidden**-0.5
        self.embedding = nn.Embedding(n_symbols, n_embedding)
        self.W = nn.Parameter(torch.empty(n_hidden, n_embedding).uniform_(-bound, bound))
        self.U = nn.Parameter(nn.init.orthogonal_(torch.empty(n_hidden, n_hidden)))
        self.b = nn.Parameter(torch.zeros(n_hidden))
        self.output = nn.Linear(n_hidden, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [n_examples, n_classes] for tokens [n_examples, length]."""
        # W E + b for each symbol once, then looked up: only the recurrence itself has to go step by
        # step.
        inputs = F.embedding(tokens, F.linear(self.embedding.weight, self.W, self.b)).unbind(1)
        hidden = torch.tanh(inputs[0])
        for x in inputs[1:]:
            hidden = torch.tanh(torch.addmm(x, hidden, self.U.T))  # one operation, not two
        logits: Tensor = self.output(hidden)
        return logits
