"""What the trials of a sweep have shown so far, as a table of smoothed losses by trial and step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from iolaus.sweeps.signals import Trend

N_COLUMNS = 512


class PeerOutcome(IntEnum):
    """What became of a trial. A STOPPED one was judged bad.

    A LOST one (failed, interrupted) was not judged at all.
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
    n_complete: finished trials. winners_here: the loss at this step which all but the worst tenth
    of the finished trials at or below `goal` had undercut; -inf if none that has finished reported
    here.
    gain_after: by how much, at most, the quarter of the finished peers that stood nearest to it at
    this step improved from there on; NaN if none did.
    """

    n_peers: int
    n_better: int
    goal: float
    best_of_all: float
    n_complete: int
    winners_here: float
    gain_after: float


class Peers:
    """A table [trial, column of steps] that grows with the sweep.

    A report costs O(1), a standing O(trials). Columns are one step wide at first. When a step lies
    beyond the last column, neighbours are merged and all become twice as wide. A trial's loss fills
    the columns up to its next report, so peers may report at different steps.
    """

    def __init__(self) -> None:
        self._width_steps = 1
        self._rows: dict[int, int] = {}
        self._levels: NDArray[np.float64] = np.full((16, N_COLUMNS), np.nan)
        self._best: NDArray[np.float64] = np.full(16, np.inf)
        self._step: NDArray[np.int64] = np.full(16, -1)
        self._outcome: NDArray[np.int8] = np.zeros(16, np.int8)

    def __len__(self) -> int:
        """How many trials the table knows."""
        return len(self._rows)

    @property
    def n_complete(self) -> int:
        """How many trials have finished."""
        return int((self._outcome == PeerOutcome.COMPLETE).sum())

    def last_step(self, trial: int) -> int:
        """The step of a trial's last report, -1 before its first."""
        return int(self._step[self._rows[trial]]) if trial in self._rows else -1

    def report(self, trial: int, trend: Trend) -> None:
        """Take where a trial's curve is now; reports of a trial come in rising steps."""
        row = self._row(trial)
        while trend.step >= N_COLUMNS * self._width_steps:
            self._widen()
        column, last = trend.step // self._width_steps, int(self._step[row]) // self._width_steps
        if last >= 0:
            self._levels[row, last + 1 : column] = self._levels[row, last]
        self._levels[row, column] = trend.level
        self._step[row] = trend.step
        self._best[row] = trend.best

    def end(self, trial: int, outcome: PeerOutcome) -> None:
        """Take what became of a trial; one that never reported may end too."""
        row = self._row(trial)
        self._outcome[row] = outcome

    def goal(self, trial: int, n_best: float) -> float:
        """The k-th lowest loss that any trial, this one included, has shown.

        K = n_best * cube root of their number. The root lets the top grow with the sweep, but more
        slowly: at n_best 1.25 it is 4 of 30 and 13 of 1,000.
        """
        self._row(trial)
        n = len(self._rows)
        k = min(n, math.ceil(n_best * math.cbrt(n)))
        return float(np.partition(self._best[:n], k - 1)[k - 1])

    def leads(self, trial: int) -> bool:
        """Whether none that runs or has finished has shown a lower loss.

        A trial that is alone leads.
        """
        row, n = self._row(trial), len(self._rows)
        rivals = (self._outcome[:n] == PeerOutcome.RUNNING) | (
            self._outcome[:n] == PeerOutcome.COMPLETE
        )
        return bool(self._best[row] <= self._best[:n].min(where=rivals, initial=math.inf))

    def standing(self, trial: int, step: int, goal: float) -> Standing:
        """The standing of a trial at the step of its last report. KeyError if it is unknown."""
        row, n, column = self._rows[trial], len(self._rows), step // self._width_steps
        best, outcome, here = self._best[:n], self._outcome[:n], self._levels[:n, column]
        was_here = ~np.isnan(here)
        complete = np.flatnonzero((outcome == PeerOutcome.COMPLETE) & was_here)
        winners_here, gain = -math.inf, math.nan
        if len(complete):
            winners = complete[best[complete] <= goal]
            if not len(winners):
                winners = complete[[int(best[complete].argmin())]]
            winners_here = float(np.quantile(here[winners], 0.9))
            nearest = complete[
                np.abs(here[complete] - here[row]).argsort()[: -(-len(complete) // 4)]
            ]
            gain = float((here[nearest] - np.nanmin(self._levels[nearest, column:], axis=1)).max())
        gone = (outcome == PeerOutcome.STOPPED) & ~was_here
        return Standing(
            n_peers=int(was_here.sum()) - 1 + int(gone.sum()),
            n_better=int((here < here[row]).sum()),
            goal=goal,
            best_of_all=float(best.min()),
            n_complete=self.n_complete,
            winners_here=winners_here,
            gain_after=gain,
        )

    def _row(self, trial: int) -> int:
        if trial in self._rows:
            return self._rows[trial]
        row = self._rows[trial] = len(self._rows)
        if row == len(self._best):
            self._levels = np.concatenate([self._levels, np.full_like(self._levels, np.nan)])
            self._best = np.concatenate([self._best, np.full_like(self._best, np.inf)])
            self._step = np.concatenate([self._step, np.full_like(self._step, -1)])
            self._outcome = np.concatenate([self._outcome, np.zeros_like(self._outcome)])
        return row

    def _widen(self) -> None:
        early, late = self._levels[:, ::2], self._levels[:, 1::2]
        merged = np.where(np.isnan(late), early, late)
        self._levels = np.concatenate([merged, np.full_like(merged, np.nan)], axis=1)
        self._width_steps *= 2
