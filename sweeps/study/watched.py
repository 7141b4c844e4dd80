"""The watched metric of a running trial.

Its best and final value, and which of its reports Optuna shall keep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from iolaus.sweeps.metric import Metric

__all__ = ["N_VALUES_KEPT", "WatchedCurve"]

# Optuna keeps this many values of the watched metric per trial, evenly over its planned length:
# enough for any rule and picture, few enough that the dashboard loads a thousand trials.
N_VALUES_KEPT = 100
# Without a plan: all of the first reports, then one for each 10 % more steps, which bounds them at
# about 200.
N_FIRST_KEPT = 30
GROWTH = 1.1


@dataclass
class WatchedCurve:
    """What a running trial has said of the watched metric.

    Best, final, and which reports Optuna shall keep.
    metric: says which value is better. Values stay in its own sign. Steps need not be regular; NaN
    and infinity are never best.
    """

    metric: Metric
    n_steps: int | None = None
    best: float = math.nan
    best_step: int = -1
    final: float = math.nan
    final_step: int = -1
    n_interventions: int = field(default=0, init=False)
    grace_until: float = field(
        default=0.0, init=False
    )  # the step before which an intervention is not judged
    _n_reports: int = field(default=0, init=False)
    _next_step: float = field(default=0.0, init=False)

    def add(self, step: int, value: float) -> bool:
        """Take a report; returns whether Optuna shall keep it.

        The decision depends on steps alone, so trials that report at the same steps are kept at the
        same steps and Optuna's pruners find peers to compare with.
        """
        self.final, self.final_step = value, step
        if self.metric.is_better(value, than=self.best):
            self.best, self.best_step = value, step
        self._n_reports += 1
        if step < self._next_step:
            return False
        if self.n_steps is not None:
            share = step * N_VALUES_KEPT // self.n_steps + 1
            self._next_step = -(
                -share * self.n_steps // N_VALUES_KEPT
            )  # rounded up, in whole numbers
        elif self._n_reports <= N_FIRST_KEPT:
            self._next_step = step + 1
        else:
            self._next_step = step * GROWTH
        return True
