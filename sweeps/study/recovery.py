"""Trials without a result, whose settings are queued again: cut off, or failed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.study.record import TrialRecord, again_for, failed, has_failed, record_of, why
from iolaus.sweeps.types import Ending, Outcome

__all__ = ["retry_failed", "run_again", "take_over"]


def _age_s(trial: FrozenTrial) -> float:
    return (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0


def run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the setting of a trial that was interrupted, or has failed.

    A driver that was killed may not have written all parameters; a setting that was queued says
    them all the same, and what is not known is sampled anew. Nothing is queued twice: the driver
    that was killed may have done it, before it could write that the trial has ended.
    """
    if any(again_for(other) == trial.number for other in study.get_trials(deepcopy=False)):
        return
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    was = record_of(trial)
    # A failed leader stays the leader of its seeds.
    is_leader = was.repeat_of is None and was.seed is not None and has_failed(trial)
    again = TrialRecord(
        seed=was.seed,
        repeat=was.repeat,
        repeat_of=trial.number if is_leader else was.repeat_of,
        again_for=trial.number,
    )
    study.enqueue_trial(params, user_attrs=again.to_attrs())


def retry_failed(study: optuna.Study) -> list[int]:
    """Queue the settings of failed trials again; returns the numbers of these trials.

    One that is queued already, or has been run again, is left alone.
    """
    trials = failed(study.get_trials(deepcopy=False))
    for trial in trials:
        run_again(study, trial)
    return [trial.number for trial in trials]


def take_over(
    study: optuna.Study, is_alive: Callable[[str], bool], orphan_age_s: float
) -> list[int]:
    """End the trials whose driver died, and queue their settings again; returns their numbers.

    is_alive: whether the driver of that `driver` attribute may still be running. A trial without
    one has been created a moment ago, or by another tool, or its driver died at once: it is taken
    over when it is orphan_age_s old.
    """

    def is_orphan(trial: FrozenTrial) -> bool:
        driver = record_of(trial).driver
        return not is_alive(driver) if driver else _age_s(trial) >= orphan_age_s

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    orphans = [trial for trial in running if is_orphan(trial)]
    outcome = Outcome(Ending.INTERRUPTED, reason="its driver died")
    end = TrialRecord(ending=outcome.ending, why=why(outcome))
    for trial in orphans:
        for name, value in end.to_attrs().items():
            compat.set_user_attr(study, trial, name, value)
        study.tell(trial.number, state=TrialState.FAIL)
        run_again(study, trial)
    return [trial.number for trial in orphans]
