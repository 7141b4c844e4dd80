"""The best weights of a run, kept as it goes, so that a rebound never costs them."""

from __future__ import annotations

import copy
import math
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["SMOOTHING", "WRITE_S", "BestWeights", "SmoothedLoss", "load_best", "write_best"]

# Weight of what came before in the smoothed loss: single lucky reports do not count as the best,
# ten reports do.
SMOOTHING = 0.9
# A file is not written more often than this; the best weights so far are in memory.
WRITE_S = 10.0


@dataclass(slots=True)
class SmoothedLoss:
    """The mean of all reported losses with weights that fall by `SMOOTHING` from one to the next.

    sum, weight: of all losses so far, weighted, and of their weights. lowest: it ever was. Source:
    Adam's bias correction, arXiv 1412.6980, section 3.
    """

    sum: float = 0.0
    weight: float = 0.0
    lowest: float = math.inf

    def offer(self, loss: float) -> bool:
        """Take a report; returns whether the smoothed loss is now lower than ever.

        One that is not finite never is.
        """
        self.sum = SMOOTHING * self.sum + (1 - SMOOTHING) * loss
        self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)
        smoothed = self.sum / self.weight
        if not math.isfinite(smoothed) or smoothed >= self.lowest:
            return False
        self.lowest = smoothed
        return True


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
    ) -> None:
        """Take a report of the training loss; copy the weights at the lowest smoothed loss."""
        if not self._smoothed.offer(loss):
            return
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        about = {"step": step, "examples": examples, "smoothed_loss": self._smoothed.lowest}
        self._kept = {**about, **copy.deepcopy(state)}
        self._is_on_disk = False
        if self._clock() - self._written_s >= WRITE_S:
            self.write()

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
