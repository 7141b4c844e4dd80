"""Who is still in the running at each rung of a sweep, learned from how its leaders have moved.

A rung is a share of the run, √2 apart. Leaders at a rung stood somewhere at half of its steps: how
far down says how much standing means in this sweep, per doubling of the steps. What is measured
between rungs is compounded to the end of the run, and says how deep among the trials of a rung the
leaders of the end may still stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_PEERS", "Here", "Place", "Rungs"]

PER_DOUBLING = 2
# Rungs at shares 1/64 to 0.71 of the run; the first at which anything is decided is 1/32.
RUNGS = tuple(2.0 ** (j / PER_DOUBLING - 6) for j in range(6 * PER_DOUBLING))
# What is assumed of the correlation over a doubling of the steps before any has been seen, and how
# many squared normal scores of leaders outweigh it.
PRIOR, PRIOR_WEIGHT = 0.93, 24.0
# What was seen at a rung counts less at the next.
DECAY = 0.7
MIN_LEADERS = 3
MIN_PEERS = 5
# At these rungs, from a sixteenth to half of the run, a trial waits until all have come there. Of a
# sweep so large that COHORT have come, the best share goes on at once, to finish before the end.
COHORT = 32
WAITS = frozenset((4, 6, 8, 10))
SURE_SHARE = 1 / 64
NORMAL = NormalDist()

Losses = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Here:
    """What is known at a rung.

    losses: the best by then of those that were here, in order. of: them and those that ended or
    fell behind before. depth: the leaders of the end are expected among so many. correlation: of
    standing here with standing at the end, among leaders. is_measured: whether any leaders' moves
    are in it, or it is assumed. waits: others are to come; until then only the best n_sure go on.
    """

    losses: Losses
    of: int
    depth: float
    correlation: float
    is_measured: bool
    waits: bool
    n_sure: int


@dataclass(frozen=True, slots=True)
class Place:
    """How one trial stands at its last rung, at this share of the run; rank 1 is the best."""

    share: float
    rank: int
    here: Here

    @property
    def goes_on(self) -> bool:
        """Whether the trial may still end among the leaders, and need not wait for others."""
        here = self.here
        if here.waits:
            return self.rank <= here.n_sure
        return here.of <= MIN_PEERS or self.rank <= here.depth


class Rungs:
    """A table [rung, trial] of the best loss by then. A report costs O(1) but at a rung.

    n_best: how many leaders are looked for among n trials.
    errors: standard deviations of where they may stand below what is expected of them.
    """

    def __init__(self, n_best: Callable[[int], int], errors: float) -> None:
        self._n_best, self._errors = n_best, errors
        self._rows: dict[int, int] = {}
        self._best = np.full((len(RUNGS), 16), np.nan)
        self._rung = np.full(16, -1)  # the last one reached
        self._last = np.full(16, np.nan)  # the best loss at the last report
        self._gone = np.zeros(16, dtype=bool)  # ended early or paused
        self._is_last_call = False
        self._waits = WAITS
        self._version = 0  # of what depths depend on
        self._none = (-1, -1)  # version and number of trials for which none could go on
        self._memory: dict[int, tuple[int, Here]] = {}
        self._seen: dict[int, tuple[int, tuple[float, float] | None]] = {}

    def report(self, trial: int, share: float, best: float) -> bool:
        """Take the best loss by a share of the run; whether the trial has come to another rung."""
        row = self._row(trial)
        before = int(self._rung[row])
        rung = before
        while rung + 1 < len(RUNGS) and share >= RUNGS[rung + 1] - 1e-9:
            rung += 1
        if rung > before:
            self._best[before + 1 : rung, row] = self._last[row]
            self._best[rung, row] = best
            self._rung[row] = rung
            self._version += 1
        self._last[row] = best
        if self._gone[row]:  # it was interrupted, and goes on
            self.gone(trial, gone=False)
        return rung > before

    def __len__(self) -> int:
        """How many trials the table knows."""
        return len(self._rows)

    def gone(self, trial: int, gone: bool = True) -> None:
        """Count a trial that ended or is behind as worse at the rungs that it has not reached."""
        row = self._row(trial)
        self._version += gone != bool(self._gone[row])
        self._gone[row] = gone

    def allow(self, errors: float) -> None:
        """Look for leaders so many standard deviations below what is expected of them from now."""
        self._version += errors != self._errors
        self._errors = errors

    def last_call(self) -> None:
        """Take that no new trial will come."""
        self._version += not self._is_last_call
        self._is_last_call = True

    def wait_no_more(self) -> None:
        """Let those that waited go on where they stand well by what is known."""
        self._version += bool(self._waits)
        self._waits = frozenset[int]()

    def place(self, trial: int) -> Place | None:
        """Where a trial stands at its last rung; None before the first that decides anything."""
        row = self._row(trial)
        rung = int(self._rung[row])
        if rung < PER_DOUBLING:
            return None
        here = self._here(rung)
        rank = 1 + int(here.losses.searchsorted(self._best[rung, row]))
        return Place(RUNGS[rung], rank, here)

    def first(self, trials: Collection[int]) -> int | None:
        """Of these trials the most promising one that may go on, or None.

        Promising is to stand high above the depth of one's rung.
        """
        if not trials or (self._version, len(trials)) == self._none:
            return None
        before = self._version
        numbers = np.array(sorted(trials))
        rows = np.array([self._row(trial) for trial in numbers.tolist()])
        hopes: list[tuple[float, float, int]] = []
        behind: list[int] = []
        for rung in np.unique(self._rung[rows]).tolist():
            of_rung = self._rung[rows] == rung
            if rung < PER_DOUBLING:  # another pruner paused it
                hopes += [(1.0, 0.0, int(numbers[of_rung][0]))]
                continue
            here = self._here(rung)
            if here.waits and not here.n_sure:
                continue
            ranks = 1 + here.losses.searchsorted(self._best[rung, rows[of_rung]])
            best = int(ranks.argmin())
            if Place(RUNGS[rung], int(ranks[best]), here).goes_on:
                hopes.append((ranks[best] / here.depth, -RUNGS[rung], int(numbers[of_rung][best])))
            if not here.waits:
                behind += numbers[of_rung][ranks > here.depth].tolist()
        if hopes:
            return min(hopes)[2]
        for trial in behind:  # nobody need wait for it
            self.gone(trial)
        if self._version != before:
            return self.first(trials)
        self._none = self._version, len(trials)
        return None

    def _here(self, rung: int) -> Here:
        """What is known at a rung, from a memory that a report between rungs leaves as it is."""
        version, known = self._memory.get(rung, (-1, None))
        if known is not None and version == self._version:
            return known
        n = len(self._rows)
        losses, of = self._at(rung)
        top = min(0.5, self._n_best(n) / n)
        limit = NORMAL.inv_cdf(1 - top)
        rho = self._correlation(rung)
        later = range(rung + PER_DOUBLING, len(RUNGS), PER_DOUBLING)
        used = (*range(PER_DOUBLING, rung + 1), *later)
        is_measured = any(self._moved(r) is not None for r in used)
        score = rho * NORMAL.pdf(limit) / top - self._errors * math.sqrt(1 - rho * rho)
        depth = max(top, 1 - NORMAL.cdf(min(limit, score))) * of
        been = int(np.count_nonzero((self._rung[:n] >= rung) | self._gone[:n]))
        waits = rung in self._waits and not (self._is_last_call and been == n)
        n_sure = max(1, int(SURE_SHARE * been)) if been >= COHORT else 0
        known = Here(np.sort(losses), of, depth, rho, is_measured, waits, n_sure)
        self._memory[rung] = self._version, known
        return known

    def _at(self, rung: int) -> tuple[Losses, int]:
        """The losses of those that were at a rung, and how many stand there or behind."""
        n = len(self._rows)
        here = self._best[rung, :n]
        known = ~np.isnan(here)
        gone = np.count_nonzero(self._gone[:n] & (self._rung[:n] < rung))
        return here[known], int(np.count_nonzero(known)) + int(gone)

    def _correlation(self, rung: int) -> float:
        """Of standing at a rung with standing at the end, among leaders.

        The product over the doublings of the steps to come, each less its standard error: those
        that others have made as they turned out, the rest like the last one seen.
        """
        total, weight, fade = PRIOR * PRIOR_WEIGHT, PRIOR_WEIGHT, 1.0
        for r in range(rung, PER_DOUBLING - 1, -1):
            if (seen := self._moved(r)) is not None:
                total, weight = total + fade * seen[0] * seen[1], weight + fade * seen[1]
            fade *= DECAY
        per_doubling = total / weight
        left, product, r = -math.log2(RUNGS[rung]), 1.0, rung + PER_DOUBLING
        while left > 0:
            if (seen := self._moved(r)) is not None:
                weight = PRIOR_WEIGHT + seen[1]
                per_doubling = (per_doubling * PRIOR_WEIGHT + seen[0] * seen[1]) / weight
            error = math.sqrt((1 - per_doubling**2) / weight)
            product *= max(0.0, per_doubling - error) ** min(1.0, left)
            left, r = left - 1, r + PER_DOUBLING
        return product

    def _moved(self, rung: int) -> tuple[float, float] | None:
        """(correlation, weight) of leaders' normal scores at a rung with half of its steps.

        Those that came here were chosen by how they stood there, so the scores there are taken from
        the mean of all that came: with no correlation leaders would have stood at it.
        """
        if rung >= len(RUNGS):
            return None
        n = len(self._rows)
        here, there = self._best[rung, :n], self._best[rung - PER_DOUBLING, :n]
        both = np.flatnonzero(~np.isnan(here) & ~np.isnan(there))
        known = self._seen.get(rung)
        if known is not None and known[0] <= len(both) <= known[0] * 1.05:
            return known[1]
        found = self._measured(rung, both) if len(both) >= MIN_PEERS else None
        self._seen[rung] = len(both), found
        return found

    def _measured(self, rung: int, both: NDArray[np.int64]) -> tuple[float, float] | None:
        n = len(self._rows)
        of = self._at(rung)[1]
        before, of_before = self._at(rung - PER_DOUBLING)
        n_lead = min(max(MIN_LEADERS, math.ceil(self._n_best(n) * of / n)), len(both) // 2)
        leaders = both[np.argsort(self._best[rung, both], kind="stable")[:n_lead]]
        order = np.sort(before)
        then = _scores(order, self._best[rung - PER_DOUBLING, both], of_before)
        lead_then = _scores(order, self._best[rung - PER_DOUBLING, leaders], of_before)
        lead_now = np.mean([NORMAL.inv_cdf(1 - (i + 0.5) / of) for i in range(n_lead)])
        return _correlation_of(float(lead_then.mean()), float(lead_now), float(then.min()), n_lead)

    def _row(self, trial: int) -> int:
        if trial in self._rows:
            return self._rows[trial]
        row = self._rows[trial] = len(self._rows)
        if row == len(self._rung):
            self._best = np.concatenate([self._best, np.full_like(self._best, np.nan)], axis=1)
            self._rung = np.concatenate([self._rung, np.full_like(self._rung, -1)])
            self._last = np.concatenate([self._last, np.full_like(self._last, np.nan)])
            self._gone = np.concatenate([self._gone, np.zeros_like(self._gone)])
        return row


def _correlation_of(then: float, now: float, cut: float, n: int) -> tuple[float, float] | None:
    """(correlation, weight) of normal scores, from the mean of n leaders before and now.

    Only those above the cut before came here, which lifts the mean of the leaders before: of a
    normal one truncated at the cut. weight: n times the squared change of that mean with the
    correlation; None where the cut has left nothing to see.
    """

    def mean(rho: float) -> float:
        sd = math.sqrt(1 - rho * rho)
        at = (cut - rho * now) / sd
        above = 1 - NORMAL.cdf(at)
        return rho * now + sd * (NORMAL.pdf(at) / above if above > 1e-9 else max(at, 0.0))

    low, high = 0.0, 0.999
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < then else (low, middle)
    slope = (mean(high) - mean(max(high - 0.05, 0.0))) / 0.05
    return (high, n * slope * slope) if slope > 0.2 else None


def _scores(
    order: NDArray[np.float64], values: NDArray[np.float64], of: int
) -> NDArray[np.float64]:
    """Normal scores of values among sorted ones and worse ones, `of` in all; ties share theirs."""
    ranks = (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")) / 2
    return np.array([NORMAL.inv_cdf(1 - rank / of) for rank in np.clip(ranks, 0.5, of - 0.5)])
