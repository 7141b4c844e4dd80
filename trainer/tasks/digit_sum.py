"""The sum of the first two digits of a sequence, which a recurrence must carry to its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from iolaus.trainer.data import Examples, Splits
from iolaus.trainer.tasks.base import Classification

__all__ = ["DigitSum"]


@dataclass(frozen=True, kw_only=True)
class DigitSum(Classification):
    """Sequences of digits whose label is the sum of the first two, 0 to 18.

    The first two digits are drawn evenly from 0-9, the others are zero but for `n_distractors` of
    them, at random places, which are drawn from 0-9 too. data_seed decides the three sets; they
    share no generator state.
    """

    length: int = 20
    n_distractors: int = 2
    n_train: int = 6400
    n_val: int = 1000
    n_test: int = 1000
    data_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.n_distractors <= self.length - 2:
            raise ValueError(
                "task.n_distractors must fit behind the first two of "
                f"task.length={self.length} digits; got {self.n_distractors}"
            )
        if min(self.n_train, self.n_val, self.n_test) < 1:
            raise ValueError(
                f"each set needs an example; got {self.n_train}, {self.n_val} and {self.n_test}"
            )

    def data(self) -> Splits:
        """Inputs int64 [n, length], targets int64 [n]."""
        generators = np.random.default_rng(self.data_seed).spawn(3)
        sizes = (self.n_train, self.n_val, self.n_test)
        return Splits(*(self._draw(n, rng) for n, rng in zip(sizes, generators, strict=True)))

    def _draw(self, n_examples: int, rng: np.random.Generator) -> Examples:
        digits = np.zeros((n_examples, self.length), np.int64)
        digits[:, :2] = rng.integers(10, size=(n_examples, 2))
        places = (
            2 + rng.random((n_examples, self.length - 2)).argsort(axis=1)[:, : self.n_distractors]
        )
        np.put_along_axis(digits, places, rng.integers(10, size=places.shape), axis=1)
        return Examples(torch.from_numpy(digits), torch.from_numpy(digits[:, :2].sum(axis=1)))
