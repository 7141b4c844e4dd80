"""The repeats of earlier sweeps of the same task, which say how much its seeds differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from iolaus.sweeps.errors import SweepError
from iolaus.sweeps.study.fingerprint import latest
from iolaus.sweeps.study.folder import SWEEP_FILE, read_study
from iolaus.sweeps.study.record import leader_of, record_of, that_ran

__all__ = ["EarlierRepeats", "repeats_of_earlier"]

# Sweeps that are looked at, the newest first: reading one takes some hundredths of a second.
N_LOOKED_AT = 12


@dataclass(frozen=True, slots=True)
class EarlierRepeats:
    """One earlier sweep's repeated settings: the completed objectives of each, two at least."""

    name: str
    settings: tuple[tuple[float, ...], ...]


def repeats_of_earlier(folder: Path, study: optuna.Study) -> tuple[EarlierRepeats, ...]:
    """The repeated settings of the newest sweeps beside this one that are of the same task.

    Beside it is what lies in the same folder, or (as Hydra names them by day and time) in a
    neighbour of that. The same task is the same directions and the same fixed settings, but for
    the seed and what either searches; where these are not known it is another. What cannot be read
    is passed over.
    """
    searched, fixed = _task(study)
    if not fixed:
        return ()
    found = []
    for other in itertools.islice(_beside(folder), N_LOOKED_AT):
        try:
            theirs = read_study(other)
        except (OSError, SweepError, optuna.exceptions.OptunaError):
            continue
        also_searched, also_fixed = _task(theirs)
        free = searched | also_searched
        if theirs.directions != study.directions or _but(fixed, free) != _but(also_fixed, free):
            continue
        if settings := _repeated(theirs):
            found.append(EarlierRepeats(other.name, settings))
    return tuple(found)


def _beside(folder: Path) -> Iterator[Path]:
    """The folders of other sweeps nearby, newest first."""
    folder = folder.resolve()
    files = {
        *folder.parent.glob(f"*/{SWEEP_FILE}"),
        *folder.parent.parent.glob(f"*/*/{SWEEP_FILE}"),
    }
    others = [file for file in files if file.parent != folder]
    for file in sorted(others, key=lambda file: file.stat().st_mtime, reverse=True):
        yield file.parent


def _task(study: optuna.Study) -> tuple[set[str], Mapping[str, str]]:
    """What a study searches, and what it fixes."""
    fingerprint = latest(study.user_attrs)
    searched = set(study.user_attrs.get("search_space", {}))
    return searched, {} if fingerprint is None else fingerprint.fixed


def _but(fixed: Mapping[str, str], free: set[str]) -> dict[str, str]:
    """The settings without seeds, and without what is searched: of a group all that is within."""
    return {
        key: value
        for key, value in fixed.items()
        if key.rpartition(".")[2] != "seed"
        and not any(key == name or key.startswith(f"{name}.") for name in free)
    }


def _repeated(study: optuna.Study) -> tuple[tuple[float, ...], ...]:
    groups: dict[int, list[float]] = {}
    for trial in that_ran(study.get_trials(deepcopy=False)):
        is_own = trial.state is TrialState.COMPLETE and record_of(trial).duplicate_of is None
        if is_own and trial.values and np.isfinite(trial.values[0]):
            groups.setdefault(leader_of(trial), []).append(trial.values[0])
    return tuple(tuple(values) for values in groups.values() if len(values) > 1)
