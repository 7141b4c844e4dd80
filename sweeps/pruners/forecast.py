"""What a trial will have shown by its end, from finished trials that announced their rates.

At equal shares of the run, finished trials show how much lower one of such a loss, such a course
and such a learning rate came by its end. A Gaussian process through them answers for a running
trial, with an error. Laws of the schedule miss it by more, except where no schedule of the trial's
kind has finished: benchmarks/forecast_schedules.py.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iolaus.sweeps.signals import Array, Trend, log_time
from iolaus.sweeps.types import Plan

__all__ = ["Forecast", "Forecasts", "GaussianProcess", "planned_rate"]

N_SHARES = 64  # shares of a run at which trials are compared
MIN_FINISHED = 8
MOST_FINISHED = 40  # the last so many: their number to the third power is what a forecast costs
N_ASKED = 3  # the last reports, no two in one share, whose forecasts must agree
CONFIDENCE_Z = 2.054  # one-sided 98 %
LENGTHS = (0.5, 1.0, 2.0, 4.0)
NOISES = (0.005, 0.03, 0.1, 0.3)
LINEAR = 0.3
LEAST_RATE = 1e-4  # of the highest of a plan: cosines end in zero, which has no logarithm
LARGEST = 1e100
FAR = 3.0  # standard deviations from the mean of the finished beyond which a feature is cut off


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """A smooth function of standardised features, fitted to n examples.

    Kernel: exp(-d^2 / 2 l^2) + LINEAR x . y, per feature, plus noise on the diagonal; length l and
    noise are those of LENGTHS and NOISES under which each example is likeliest given the others,
    the scale of the whole left free (Rasmussen and Williams 2006, equations 5.10 to 5.13).
    """

    mean: Array
    spread: Array
    examples: Array
    middle: float
    length: float
    noise: float
    scale: float
    inverse: Array
    weights: Array

    @classmethod
    def fit(cls, features: Array, targets: Array) -> GaussianProcess:
        """Fit features [n, p] to targets [n], finite, n of 3 or more."""
        mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-12
        examples = (features - mean) / spread
        middle = float(np.median(targets))
        above = targets - middle
        found: tuple[float, float, float, float, Array, Array] | None = None
        for length in LENGTHS:
            values, vectors = np.linalg.eigh(_kernel(examples, examples, length))
            for noise in NOISES:
                inverse = (vectors / (np.maximum(values, 0.0) + noise)) @ vectors.T
                weights, own = inverse @ above, np.diag(inverse)
                # weights / own is what the others miss an example by, 1 / own its variance.
                scale = float(np.mean(weights**2 / own)) + 1e-24
                likelihood = 0.5 * float(np.log(own).sum()) - 0.5 * len(own) * math.log(scale)
                if found is None or likelihood > found[0]:
                    found = likelihood, length, noise, scale, inverse, weights
        assert found is not None
        return cls(mean, spread, examples, middle, *found[1:])

    def predict(self, features: Array) -> tuple[float, float]:
        """(mean, standard error) for one example of features [p], its own noise included."""
        x = np.clip((features - self.mean) / self.spread, -FAR, FAR)[None]
        near = _kernel(x, self.examples, self.length)[0]
        variance = 1 + LINEAR * float(np.mean(x**2)) - float(near @ self.inverse @ near)
        error = math.sqrt(self.scale * (max(variance, 0.0) + self.noise))
        return self.middle + float(near @ self.weights), error


def _kernel(a: Array, b: Array, length: float) -> Array:
    distance = ((a[:, None] - b[None]) ** 2).mean(axis=2)
    kernel: Array = np.exp(-0.5 * distance / length**2) + LINEAR * (a @ b.T) / a.shape[1]
    return kernel


@dataclass(frozen=True, slots=True)
class Forecast:
    """The lowest loss a trial will have shown by its end, from `n` finished trials.

    best: the middle. low: the lowest of three one-sided 98 % bounds, as if the shape of the process
    were known; it is fitted, so trials end below more often (benchmarks/README.md).
    """

    best: float
    low: float
    n: int


class Forecasts:
    """What trials with announced rates looked like at each share of their runs, and how they ended.

    A report costs O(1). A share of the run in which someone asks costs a fit, a few milliseconds
    for MOST_FINISHED trials, which is kept until another trial finishes.
    """

    def __init__(self) -> None:
        # [share of the run, (level, best, log rate, foreseen change)], NaN before the first report
        self._seen: dict[int, NDArray[np.float64]] = {}
        self._reported: dict[int, list[int]] = {}  # shares in which a trial reported, rising
        self._finished: list[int] = []
        self._fits: dict[int, _Fit | None] = {}

    def report(self, trial: int, now: Trend, plan: Plan) -> None:
        """Take where a trial's curve is; one without a length or announced rates is left out."""
        if plan.n_steps is None or not plan.lr:
            return
        share = min(N_SHARES - 1, N_SHARES * now.step // plan.n_steps)
        seen = self._seen.setdefault(trial, np.full((N_SHARES, 4), np.nan))
        reported = self._reported.setdefault(trial, [])
        if not reported or share > reported[-1]:
            reported.append(share)
        change = now.slope * log_time(now.step, plan.n_steps)
        least = LEAST_RATE * max(rate for _, rate in plan.lr)
        rate = math.log(max(planned_rate(plan, now.step), least, 1e-300))
        seen[share:] = now.level, now.best, rate, change  # holds until its next report

    def finish(self, trial: int) -> None:
        """Take that a trial has run to its end, once."""
        if trial in self._seen:
            self._finished.append(trial)
            self._fits.clear()

    def forecast(self, trial: int, errors: float = 1.0) -> Forecast | None:
        """Where a trial ends, None without announced rates or with few finished trials.

        `low` is the lowest of the forecasts at the trial's last N_ASKED reports, each less `errors`
        times as many standard errors as 98 % need. Trials that report less often than that wait.
        """
        shares = self._reported.get(trial, [])[-N_ASKED:]
        if len(shares) < N_ASKED:
            return None
        found = [self._at(trial, share, errors) for share in shares]
        known = [f for f in found if f is not None]
        if len(known) < N_ASKED:
            return None
        return Forecast(known[-1].best, min(f.low for f in known), known[-1].n)

    def _at(self, trial: int, share: int, errors: float) -> Forecast | None:
        if share not in self._fits:
            self._fits[share] = self._fit(share)
        fit = self._fits[share]
        own = self._seen[trial][share]
        if fit is None or (fit.as_log and not (own[:2] > 0).all()):
            return None
        features = _features(own[None], fit.as_log)[0]
        gain, error = fit.process.predict(features)
        best = min(features[0] + gain, features[1])
        low = best - errors * _student_z(fit.n - 2) * error
        if fit.as_log:
            best, low = math.exp(best), math.exp(low)
        return Forecast(best, low, fit.n)

    def _fit(self, share: int) -> _Fit | None:
        last = self._finished[-MOST_FINISHED:]
        there = [t for t in last if not np.isnan(self._seen[t][share, 0])]
        if len(there) < MIN_FINISHED:
            return None
        seen = np.array([self._seen[t][share] for t in there])
        ends = np.array([self._seen[t][-1, 1] for t in there])
        # Losses differ by orders of magnitude; where all are above 0 their ratios are compared.
        as_log = bool((seen[:, :2] > 0).all() and (ends > 0).all())
        features = _features(seen, as_log)
        gains = (np.log(ends) if as_log else ends) - features[:, 0]
        if max(np.abs(features).max(), np.abs(gains).max()) > LARGEST:
            return None  # their squares are beyond floats
        return _Fit(GaussianProcess.fit(features, gains), as_log, len(there))


@dataclass(frozen=True, slots=True)
class _Fit:
    process: GaussianProcess
    as_log: bool
    n: int


def planned_rate(plan: Plan, step: int) -> float:
    """The announced learning rate at a step, linear between corners; the nearest outside them.

    IndexError if none is announced.
    """
    after = bisect_right(plan.lr, (step, math.inf))
    (a, low), (b, high) = plan.lr[max(after - 1, 0)], plan.lr[min(after, len(plan.lr) - 1)]
    return low if a >= b else low + (high - low) * (step - a) / (b - a)


def _features(seen: Array, as_log: bool) -> Array:
    """[n, 4] as `Forecasts` keeps them; the change is held between a rise to double and -3."""
    if not as_log:
        return seen
    changes = np.clip(seen[:, 3] / seen[:, 0], -3.0, 1.0)
    return np.column_stack([np.log(seen[:, :2]), seen[:, 2], changes])


def _student_z(n_free: int) -> float:
    """The 98 % quantile of Student's t, within 0.02 from 6 degrees of freedom on.

    Cornish and Fisher's expansion, Abramowitz and Stegun 26.7.5, to its second term.
    """
    z = CONFIDENCE_Z
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / n_free + second / n_free**2
