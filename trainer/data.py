"""Examples, and the order in which a run sees them: a permutation per epoch, from its seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Batches", "Examples", "Splits", "epoch_order", "joined", "longest_run"]


@dataclass(frozen=True)
class Examples:
    """Inputs [n_examples, ...] with their targets [n_examples, ...]."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor | slice) -> Examples:
        return Examples(self.inputs[index], self.targets[index])

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Examples:
        """The same on a device; floating inputs, not tokens, become `dtype`."""
        inputs = (
            self.inputs.to(device, dtype)
            if self.inputs.is_floating_point()
            else self.inputs.to(device)
        )
        return Examples(inputs, self.targets.to(device))


def joined(*parts: Examples) -> Examples:
    """The examples of several sets as one, in their order."""
    return Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))


@dataclass(frozen=True)
class Splits:
    """What a task trains on, what measures it meanwhile, and what is for the end alone."""

    train: Examples
    val: Examples
    test: Examples


def epoch_order(
    n_examples: int, seed: int, epoch: int, buffer: int | None = None
) -> NDArray[np.int64]:
    """The order of one epoch's examples, [n_examples], drawn from (seed, epoch) and nothing else.

    buffer: None for a full permutation; otherwise what a shuffle buffer of so many examples gives:
    the buffer is filled in file order, one of it is drawn, and its place is taken by the next
    example (as tf.data's `shuffle`).
    """
    rng = np.random.default_rng([seed, epoch])
    if buffer is None or buffer >= n_examples:
        return rng.permutation(n_examples)
    waiting = list(range(buffer))
    order = np.empty(n_examples, np.int64)
    for i in range(n_examples):
        drawn = int(rng.integers(len(waiting)))
        order[i] = waiting[drawn]
        if buffer + i < n_examples:
            waiting[drawn] = buffer + i
        else:
            waiting[drawn] = waiting[-1]
            waiting.pop()
    return order


def longest_run(targets: Tensor) -> int:
    """Length of the longest stretch of equal neighbours in targets [n_examples], or 0.

    0 too where targets are no classes, but sequences or numbers.
    """
    if len(targets) == 0 or targets.ndim > 1 or targets.is_floating_point():
        return 0
    return int(torch.unique_consecutive(targets, return_counts=True, dim=0)[1].max())


class Batches:
    """The endless sequence of a run's examples: epoch after epoch, each example once per epoch.

    Where a batch begins is all the state there is (`first`, the examples seen so far), so a run can
    be taken up anywhere. A batch may reach over the end of an epoch into the next one, so all
    batches have the size asked for.
    """

    def __init__(self, examples: Examples, seed: int, buffer: int | None = None) -> None:
        self._examples, self._seed, self._buffer = examples, seed, buffer
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def at(self, first: int, size: int) -> Examples:
        """The examples from position `first` to `first + size` of the sequence."""
        return self._examples[self.places(first, size)]

    def places(self, first: int, size: int) -> Tensor:
        """Where in the data the examples from `first` to `first + size` are, int64 [size]."""
        pieces = []
        while size > 0:
            epoch, offset = divmod(first, len(self._examples))
            piece = self._epoch_order(epoch)[offset : offset + size]
            pieces.append(piece)
            first, size = first + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _epoch_order(self, epoch: int) -> Tensor:
        if epoch != self._epoch:  # kept from batch to batch: drawing it costs more than a step
            order = epoch_order(len(self._examples), self._seed, epoch, self._buffer)
            self._epoch, self._order = (
                epoch,
                torch.from_numpy(order).to(self._examples.targets.device),
            )
        return self._order
