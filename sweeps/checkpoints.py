"""Stand-in until the store is merged."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Checkpoint", "adopt", "newest"]


@dataclass(frozen=True)
class Checkpoint:
    """Stand-in."""

    path: Path
    step: int
    seconds: float


def adopt(folder: Path, trial_folder: Path, step: int, seconds: float) -> Checkpoint:
    """Stand-in."""
    place = trial_folder / "checkpoints" / f"step_{step:09d}"
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(folder, place)  # noqa: PTH105
    for older in sorted(place.parent.iterdir())[:-2]:
        shutil.rmtree(older)
    return Checkpoint(place, step, seconds)


def newest(trial_folder: Path) -> Checkpoint | None:
    """Stand-in."""
    found = sorted((trial_folder / "checkpoints").glob("step_*"))
    return Checkpoint(found[-1], int(found[-1].name[5:]), 0.0) if found else None
