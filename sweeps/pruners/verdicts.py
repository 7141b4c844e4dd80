"""Verdicts: pruners that give reasons, and reasons for pruners that give none."""

from __future__ import annotations

import abc
import math
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.types import Plan, Verdict


class VerdictPruner(BasePruner):
    """A pruner that says why. Override `verdict`.

    `prune` then works in plain `study.optimize` too.

    >>> from iolaus.sweeps.types import Verdict
    >>> class AboveTen(iolaus.VerdictPruner):
    ...     def verdict(self, study, trial):
    ...         step = trial.last_step
    ...         if step is None or trial.intermediate_values[step] <= 10:
    ...             return None
    ...         return Verdict("above_ten", step, f"above 10 at step {step}")
    >>> study = optuna.create_study(pruner=AboveTen())
    >>> trial = study.ask()
    >>> trial.report(11.0, step=3)
    >>> trial.should_prune(), study.trials[0].user_attrs["verdict"]
    (True, 'above 10 at step 3')
    """

    @abc.abstractmethod
    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """Why the trial should end at its last report, or None if it may go on. Stores nothing."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether there is a verdict.

        It is kept in the user attributes `verdict`, `verdict_rule`, `verdict_step`.
        """
        verdict = self.verdict(study, trial)
        if verdict is not None:
            set_attributes(
                study,
                trial,
                verdict=verdict.reason,
                verdict_rule=verdict.rule,
                verdict_step=verdict.step,
            )
        return verdict is not None


def verdict_of(pruner: BasePruner, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
    """The verdict of any pruner on a trial's last report, or None if the trial may go on.

    A `VerdictPruner` words it itself. For another pruner `prune` is called, and its reason is put
    together from what it is documented to compare; a class not known here gets a sentence with the
    last value.
    """
    if isinstance(pruner, VerdictPruner):
        return pruner.verdict(study, trial)
    if not pruner.prune(study, trial):
        return None
    step = trial.last_step
    if step is None:  # a pruner of one's own may end a trial that has not reported
        return Verdict(
            type(pruner).__name__, 0, f"{type(pruner).__name__} ended it before its first report"
        )
    value = trial.intermediate_values[step]
    reason, numbers = _reason(pruner, study, trial, step)
    return Verdict(type(pruner).__name__, step, reason, {"value": value, **numbers})


def plan_of(trial: FrozenTrial) -> Plan:
    """What a trial has said about its future, from its user attributes `n_steps` and `lr_plan`."""
    lr = trial.user_attrs.get(Plan.LR_ATTR, ())
    return Plan(
        trial.user_attrs.get(Plan.N_STEPS_ATTR),
        tuple((int(step), float(rate)) for step, rate in lr),
    )


def set_attributes(study: optuna.Study, trial: FrozenTrial, **attributes: Any) -> None:
    """Store user attributes with a running trial, of which pruners are given a copy."""
    for name, value in attributes.items():
        study._storage.set_trial_user_attr(trial._trial_id, name, value)


def _reason(
    pruner: BasePruner, study: optuna.Study, trial: FrozenTrial, step: int
) -> tuple[str, dict[str, float]]:
    value = trial.intermediate_values[step]
    name = type(pruner).__name__
    match pruner:
        case optuna.pruners.PercentilePruner():
            best = _best(study, trial)
            peers = [
                t.intermediate_values[step]
                for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                if step in t.intermediate_values
            ]
            if math.isnan(best) or not peers:
                return f"{name}: no report up to step {step} is a number", {}
            q = pruner._percentile
            limit = float(np.nanpercentile(peers, q if _smaller_is_better(study) else 100 - q))
            word = "median" if q == 50 else f"{q:g}th percentile"
            return (
                f"{name}: best value {best:.6g} up to step {step}, against the {word} {limit:.6g} "
                f"of {len(peers)} finished trials at this step",
                {"best": best, "limit": limit, "n_peers": float(len(peers))},
            )
        case optuna.pruners.SuccessiveHalvingPruner() | optuna.pruners.HyperbandPruner():
            eta = pruner._reduction_factor
            return (
                f"{name}: {value:.6g} at step {step} is not among the best 1/{eta} of its rung",
                {},
            )
        case optuna.pruners.ThresholdPruner():
            return (
                f"{name}: {value:.6g} at step {step} is outside [{pruner._lower:g}, {pruner._upper:g}]",
                {},
            )
        case optuna.pruners.PatientPruner():
            inner = pruner._wrapped_pruner
            text = f"{name}: the {pruner._patience + 1} reports up to step {step} are worse than those before"
            if inner is None:
                return text, {}
            reason, numbers = _reason(inner, study, trial, step)
            return f"{text}; {reason}", numbers
        case optuna.pruners.WilcoxonPruner():
            rival = study.best_trial
            p = pruner._p_threshold
            return (
                f"{name}: worse than trial {rival.number} on the steps both have up to {step} (p < {p:g})",
                {"best_trial": float(rival.number)},
            )
    return f"{name} at step {step}: {value:.6g} does not keep up", {}


def _smaller_is_better(study: optuna.Study) -> bool:
    return study.direction == optuna.study.StudyDirection.MINIMIZE


def _best(study: optuna.Study, trial: FrozenTrial) -> float:
    values = [v for v in trial.intermediate_values.values() if not math.isnan(v)]
    return (min(values) if _smaller_is_better(study) else max(values)) if values else math.nan
