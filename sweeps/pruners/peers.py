"""What the trials of a sweep have shown so far, as a table of smoothed losses by trial and step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from iolaus.sweeps.holdout import goal_rank
from iolaus.sweeps.pruners.forecast import Forecasts
from iolaus.sweeps.signals import Trend
from iolaus.sweeps.types import Plan

__all__ = ["N_COLUMNS", "PeerOutcome", "Peers", "Prospect", "Standing"]

N_COLUMNS = 512
# A trial is compared with others at this fraction of its position: it may come as much later to
# what they did.
LAG = 1.25
# How much further than a trial one that has not finished must be to show what comes.
FURTHER = 1.5
MIN_NEAREST = 5


class PeerOutcome(IntEnum):
    """What became of a trial.

    A STOPPED one was judged bad; a LOST one (failed, interrupted) was not judged at all.
    """

    RUNNING = 0
    COMPLETE = 1
    STOPPED = 2
    LOST = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """How one trial stands among its peers at its step.

    Losses are smoothed but for `goal` and `best_of_all`.
    n_peers: others that reached this step, or were stopped before it. n_better: those with a lower
    loss here.
    goal: the loss it would have to reach, see `Peers.goal`. best_of_all: the lowest loss any trial
    has shown.
    n_complete: finished trials. winners_here: the loss at 1 / LAG of this step which all but the
    worst tenth of the finished trials at or below `goal` had undercut; -inf if none that has
    finished reported here.
    """

    n_peers: int
    n_better: int
    goal: float
    best_of_all: float
    n_complete: int
    winners_here: float


@dataclass(frozen=True, slots=True)
class Prospect:
    """What `n` trials that went further and stood near make possible: a loss of `reach` at best.

    With n = 0 nothing is known, and reach is the trial's loss now.
    """

    n: int
    reach: float


class Peers:
    """A table [column of steps, trial] that grows with the sweep.

    A report costs O(1); a standing looks at one column, a few arrays of one number a trial. Columns
    are one step wide at first. When a step lies beyond the last column, neighbours are merged and
    all become twice as wide. A trial's loss fills the columns up to its next report, so peers may
    report at different steps. Trials are compared at equal shares of their runs: the steps of one
    that plans another length than the first are scaled to that of the first.
    """

    def __init__(self) -> None:
        self._width_steps = 1
        self._rows: dict[int, int] = {}
        self._levels: NDArray[np.float64] = np.full((N_COLUMNS, 16), np.nan)
        self._best: NDArray[np.float64] = np.full(16, np.inf)
        self._best_step: NDArray[np.int64] = np.full(16, -1)
        self._step: NDArray[np.int64] = np.full(16, -1)
        self._outcome: NDArray[np.int8] = np.zeros(16, np.int8)
        self._n_complete = 0
        self._n_steps: int | None = None  # of the first trial that planned its length
        self.forecasts = Forecasts()
        self._bound = math.inf  # enough trials have shown this or less to find the goal among them

    def __len__(self) -> int:
        """How many trials the table knows."""
        return len(self._rows)

    @property
    def n_complete(self) -> int:
        """How many trials have finished."""
        return self._n_complete

    def report(self, trial: int, trend: Trend, plan: Plan | None = None) -> None:
        """Take where a trial's curve is now; reports of a trial come in rising steps.

        plan: the length and the rates it announced. Steps of one without a length count as they
        are; only trials that announced both are forecast.
        """
        row = self._row(trial)
        n_steps = plan.n_steps if plan else None
        if plan:
            self.forecasts.report(trial, trend, plan)
        self._n_steps = self._n_steps or n_steps
        step, best_step = (self._scaled(s, n_steps) for s in (trend.step, trend.best_step))
        while step >= N_COLUMNS * self._width_steps:
            self._widen()
        column, last = step // self._width_steps, int(self._step[row]) // self._width_steps
        if self._step[row] >= 0:
            self._levels[last + 1 : column, row] = self._levels[last, row]
        self._levels[column, row] = trend.level
        self._step[row] = step
        self._best[row], self._best_step[row] = trend.best, best_step

    def end(self, trial: int, outcome: PeerOutcome) -> None:
        """Take what became of a trial; one that never reported may end too."""
        row = self._row(trial)
        was_complete = self._outcome[row] == PeerOutcome.COMPLETE
        self._n_complete += (outcome is PeerOutcome.COMPLETE) - int(was_complete)
        self._outcome[row] = outcome
        if outcome is PeerOutcome.COMPLETE and not was_complete:
            self.forecasts.finish(trial)

    def goal_rank(self, trial: int, n_best: float) -> int:
        """Which place the goal is that of, see `iolaus.sweeps.holdout.goal_rank`."""
        self._row(trial)
        return goal_rank(len(self._rows), n_best)

    def goal(self, trial: int, n_best: float) -> float:
        """The k-th lowest loss that any trial, this one included, has shown; k is `goal_rank`."""
        k = self.goal_rank(trial, n_best)
        best = self._best[: len(self._rows)]
        # The lowest losses only fall, so those at or below a bound of before grow in number.
        top = best[best <= self._bound]
        if len(top) < k or len(top) > 8 * k:
            n = min(4 * k, len(best))
            self._bound = float(np.partition(best, n - 1)[n - 1])
            top = best[best <= self._bound]
        return float(np.partition(top, k - 1)[k - 1])

    def leads(self, trial: int) -> bool:
        """Whether none that runs or has finished has shown a lower loss.

        A trial that is alone leads.
        """
        row, n = self._row(trial), len(self._rows)
        rivals = (self._outcome[:n] == PeerOutcome.RUNNING) | (
            self._outcome[:n] == PeerOutcome.COMPLETE
        )
        return bool(self._best[row] <= self._best[:n].min(where=rivals, initial=math.inf))

    def standing(self, trial: int, goal: float) -> Standing:
        """The standing of a trial at the step of its last report. KeyError if it is unknown."""
        row, n = self._rows[trial], len(self._rows)
        at = int(self._step[row])
        best, outcome = self._best[:n], self._outcome[:n]
        here = self._levels[at // self._width_steps, :n]
        before = self._levels[int(at / LAG) // self._width_steps, :n]
        was_here = ~np.isnan(here)
        complete = (outcome == PeerOutcome.COMPLETE) & was_here & ~np.isnan(before)
        winners_here = -math.inf
        winners = np.flatnonzero(complete & (best <= goal))
        if len(winners):
            winners_here = _quantile(before[winners], 0.9)
        elif complete.any():
            winners_here = float(before[int(np.where(complete, best, math.inf).argmin())])
        gone = (outcome == PeerOutcome.STOPPED) & ~was_here
        return Standing(
            n_peers=int(np.count_nonzero(was_here)) - 1 + int(np.count_nonzero(gone)),
            n_better=int(np.count_nonzero(here < here[row])),
            goal=goal,
            best_of_all=float(best.min()),
            n_complete=self.n_complete,
            winners_here=winners_here,
        )

    def prospect(self, trial: int) -> Prospect:
        """What those that went further made of standing where this trial stands now.

        Those are the finished ones and any whose last report is FURTHER times as far. The quarter
        of them, five at least, whose loss at 1 / LAG of this position is nearest to the trial's
        loss now are asked. One that was worse shows that its own best can be reached, one that was
        better shows what it gained. Costs a sort of one column, so it is asked last.
        """
        row, n = self._rows[trial], len(self._rows)
        at = int(self._step[row])
        before = int(at / LAG)
        then, level = self._levels[before // self._width_steps, :n], self._level(row)
        went_on = (self._outcome[:n] == PeerOutcome.COMPLETE) | (self._step[:n] >= FURTHER * at)
        further = np.flatnonzero(went_on & ~np.isnan(then))
        further = further[further != row]
        if not len(further):
            return Prospect(0, level)
        n_nearest = max(MIN_NEAREST, -(-len(further) // 4))
        nearest = further[np.abs(then[further] - level).argsort(kind="stable")[:n_nearest]]
        later = nearest[self._best_step[nearest] > before]
        reach = self._best[later] + np.maximum(0.0, level - then[later])
        return Prospect(len(nearest), float(reach.min(initial=level)))

    def order_held(self, trial: int) -> float:
        """Lower end of the rank correlation of the trials between half this position and here.

        One standard error (Fisher's z) below Spearman's correlation over all that have been at
        both; -1 for fewer than five or where all are equal. High, it says that standing early has
        meant something in this sweep.
        """
        row, n = self._rows[trial], len(self._rows)
        at = int(self._step[row])
        half = self._levels[at // 2 // self._width_steps, :n]
        here = self._levels[at // self._width_steps, :n]
        both = ~np.isnan(half) & ~np.isnan(here)
        count = int(np.count_nonzero(both))
        if count < MIN_NEAREST:
            return -1.0
        a, b = half[both].argsort().argsort(), here[both].argsort().argsort()
        if np.ptp(half[both]) == 0 or np.ptp(here[both]) == 0:
            return -1.0
        rho = float(np.corrcoef(a, b)[0, 1])
        return math.tanh(math.atanh(min(max(rho, -0.9999), 0.9999)) - 1 / math.sqrt(count - 3))

    def _level(self, row: int) -> float:
        return float(self._levels[int(self._step[row]) // self._width_steps, row])

    def _scaled(self, step: int, n_steps: int | None) -> int:
        if n_steps is None or self._n_steps is None:
            return step
        return step * self._n_steps // n_steps

    def _row(self, trial: int) -> int:
        if trial in self._rows:
            return self._rows[trial]
        row = self._rows[trial] = len(self._rows)
        if row == len(self._best):
            self._levels = np.concatenate(
                [self._levels, np.full_like(self._levels, np.nan)], axis=1
            )
            self._best = np.concatenate([self._best, np.full_like(self._best, np.inf)])
            self._best_step = np.concatenate([self._best_step, np.full_like(self._best_step, -1)])
            self._step = np.concatenate([self._step, np.full_like(self._step, -1)])
            self._outcome = np.concatenate([self._outcome, np.zeros_like(self._outcome)])
        return row

    def _widen(self) -> None:
        early, late = self._levels[::2], self._levels[1::2]
        merged = np.where(np.isnan(late), early, late)
        self._levels = np.concatenate([merged, np.full_like(merged, np.nan)])
        self._width_steps *= 2


def _quantile(values: NDArray[np.float64], q: float) -> float:
    """As np.quantile, linear, without the 50 µs of its checks."""
    at = q * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    parts = np.partition(values, (low, high))
    a, b, t = float(parts[low]), float(parts[high]), at - low
    return a + (b - a) * t if t < 0.5 else b - (b - a) * (1 - t)
