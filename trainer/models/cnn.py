"""A small convolutional network."""

from __future__ import annotations

from torch import nn

__all__ = ["CNN"]


class CNN(nn.Sequential):
    """Two 3 x 3 convolutions, each with a norm, ReLU and 2 x 2 pooling, and a linear layer.

    Images [n_examples, n_channels_in, side, side] become logits [n_examples, n_classes].
    side: a multiple of 4. norm: "group" (Wu and He, arXiv 1803.08494), with which the loss of an
    example does not depend on its batch, so that batch sizes can be compared; or "batch" (Ioffe and
    Szegedy, arXiv 1502.03167), with running statistics for validation, which checkpoints and lanes
    keep, and with batch.accumulate the statistics of each part.
    """

    def __init__(
        self,
        n_channels_in: int,
        side: int,
        n_classes: int,
        n_channels: int = 16,
        n_groups: int = 4,
        norm: str = "group",
    ) -> None:
        if norm not in ("group", "batch"):
            raise ValueError(f'model.norm is "group" or "batch"; got {norm!r}')
        if side % 4 or n_channels % n_groups:
            raise ValueError(
                f"model.side={side} must be a multiple of 4 "
                f"and model.n_channels={n_channels} one of model.n_groups={n_groups}"
            )

        def normed(n: int) -> nn.Module:
            return nn.BatchNorm2d(n) if norm == "batch" else nn.GroupNorm(n_groups, n)

        super().__init__(
            nn.Conv2d(n_channels_in, n_channels, 3, padding=1),
            normed(n_channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(n_channels, 2 * n_channels, 3, padding=1),
            normed(2 * n_channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * n_channels * (side // 4) ** 2, n_classes),
        )
