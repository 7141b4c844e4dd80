"""Scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 10 classes."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from iolaus.trainer.data import Examples, Splits
from iolaus.trainer.tasks.images import ImageClassification

__all__ = ["Digits"]

N_IMAGES = 1797


@dataclass(frozen=True, kw_only=True)
class Digits(ImageClassification):
    """Images [n, 1, 8, 8] with pixels from 0 to 1, and their digit.

    n_val and n_test images are set aside by data_seed; the others are for training, or the first
    n_train of them. wrong_labels: the share of the training images whose label is drawn evenly
    instead. in_order: whether training images come in the order of their labels, as many files do.
    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI; as in
    sklearn.datasets.load_digits.
    """

    n_val: int = 300
    n_test: int = 300
    n_train: int | None = None
    wrong_labels: float = 0.0
    in_order: bool = False
    data_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.n_val, self.n_test) < 1 or self.n_val + self.n_test >= N_IMAGES:
            raise ValueError(
                f"task.n_val={self.n_val} and task.n_test={self.n_test} must be from 1 up and "
                f"leave some of the {N_IMAGES} images for training"
            )
        n_left = N_IMAGES - self.n_val - self.n_test
        if self.n_train is not None and not 1 <= self.n_train <= n_left:
            raise ValueError(
                f"task.n_train is from 1 to the {n_left} images left, or null for all of them; "
                f"got {self.n_train}"
            )
        if not 0 <= self.wrong_labels <= 1:
            raise ValueError(f"task.wrong_labels is a share, 0 to 1; got {self.wrong_labels}")

    def data(self) -> Splits:
        """Inputs float32 [n, 1, 8, 8], targets int64 [n]."""
        pixels, labels = _table()
        order = np.random.default_rng(self.data_seed).permutation(N_IMAGES)
        images = torch.from_numpy(pixels[order].astype(np.float32) / 16.0).reshape(-1, 1, 8, 8)
        examples = Examples(images, torch.from_numpy(labels[order].astype(np.int64)))
        n_train = N_IMAGES - self.n_val - self.n_test
        return Splits(
            train=self._spoiled(examples[: self.n_train or n_train]),
            val=examples[n_train : n_train + self.n_val],
            test=examples[n_train + self.n_val :],
        )

    def _spoiled(self, train: Examples) -> Examples:
        """Training examples with wrong labels, and in order, where that is asked for."""
        rng = np.random.default_rng([self.data_seed, 1])
        is_wrong = torch.from_numpy(rng.random(len(train)) < self.wrong_labels)
        drawn = torch.from_numpy(rng.integers(10, size=len(train)))
        targets = torch.where(is_wrong, drawn, train.targets)
        if not self.in_order:
            return Examples(train.inputs, targets)
        order = torch.argsort(targets, stable=True)
        return Examples(train.inputs[order], targets[order])


def _table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What load_digits(return_X_y=True) returns.

    Importing scikit-learn for it would take every worker a second.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "task=digits reads its images from scikit-learn: pip install scikit-learn"
        )
    with gzip.open(Path(package.origin).parent / "datasets/data/digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1]
