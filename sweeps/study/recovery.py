"""Trials without a result: those cut off go on, failed ones may be run again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.record import TrialRecord, failed, record_of

__all__ = ["put_back", "retry_failed", "take_over"]


def _age_s(trial: FrozenTrial) -> float:
    return (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0


def put_back(study: optuna.Study, trial: FrozenTrial, why: str) -> bool:
    """Let a trial that was cut off wait for the next driver, which goes on with it.

    It keeps its number, and what it has so far: parameters, reports, attributes. A driver that was
    killed may not have written all parameters; what is not known is sampled anew. why: it was cut
    off. Of several drivers that find it, one is told True: it belongs to its driver in the
    transaction that puts it back, or nothing is done.
    """
    storage = compat.storage_of(study)
    assert isinstance(storage, LiveStorage)
    attrs = {"interruptions": [*record_of(trial).interruptions, why]}
    return storage.give_back(compat.trial_id(trial), attrs)


def _run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the setting of a failed trial; one that was queued says all of its parameters."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    was = record_of(trial)
    is_leader = was.repeat_of is None and was.seed is not None  # it stays the leader of its seeds
    again = TrialRecord(
        seed=was.seed,
        repeat=was.repeat,
        repeat_of=trial.number if is_leader else was.repeat_of,
        again_for=trial.number,
        outside=was.outside,
    )
    study.enqueue_trial(params, user_attrs=again.to_attrs())


def retry_failed(study: optuna.Study) -> list[int]:
    """Queue the settings of failed trials again; returns the numbers of these trials.

    One that is queued already, or has been run again, is left alone.
    """
    trials = failed(study.get_trials(deepcopy=False))
    for trial in trials:
        _run_again(study, trial)
    return [trial.number for trial in trials]


def take_over(
    study: optuna.Study, is_alive: Callable[[str], bool], orphan_age_s: float
) -> list[int]:
    """Put back the trials whose driver died, to go on; returns their numbers.

    is_alive: whether the driver of that `driver` attribute may still be running. A trial without
    one has been created a moment ago, or by another tool, or its driver died at once: it is taken
    over when it is orphan_age_s old.
    """

    def is_orphan(trial: FrozenTrial) -> bool:
        driver = record_of(trial).driver
        return not is_alive(driver) if driver else _age_s(trial) >= orphan_age_s

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    orphans = [trial for trial in running if is_orphan(trial)]
    return [trial.number for trial in orphans if put_back(study, trial, "its driver died")]
