"""The best weights of a run, kept as it goes, so that a rebound never costs them."""

from __future__ import annotations

import copy
import math
import os
import pickle
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iolaus.sweeps.checkpoints import before_rebound, before_rebounds

__all__ = [
    "SMOOTHING",
    "WRITE_S",
    "BestWeights",
    "SmoothedLoss",
    "forget_rebounds",
    "is_rebound_to_keep",
    "keep_before_rebound",
    "load_best",
    "write_best",
]

# Weight of what came before in the smoothed loss: single lucky reports do not count as the best,
# ten reports do.
SMOOTHING = 0.9
# A file is not written more often than this; the best weights so far are in memory.
WRITE_S = 10.0
# The smoothed loss has rebounded once it has climbed by this share of its fall, as a curve's shape
# is called, and by so many standard errors, after as many reports as smoothing takes. Of 60 noisy
# plateaus of 2,000 reports none does so by chance; of 6 errors half would.
REBOUND = 0.1
SURE_ERRORS = 8.0
NOISE_SMOOTHING = 0.98
LEAST_WEIGHT = 0.5
N_REBOUNDS = 5  # the newest are kept: each is as large as the model and its optimizer


@dataclass(slots=True)
class SmoothedLoss:
    """The mean of all reported losses with weights that fall by `SMOOTHING` from one to the next.

    sum, weight: of all losses so far, weighted, and of their weights. lowest: it ever was. first:
    of the losses, NaN before it. squares, squares_weight: as sum and weight, of the squared
    distance of each loss from the mean of those before it, with weights that fall by
    `NOISE_SMOOTHING`. Source: Adam's bias correction, arXiv 1412.6980, section 3.
    """

    sum: float = 0.0
    weight: float = 0.0
    lowest: float = math.inf
    first: float = math.nan
    squares: float = 0.0
    squares_weight: float = 0.0

    def offer(self, loss: float) -> bool:
        """Take a report; returns whether the smoothed loss is now lower than ever.

        One that is not finite never is.
        """
        if self.weight:
            off, keep = loss - self.sum / self.weight, NOISE_SMOOTHING
            self.squares = keep * self.squares + (1 - keep) * off * off
            self.squares_weight = keep * self.squares_weight + (1 - keep)
        self.first = loss if math.isnan(self.first) else self.first
        self.sum = SMOOTHING * self.sum + (1 - SMOOTHING) * loss
        self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)
        smoothed = self.sum / self.weight
        if not math.isfinite(smoothed) or smoothed >= self.lowest:
            return False
        self.lowest = smoothed
        return True

    @property
    def rebound(self) -> float:
        """How far it has climbed back from the lowest; 0.0 if that may be noise, or is little.

        Little is less than a tenth of the way down from the first loss. NaN if it is not finite.
        """
        if self.weight < LEAST_WEIGHT or not self.squares_weight:
            return 0.0
        climb = self.sum / self.weight - self.lowest
        # The squared weights of a mean of this kind add up to this.
        share = (1 - SMOOTHING) / (1 + SMOOTHING) * (2 - self.weight) / self.weight
        error = math.sqrt(self.squares / self.squares_weight * share)
        is_little = climb <= max(REBOUND * (self.first - self.lowest), SURE_ERRORS * error)
        return 0.0 if is_little else climb


class BestWeights:
    """Keeps model and optimizer as they were at the lowest smoothed training loss.

    path: where to keep them on disk, or None for memory alone. clock: seconds, any origin. earlier:
    what `state_dict` gave in the process that the run goes on from.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = time.monotonic,
        earlier: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._written_s = -math.inf
        self._smoothed = SmoothedLoss(**earlier["smoothed"]) if earlier else SmoothedLoss()
        self._kept: dict[str, Any] | None = earlier["kept"] if earlier else None
        self._is_on_disk = self._kept is None

    @property
    def step(self) -> int | None:
        """The step of the best weights; None before the first report."""
        return None if self._kept is None else self._kept["step"]

    def offer(
        self,
        step: int,
        examples: int,
        loss: float,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> Path | None:
        """Take a report of the training loss; copy the weights at the lowest smoothed loss.

        Returns the file in which those from before a rebound are kept, at the report that makes it
        one.
        """
        if not self._smoothed.offer(loss):
            return self._keep_before_rebound()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        about = {"step": step, "examples": examples, "smoothed_loss": self._smoothed.lowest}
        self._kept = {**about, **copy.deepcopy(state)}
        self._is_on_disk = False
        if self._clock() - self._written_s >= WRITE_S:
            self.write()
        return None

    def _keep_before_rebound(self) -> Path | None:
        path, step = self._path, self.step
        if path is None or step is None or not is_rebound_to_keep(path, step, self._smoothed):
            return None
        self.write()
        return keep_before_rebound(path, step)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the best weights, and the optimizer's state of then, back."""
        if self._kept is not None:
            model.load_state_dict(self._kept["model"])
            optimizer.load_state_dict(copy.deepcopy(self._kept["optimizer"]))

    def state_dict(self) -> dict[str, Any]:
        """All that the next reports build on, for a checkpoint of the run."""
        return {"smoothed": asdict(self._smoothed), "kept": self._kept}

    def write(self) -> None:
        """Write the best weights to disk if they are not there yet."""
        if self._path is None or self._is_on_disk:
            return
        write_best(self._path, self._kept or {})
        self._written_s, self._is_on_disk = self._clock(), True


def write_best(path: Path, kept: Mapping[str, Any]) -> None:
    """Write what `load_best` reads; a reader never sees half a file."""
    unfinished = path.with_suffix(".writing")
    torch.save(dict(kept), unfinished)
    os.replace(unfinished, path)  # noqa: PTH105 (atomic on every system)


def is_rebound_to_keep(path: Path, step: int, smoothed: SmoothedLoss) -> bool:
    """Whether the loss has rebounded from a best.pt of this step that is not kept as yet."""
    return smoothed.rebound > 0 and not before_rebound(path, step).exists()


def keep_before_rebound(path: Path, step: int) -> Path:
    """Keep a best.pt, of the weights after `step` updates, under a name of its own beside it.

    Lower losses to come replace best.pt alone. Of more than `N_REBOUNDS` such files the oldest go.
    """
    named = before_rebound(path, step)
    try:
        named.hardlink_to(path)
    except OSError:  # a file system without links
        unfinished = named.with_suffix(".writing")
        shutil.copyfile(path, unfinished)
        unfinished.replace(named)
    for old in list(before_rebounds(path).values())[:-N_REBOUNDS]:
        old.unlink(missing_ok=True)
    return named


def forget_rebounds(path: Path) -> None:
    """Remove what an earlier run with this best.pt kept from before its rebounds."""
    for old in before_rebounds(path).values():
        old.unlink(missing_ok=True)


def load_best(path: Path) -> dict[str, Any]:
    """What `write_best` wrote.

    step, examples, smoothed_loss, and the state dicts `model` and `optimizer`. Raises ValueError if
    there is no such file, or it is something else.
    """
    try:
        kept = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"cannot read the checkpoint {path}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(kept, dict) or not {"step", "examples", "model", "optimizer"} <= kept.keys():
        raise ValueError(
            f"{path} is no checkpoint of this trainer; give a best.pt that a run has written"
        )
    return kept
