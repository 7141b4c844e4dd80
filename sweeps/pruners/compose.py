"""Pruners made of pruners: any of, all of, not before, not too often, and the holdout.

All pass verdicts through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from iolaus.sweeps.pruners.verdicts import VerdictPruner, set_attributes, verdict_of
from iolaus.sweeps.types import Verdict


class AnyOf(VerdictPruner):
    """Ends a trial when one of the pruners would; the first verdict in their order.

    All are asked at every report.

    >>> limit = optuna.pruners.ThresholdPruner(upper=10)
    >>> pruner = iolaus.AnyOf([iolaus.StalledLoss(n_steps=100), limit])
    >>> study = optuna.create_study(pruner=pruner)
    >>> trial = study.ask()
    >>> trial.report(11.0, step=3)
    >>> trial.should_prune(), study.trials[0].user_attrs["verdict_rule"]
    (True, 'ThresholdPruner')
    """

    def __init__(self, pruners: Sequence[BasePruner]) -> None:
        self._pruners = _at_least_one("AnyOf", pruners)

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """The first verdict, or None."""
        verdicts = [verdict_of(pruner, study, trial) for pruner in self._pruners]
        return next((v for v in verdicts if v is not None), None)


class AllOf(VerdictPruner):
    """Ends a trial when all of the pruners would at the same report; their reasons are joined.

    All are asked.

    >>> limits = [optuna.pruners.ThresholdPruner(upper=upper) for upper in (10, 20)]
    >>> trial = optuna.create_study(pruner=iolaus.AllOf(limits)).ask()
    >>> for step, loss in enumerate((11.0, 21.0)):
    ...     trial.report(loss, step)
    ...     print(trial.should_prune())
    False
    True
    """

    def __init__(self, pruners: Sequence[BasePruner]) -> None:
        self._pruners = _at_least_one("AllOf", pruners)

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """One verdict for all, or None.

        Where pruners give the same number, the first one's is kept.
        """
        verdicts = [
            v for pruner in self._pruners if (v := verdict_of(pruner, study, trial)) is not None
        ]
        if len(verdicts) < len(self._pruners):
            return None
        numbers = {name: value for v in reversed(verdicts) for name, value in v.numbers.items()}
        rule, reason = "+".join(v.rule for v in verdicts), "; and ".join(v.reason for v in verdicts)
        return Verdict(rule, verdicts[0].step, reason, numbers)


class WarmUp(VerdictPruner):
    """Does not ask the pruner before step n_steps, unless the value is not finite.

    >>> limit = optuna.pruners.ThresholdPruner(upper=10)
    >>> trial = optuna.create_study(pruner=iolaus.WarmUp(limit, n_steps=100)).ask()
    >>> for step in (99, 100):
    ...     trial.report(11.0, step)
    ...     print(trial.should_prune())
    False
    True
    """

    def __init__(self, pruner: BasePruner, n_steps: int) -> None:
        if n_steps < 0:
            raise ValueError(
                f"WarmUp: n_steps={n_steps}; give the first step at which a trial may end, 0 or later"
            )
        self._pruner, self._n_steps = pruner, n_steps

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """The pruner's verdict from step n_steps on."""
        step = trial.last_step
        if step is None or (
            step < self._n_steps and math.isfinite(trial.intermediate_values[step])
        ):
            return None
        return verdict_of(self._pruner, study, trial)


class Interval(VerdictPruner):
    """Asks the pruner once per `interval_steps` steps.

    At the first report in them, and at any that is not finite.

    >>> limit = optuna.pruners.ThresholdPruner(upper=10)
    >>> trial = optuna.create_study(pruner=iolaus.Interval(limit, interval_steps=100)).ask()
    >>> for step, loss in ((0, 1.0), (50, 11.0), (100, 11.0)):
    ...     trial.report(loss, step)
    ...     print(trial.should_prune())
    False
    False
    True
    """

    def __init__(self, pruner: BasePruner, interval_steps: int) -> None:
        if interval_steps < 1:
            raise ValueError(f"Interval: interval_steps={interval_steps}; give at least 1")
        self._pruner, self._interval_steps = pruner, interval_steps

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """The pruner's verdict at the first report of an interval."""
        step = trial.last_step
        if step is None:
            return None
        before = max((s for s in trial.intermediate_values if s < step), default=-1)
        first = before < 0 or before // self._interval_steps < step // self._interval_steps
        if not first and math.isfinite(trial.intermediate_values[step]):
            return None
        return verdict_of(self._pruner, study, trial)


class Holdout(VerdictPruner):
    """Lets a share of the trials that the pruner would end run on, so that a report can count how often it was wrong.

    holdout_fraction: in [0, 1]. A trial's number and the seed decide whether it is held_out, so the
    answer is the same in every process. The first verdict on a held_out trial is kept in its user
    attributes `held_out` (the reason) and `held_out_step`. Trials that diverged are not held_out.

    >>> limit = optuna.pruners.ThresholdPruner(upper=10)
    >>> study = optuna.create_study(pruner=iolaus.Holdout(limit, holdout_fraction=1.0))
    >>> trial = study.ask()
    >>> trial.report(11.0, step=3)
    >>> trial.should_prune(), study.trials[0].user_attrs["held_out_step"]
    (False, 3)
    """

    def __init__(self, pruner: BasePruner, holdout_fraction: float = 0.05, seed: int = 0) -> None:
        if not 0 <= holdout_fraction <= 1:
            raise ValueError(
                f"Holdout: holdout_fraction={holdout_fraction}; give a share between 0 and 1, such as 0.05"
            )
        self._pruner, self._fraction, self._seed = pruner, holdout_fraction, seed

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """The pruner's verdict, or None for a held_out trial, which is marked."""
        verdict = verdict_of(self._pruner, study, trial)
        step = trial.last_step
        if verdict is None or step is None or not math.isfinite(trial.intermediate_values[step]):
            return verdict
        if np.random.default_rng([self._seed, trial.number]).random() >= self._fraction:
            return verdict
        if (
            "held_out" not in study._storage.get_trial(trial._trial_id).user_attrs
        ):  # the copy given may be an older one
            set_attributes(study, trial, held_out=verdict.reason, held_out_step=verdict.step)
        return None


def parts(pruner: BasePruner) -> Iterator[BasePruner]:
    """The pruners that a combination asks in the end.

    A pruner that is none of those here is its own only part.
    """
    match pruner:
        case AnyOf() | AllOf():
            inner = pruner._pruners
        case WarmUp() | Interval() | Holdout():
            inner = (pruner._pruner,)
        case _:
            yield pruner
            return
    for one in inner:
        yield from parts(one)


def _at_least_one(name: str, pruners: Sequence[BasePruner]) -> tuple[BasePruner, ...]:
    if isinstance(pruners, BasePruner) or not len(pruners):
        raise ValueError(f"{name}: give a list of at least one pruner; got {pruners!r}")
    return tuple(pruners)
