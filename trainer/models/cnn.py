"""A small convolutional network."""

from __future__ import annotations

from torch import nn

__all__ = ["CNN"]


class CNN(nn.Sequential):
    """Two 3 x 3 convolutions, each with GroupNorm, ReLU and 2 x 2 pooling, and a linear layer.

    Images [n_examples, n_channels_in, side, side] become logits [n_examples, n_classes]; side must
    be a multiple of 4. GroupNorm (Wu and He, arXiv 1803.08494) and not BatchNorm: an example's loss
    does not depend on its batch, so batch sizes can be compared and nothing but the weights has to
    be kept.
    """

    def __init__(
        self, n_channels_in: int, side: int, n_classes: int, n_channels: int = 16, n_groups: int = 4
    ) -> None:
        if side % 4 or n_channels % n_groups:
            raise ValueError(
                f"model.side={side} must be a multiple of 4 "
                f"and model.n_channels={n_channels} one of model.n_groups={n_groups}"
            )
        super().__init__(
            nn.Conv2d(n_channels_in, n_channels, 3, padding=1),
            nn.GroupNorm(n_groups, n_channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(n_channels, 2 * n_channels, 3, padding=1),
            nn.GroupNorm(n_groups, 2 * n_channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * n_channels * (side // 4) ** 2, n_classes),
        )
