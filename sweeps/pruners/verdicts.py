"""Verdicts: pruners that give reasons, and reasons for pruners that give none."""

from __future__ import annotations

import abc
import math

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.types import Plan, Verdict

__all__ = ["VerdictPruner", "distinct", "plan_of", "verdict_of"]


class VerdictPruner(BasePruner):
    """A pruner that says why, and works in plain `study.optimize` too.

    Override `verdict`. One that needs no study, only losses, is better a `CurvePruner`, which is
    given them as they come.

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
            compat.set_user_attr(study, trial, "verdict", verdict.reason)
            compat.set_user_attr(study, trial, "verdict_rule", verdict.rule)
            compat.set_user_attr(study, trial, "verdict_step", verdict.step)
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
                return f"no report up to step {step:,} is a number ({name})", {}
            q = compat.percentile(pruner)
            limit = float(np.nanpercentile(peers, q if _smaller_is_better(study) else 100 - q))
            word = "median" if q == 50 else f"{q:g}th percentile"
            shown, needed = distinct(best, limit)
            return (
                f"behind the {word}: {shown} at best by step {step:,}, against the {word} {needed} "
                f"of {len(peers)} finished trials there ({name})",
                {"best": best, "limit": limit, "n_peers": float(len(peers))},
            )
        case optuna.pruners.SuccessiveHalvingPruner() | optuna.pruners.HyperbandPruner():
            eta = compat.reduction_factor(pruner)
            return (
                f"not among the best 1/{eta} of its rung: {value:.6g} at step {step:,} ({name})",
                {},
            )
        case optuna.pruners.ThresholdPruner():
            lower, upper = compat.thresholds(pruner)
            return (
                f"outside what is allowed: {value:.6g} at step {step:,}, not in "
                f"[{lower:g}, {upper:g}] ({name})",
                {},
            )
        case optuna.pruners.PatientPruner():
            inner, n = compat.wrapped_pruner(pruner), compat.patience(pruner) + 1
            text = f"the {n} reports up to step {step:,} are worse than those before ({name})"
            if inner is None:
                return text, {}
            reason, numbers = _reason(inner, study, trial, step)
            return f"{text}; {reason}", numbers
        case optuna.pruners.WilcoxonPruner():
            rival = study.best_trial
            p = compat.significance(pruner)
            return (
                f"worse than trial {rival.number} on the steps both have up to {step:,} "
                f"(p < {p:g}, {name})",
                {"best_trial": float(rival.number)},
            )
    return f"does not keep up: {value:.6g} at step {step:,} ({name})", {}


def distinct(a: float, b: float) -> tuple[str, str]:
    """Two different numbers in as few digits, three or more, as tell them apart."""
    for digits in range(3, 17):
        shown = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if float(shown[0]) != float(shown[1]) or a == b:
            return shown
    return f"{a!r}", f"{b!r}"


def _smaller_is_better(study: optuna.Study) -> bool:
    return study.direction == optuna.study.StudyDirection.MINIMIZE


def _best(study: optuna.Study, trial: FrozenTrial) -> float:
    values = [v for v in trial.intermediate_values.values() if not math.isnan(v)]
    return (min(values) if _smaller_is_better(study) else max(values)) if values else math.nan
