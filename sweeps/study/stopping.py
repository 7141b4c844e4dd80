"""A request that a sweep end, from another shell or machine, and whether anyone runs it.

The request stands in the study, where every driver of it looks once a second. One that was made
before a driver has begun is not for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.study.finalists import Finalists, seeds_missing
from iolaus.sweeps.study.leases import is_alive_here
from iolaus.sweeps.study.record import n_settings, record_of

__all__ = ["Standing", "StopRequest", "is_driven", "request_of", "request_stop", "standing"]

KEY = "iolaus:stop"
How = Literal["now", "finish"]


@dataclass(frozen=True, slots=True)
class StopRequest:
    """That a sweep end: "now", running trials to go on later, or "finish", when these are over."""

    how: How
    id: str


def request_stop(study: optuna.Study, how: How) -> None:
    """Ask all drivers of a study to end."""
    value = {"how": how, "id": secrets.token_hex(4)}
    study_id = compat.study_id(study)
    compat.storage_of(study).set_study_system_attr(study_id, KEY, value)


def request_of(attrs: Mapping[str, Any]) -> StopRequest | None:
    """The last request in a study's system attributes; None if there was none."""
    value = attrs.get(KEY)
    if not isinstance(value, Mapping) or value.get("how") not in ("now", "finish"):
        return None
    return StopRequest(value["how"], str(value.get("id")))


def is_driven(folder: Path, study: optuna.Study) -> bool:
    """Whether a driver runs a sweep, as far as can be seen from here.

    One holds the lock of this folder, or has trials and is not known to be dead.
    """
    if _is_locked(folder / ".lock"):
        return True
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    drivers = {record_of(trial).driver for trial in running} - {""}
    attrs = compat.storage_of(study).get_study_system_attrs(compat.study_id(study))
    return any(is_alive_here(attrs, driver) is not False for driver in drivers)


def _is_locked(file: Path) -> bool:
    """Whether a process of this machine holds the lock of a file; asking takes no lock."""
    try:
        status = file.stat()
        locks = Path("/proc/locks").read_text().split("\n")
    except OSError:
        return False
    return any(line.split()[5].endswith(f":{status.st_ino}") for line in locks if "FLOCK" in line)


Standing = Literal["running", "done", "stalled"]


def standing(
    folder: Path, study: optuna.Study, n_trials: int, sweeper: Mapping[str, Any]
) -> Standing:
    """Whether a driver runs a sweep; if none does, whether it has all that it wanted.

    n_trials: settings wanted in all. sweeper: the sweep's own options.
    """
    if is_driven(folder, study):
        return "running"
    trials = study.get_trials(deepcopy=False)
    is_over = all(trial.state.is_finished() for trial in trials)
    is_done = is_over and n_settings(trials) >= n_trials and not _seeds_missing(study, sweeper)
    return "done" if is_done else "stalled"


def _seeds_missing(study: optuna.Study, sweeper: Mapping[str, Any]) -> bool:
    finalists = Finalists.parse(sweeper.get("finalists"))
    return finalists is not None and bool(
        seeds_missing(
            study.get_trials(deepcopy=False),
            [direction.name.lower() for direction in study.directions],
            finalists,
            *(int(sweeper.get("repeats") or 1), bool(sweeper.get("repeat_hopeless"))),
        )
    )
