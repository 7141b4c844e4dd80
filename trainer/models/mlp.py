"""A multilayer perceptron."""

from __future__ import annotations

from torch import nn

__all__ = ["MLP"]


class MLP(nn.Sequential):
    """Flatten, n_layers of linear, ReLU and dropout with n_hidden units, and a linear layer.

    Its logits are [n_examples, n_classes]. n_inputs: numbers per example, whatever their shape.
    n_layers: hidden ones, 0 for a linear model. dropout: the chance that a hidden unit counts as 0
    in a training step (Srivastava et al., JMLR 15 (2014)).
    """

    def __init__(
        self,
        n_inputs: int,
        n_classes: int,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        width = n_inputs
        for _ in range(n_layers):
            layers += [nn.Linear(width, n_hidden), nn.ReLU(), nn.Dropout(dropout)]
            width = n_hidden
        super().__init__(*layers, nn.Linear(width, n_classes))
