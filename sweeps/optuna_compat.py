"""Every touch of what Optuna does not promise: its private names, each behind a function.

Checked with Optuna 5.0. A new version that moves one of these names fails in
`tests/sweeps/test_optuna_compat.py`, which says what each function relies on, and is adapted here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

__all__ = [
    "contains",
    "created_trial",
    "disconnect",
    "forget_reports",
    "news",
    "patience",
    "percentile",
    "reduction_factor",
    "set_user_attr",
    "significance",
    "storage_of",
    "study_id",
    "suggest",
    "thresholds",
    "trial_id",
    "wrapped_pruner",
]


def study_id(study: Any) -> int:
    """The id of a study in its storage; takes a `FrozenStudy` as well."""
    return int(study._study_id)


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage a study reads and writes."""
    return study._storage


def trial_id(trial: optuna.Trial | FrozenTrial) -> int:
    """The id of a trial in its storage, which its number is not."""
    return trial._trial_id


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """A value for a parameter of any distribution, as `study.ask(distributions)` suggests it."""
    return trial._suggest(name, distribution)


def set_user_attr(study: optuna.Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Store a user attribute with a trial that runs, of which pruners are given a frozen copy."""
    study._storage.set_trial_user_attr(trial._trial_id, name, value)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution could have given this value. ValueError for a value of no sense."""
    return distribution._contains(distribution.to_internal_repr(value))


# --- storages: what a cached database has at hand and does not give out ---


def created_trial(storage: BaseStorage, study: int, trial: int) -> FrozenTrial:
    """A copy of a trial that this storage has just created; to read it again would take 2 ms."""
    known = getattr(storage, "_trial_id_to_study_id_and_number", {})
    if trial not in known:
        return storage.get_trial(trial)
    cached: FrozenTrial = storage._studies[study].trials[known[trial][1]]  # type: ignore[attr-defined]
    return copy.deepcopy(cached)


def disconnect(storage: BaseStorage) -> None:
    """Close this process's connections to a database; the next use opens new ones."""
    storage.remove_session()
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        engine.dispose()


def news(
    storage: BaseStorage, study: int, unfinished: Sequence[int], n_known: int
) -> list[FrozenTrial]:
    """The trials of these numbers and all from number n_known on, by number, not copied.

    Read from the database as they are now. Where the storage has a cache this costs what is new;
    `get_all_trials` would sort all that ever were.
    """
    if not hasattr(storage, "_read_trials_from_remote_storage"):
        every = storage.get_all_trials(study, deepcopy=False)
        return [every[i] for i in unfinished if i < n_known] + every[n_known:]
    storage._read_trials_from_remote_storage(study)
    trials: dict[int, FrozenTrial] = storage._studies[study].trials  # type: ignore[attr-defined]
    new = range(n_known, max(n_known, len(trials)))
    return [trials[i] for i in unfinished if i < n_known] + [trials[i] for i in new]


def forget_reports(storage: BaseStorage, trial: int, from_step: int) -> None:
    """Delete a trial's intermediate values from a step on, which no method of a storage can."""
    if not hasattr(storage, "_backend"):
        storage.get_trial(trial)  # raises KeyError for an unknown one
        kept = copy.copy(storage._get_trial(trial))  # type: ignore[attr-defined]
        kept.intermediate_values = {
            step: value for step, value in kept.intermediate_values.items() if step < from_step
        }
        storage._set_trial(trial, kept)  # type: ignore[attr-defined]
        return
    from optuna.storages._rdb import models
    from optuna.storages._rdb import storage as rdb

    with rdb._create_scoped_session(storage._backend.scoped_session) as session:
        values = models.TrialIntermediateValueModel
        session.query(values).filter(values.trial_id == trial, values.step >= from_step).delete()


# --- pruners: the settings their reasons are worded with ---


def percentile(pruner: optuna.pruners.PercentilePruner) -> float:
    """The percentile of finished trials that a trial must keep up with; 50 is the median."""
    return float(pruner._percentile)


def reduction_factor(
    pruner: optuna.pruners.SuccessiveHalvingPruner | optuna.pruners.HyperbandPruner,
) -> int:
    """One of how many goes on from a rung."""
    return int(pruner._reduction_factor)


def thresholds(pruner: optuna.pruners.ThresholdPruner) -> tuple[float, float]:
    """(lower, upper) bounds of allowed values."""
    return float(pruner._lower), float(pruner._upper)


def patience(pruner: optuna.pruners.PatientPruner) -> int:
    """How many reports may pass without getting better."""
    return int(pruner._patience)


def wrapped_pruner(pruner: optuna.pruners.PatientPruner) -> BasePruner | None:
    """The pruner that patience is added to."""
    return pruner._wrapped_pruner


def significance(pruner: optuna.pruners.WilcoxonPruner) -> float:
    """The p below which a difference counts."""
    return float(pruner._p_threshold)
