"""Whether a finished run can go on as a longer one, or has to begin anew (`iolaus extend`)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, open_dict

from iolaus.trainer.checkpoint import FILE, read_state
from iolaus.trainer.settings import read

__all__ = ["checkpoint_to_extend"]


def checkpoint_to_extend(
    config: DictConfig, stretch: float, checkpoints: Iterable[Path]
) -> tuple[Path | None, str]:
    """The first checkpoint from which a run can be `stretch` times as long, or None and why not.

    Its rates so far have to be those of the stretched schedule: a constant rate, one that looks at
    the loss, and any before it begins to fall. config: of the run as it was. Raises BadInputError
    for a config that cannot be run.
    """
    longer = copy.deepcopy(config)
    with open_dict(longer):
        longer.stretch = stretch * longer.get("stretch", 1)
    run, reasons = read(longer), []
    for checkpoint in checkpoints:
        try:
            read_state(checkpoint, run)
            return checkpoint, ""
        except ValueError as error:
            reasons.append(str(error).removeprefix(f"{checkpoint / FILE}: "))
    return None, reasons[0] if reasons else "no checkpoint of it has been kept"
