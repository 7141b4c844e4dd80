"""Trials whose driver died: ended, and their settings queued again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.types import Ending


def _age_s(trial: FrozenTrial) -> float:
    return (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0


def run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue an interrupted trial's setting.

    A driver that was killed may not have written all parameters; a setting that was queued says
    them all the same, and what is not known is sampled anew.
    """
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    kept: dict[str, Any] = {
        k: v for k, v in trial.user_attrs.items() if k in ("seed", "repeat", "repeat_of")
    }
    study.enqueue_trial(params, user_attrs={**kept, "again_for": trial.number})


def take_over(
    study: optuna.Study, is_alive: Callable[[str], bool], orphan_age_s: float
) -> list[int]:
    """End the trials whose driver died, and queue their settings again; returns their numbers.

    is_alive: whether the driver of that `driver` attribute may still be running. A trial without
    one has been created a moment ago, or by another tool, or its driver died at once: it is taken
    over when it is orphan_age_s old.
    """
    orphans = [
        t
        for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if (
            not is_alive(t.user_attrs["driver"])
            if "driver" in t.user_attrs
            else _age_s(t) >= orphan_age_s
        )
    ]
    for trial in orphans:
        compat.set_user_attr(study, trial, "why", f"{Ending.INTERRUPTED}: its driver died")
        study.tell(trial.number, state=TrialState.FAIL)
        run_again(study, trial)
    return [trial.number for trial in orphans]
