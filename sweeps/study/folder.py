"""A sweep's folder: what its files are called, who may write to it, what it says of itself."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from iolaus.sweeps.errors import BadInputError

__all__ = [
    "CURVES_FOLDER",
    "EVENTS_FILE",
    "RESULTS_FILE",
    "STUDY_FILE",
    "SWEEP_FILE",
    "describe_sweep",
    "locked",
    "short",
]

STUDY_FILE = "study.db"
SWEEP_FILE = "sweep.yaml"
EVENTS_FILE = "events.jsonl"
RESULTS_FILE = "optimization_results.yaml"
CURVES_FOLDER = "curves"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a sweep's folder, made if it is missing, for this process alone.

    Gives the lock's descriptor: a process that is forked meanwhile holds the folder too, for as
    long as it lives, unless it closes this. Raises BadInputError if another process holds it, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise BadInputError(
            f"cannot write to {folder}: {error.strerror}; choose another hydra.sweep.dir"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInputError(
                f"another sweep is running in {folder}; wait for it, or choose another"
            ) from error
        yield file.fileno()


def describe_sweep(folder: Path) -> Any:
    """A sweep's own description: study_name, storage (as a URL), directions, metric, ...

    Raises FileNotFoundError if the folder is no sweep.
    """
    if not (folder / SWEEP_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} is no sweep: it has no {SWEEP_FILE}; give the folder that a sweep wrote"
        )
    about = OmegaConf.load(folder / SWEEP_FILE)
    about.storage = about.storage or f"sqlite:///{folder.absolute() / STUDY_FILE}"
    return about


def short(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
