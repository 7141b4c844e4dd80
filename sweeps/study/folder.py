"""Where a sweep's folder keeps its study and what it says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

STUDY_FILE = "study.db"
SWEEP_FILE = "sweep.yaml"


def describe_sweep(folder: Path) -> Any:
    """A sweep's own description (study_name, storage, directions, metric, ...), with the storage as a URL.

    Raises FileNotFoundError if the folder is no sweep.
    """
    if not (folder / SWEEP_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} is no sweep: it has no {SWEEP_FILE}; give the folder that a sweep wrote"
        )
    about = OmegaConf.load(folder / SWEEP_FILE)
    about.storage = about.storage or f"sqlite:///{folder.absolute() / STUDY_FILE}"
    return about
