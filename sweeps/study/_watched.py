"""The watched metric of a running trial.

Its best and final value, and which of its reports Optuna shall keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from iolaus.sweeps.checkpoints import Watched
from iolaus.sweeps.metric import Metric
from iolaus.sweeps.types import Plan

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
    metric: says which value is better. Values stay in its own sign. Steps need not be regular, nor
    begin at 0; NaN and infinity are never best. Where the task's steps go back, as a batch number
    does at every epoch, best_step and final_step count on from the last step: pruners and Optuna
    see one curve, all of it.
    n_steps: of the trial's plan. went_back: the first two steps that did not rise, if any.
    went_on_from: step of the checkpoint that it goes on from, -1 for none. began_anew: whether the
    first report after it was of the trial's first step again: the task has not loaded it.
    """

    metric: Metric
    n_steps: int | None = None
    best: float = math.nan
    best_step: int = -1
    final: float = math.nan
    final_step: int = -1
    n_interventions: int = field(default=0, init=False)
    is_stopped: bool = field(default=False, init=False)  # by a verdict: no intervention any more
    grace_until: float = field(
        default=0.0, init=False
    )  # the step before which an intervention is not judged
    first_step: int | None = field(default=None, init=False)
    went_back: tuple[int, int] | None = field(default=None, init=False)
    went_on_from: int = field(default=-1, init=False)
    began_anew: bool = field(default=False, init=False)
    _offset: int = field(default=0, init=False)
    _n_reports: int = field(default=0, init=False)
    _next_step: int = field(default=0, init=False)

    def add(self, step: int, value: float) -> bool:
        """Take a report; returns whether Optuna shall keep it, at final_step.

        The decision depends on steps alone, so trials that report at the same steps are kept at the
        same steps and Optuna's pruners find peers to compare with.
        """
        step = self._counted_on(step)
        self.final, self.final_step = value, step
        if self.metric.is_better(value, than=self.best):
            self.best, self.best_step = value, step
        self._n_reports += 1
        if step < self._next_step:
            return False
        self._next_step = self._after(step)
        return True

    def go_on(self, values: Mapping[int, float], watched: Watched) -> None:
        """Begin with what a trial reported before the checkpoint that it goes on from.

        values: those of Optuna, by step. watched: what the checkpoint knows of all.
        """
        for step, value in sorted(values.items()):
            self.add(step, value)
        self.first_step = watched.first_step
        best = watched.lowest if self.metric.sign > 0 else watched.highest
        if best is not None:
            self.best, self.best_step = best

    def _counted_on(self, step: int) -> int:
        """The step as the curve counts it: where the task's goes back, one after the last."""
        if self.first_step is None:
            self.first_step = step
        elif step + self._offset < self.final_step:
            self.went_back = self.went_back or (self.final_step - self._offset, step)
            if self.final_step <= self.went_on_from and step <= self.first_step:
                self.began_anew = True
            self._offset = self.final_step + 1 - step
        return step + self._offset

    def _after(self, step: int) -> int:
        """The step from which the next report is kept, if the one at `step` was."""
        first = self.first_step or 0
        end = Plan(self.n_steps).from_step(first).n_steps
        if end is not None:
            length = max(end - first, 1)
            share = (step - first) * N_VALUES_KEPT // length + 1
            return first - (-share * length // N_VALUES_KEPT)  # rounded up, in whole numbers
        if self._n_reports <= N_FIRST_KEPT:
            return step + 1
        return max(step + 1, first + math.ceil((step - first) * GROWTH))
