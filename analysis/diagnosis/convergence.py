"""How each trial converged, in numbers, on an axis of steps, examples or seconds."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iolaus.analysis.data.curves import Curve, curves_of
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import (
    Array,
    Features,
    gather,
    loss_metrics,
)
from iolaus.analysis.ranking.level import level
from iolaus.sweeps.signals import smooth

__all__ = ["SHOWN", "TimeToTarget", "convergence", "default_target", "time_to_target"]

AXES = ("step", "examples", "seconds")
# The columns that a terminal has room for.
SHOWN = (
    "state", "last", "level", "smoothed_best", "smoothed_best_at", "to_target", "half_way",
    "late_slope", "noise", "stalled_since", "rebound", "val_gap", "clipped", "exploded_at",
)  # fmt: skip


def convergence(sweep: Sweep, axis: str = "step", target: float | None = None) -> pd.DataFrame:
    """How each trial converged; one row per trial that ran, index trial (number).

    Losses are as reported (where the metric is maximised, lower is to be read as higher), and are
    those of the training loss (`iolaus.analysis.diagnosis._features.loss_metrics`); smoothing and
    every word are those of `iolaus.sweeps.signals`. Columns of places are on the axis: `step`,
    `examples` or `seconds` (since the trial began).

    state, censored (it ended early: pruned, cut off, still running), last (where it ended),
    n_reports (finite ones); start (the sweep's loss before training), smoothed_best and
    smoothed_best_at, level (where the curve ends, as in the ranking), to_target (first place with a
    smoothed loss of at most `target`, NaN if never), reached; area (mean of log loss along the
    axis, NaN if a loss is not positive, or for an accuracy: lower is both faster and lower),
    half_way (where half of the way from start to best is done), late_slope (per unit of the axis,
    over the last half) with late_slope_low and late_slope_high (one-sided 95 %), noise (of one
    report), stalled_since, rebound, rebound_since, period, amplitude (0 if there is no
    oscillation), diverged_at; val_gap (of validation above training where both measure the same,
    means of the last three points), clipped (share of steps), exploded_at, exploded_times (the
    median of the norms before it), exploded_parameter, dead_since: of the gradient. What was not
    reported or did not happen is NaN; a trial without a finite report has no number of its own.

    target: a loss, as reported. Left out, it is `default_target(sweep)`; the frame's
    `attrs["target"]` says which. Raises ValueError for another axis, or for examples if no trial
    reports them.

    >>> table = iolaus.convergence(iolaus.load("runs.csv"), target=0.5)
    >>> int(table["reached"].sum())
    7
    """
    if axis not in AXES:
        raise ValueError(f"axis={axis!r} is none of {', '.join(AXES)}")
    gathered = gather(sweep)
    target = _default_target(gathered) if target is None else target
    places = curves_of(sweep.curves, loss_metrics(sweep)[0], axis) if axis != "step" else {}
    if axis == "examples" and not any(np.isfinite(values).any() for _, values in places.values()):
        raise ValueError(
            "no trial reports `examples`, so there is no such axis; report(step, examples=...) or "
            "axis=step"
        )
    nothing: Curve = (np.empty(0), np.empty(0))

    def axes(number: int) -> _Axis:
        return _Axis() if axis == "step" else _Axis(places.get(number, nothing))

    rows = {number: _row(features, axes(number), target) for number, features in gathered.items()}
    table = pd.DataFrame.from_dict(
        rows, orient="index", columns=list(_row(_NOTHING, _Axis(), math.nan))
    )
    table.index.name = "trial"
    table.attrs |= {"target": target, "axis": axis}
    return table


_NOTHING = Features(steps=np.empty(0), losses=np.empty(0), n_steps=0)


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where the steps of a trial lie on an axis: known at some steps, straight in between.

    known: None if the axis is the steps themselves.
    """

    known: Curve | None = None

    def along(self, steps: Array) -> Array:
        """The places of steps."""
        if self.known is None:
            return steps
        is_known = np.isfinite(self.known[1])
        if not is_known.any():
            return np.full(len(steps), np.nan)
        return np.interp(steps, self.known[0][is_known], self.known[1][is_known])

    def at(self, step: float | None) -> float:
        """The place of one step; NaN for none."""
        return math.nan if step is None else float(self.along(np.array([float(step)]))[0])


def _row(features: Features, axis: _Axis, target: float) -> dict[str, object]:
    place = axis.at
    s, nan = features.signals, math.nan
    finite = s is not None and s.n_reports > 0
    best, now, noise, trend, low, high = (
        (s.best, s.level, s.noise, s.trend, s.trend_low, s.trend_high)
        if s is not None
        else (nan,) * 6
    )
    steps, losses = (
        (features.steps[: s.n_reports], features.losses[: s.n_reports])
        if s is not None
        else (_NOTHING.steps,) * 2
    )
    x, y = smooth(steps, losses)
    reached = _first(x, y, features.sign * target)
    per = _steps_per_unit(features, axis)
    e, v = features.explosion, features.validation
    return {
        "state": features.state,
        "censored": features.state != "complete",
        "last": place(float(features.steps[-1])) if len(features.steps) else nan,
        "n_reports": s.n_reports if s is not None else 0,
        "start": features.own(features.start),
        "smoothed_best": features.own(best),
        "smoothed_best_at": place(s.best_step) if s is not None and finite else nan,
        "level": features.own(level(steps, losses, "final")[0]) if finite else nan,
        "to_target": place(reached),
        "reached": reached is not None,
        "area": _log_area(axis.along(steps), losses),
        "half_way": place(_first(x, y, (features.start + best) / 2)),
        "late_slope": features.own(trend) * per,
        "late_slope_low": features.own(low if features.sign > 0 else high) * per,
        "late_slope_high": features.own(high if features.sign > 0 else low) * per,
        "noise": noise,
        "stalled_since": place(s.stalled_since) if s is not None else nan,
        "rebound": s.rebound if s is not None else nan,
        "rebound_since": place(s.rebound_since) if s is not None else nan,
        "period": s.period_steps / per if s is not None and s.period_steps is not None else nan,
        "amplitude": s.amplitude if s is not None else nan,
        "diverged_at": place(s.diverged_at) if s is not None else nan,
        "val_gap": features.validation_sign * v.level - features.own(now)
        if v is not None and features.is_alike
        else nan,
        "clipped": features.clipped,
        "exploded_at": place(e.step) if e is not None else nan,
        "exploded_times": e.times if e is not None else nan,
        "exploded_parameter": e.parameter if e is not None else "",
        "dead_since": place(e.dead_since) if e is not None else nan,
    }


def _first(steps: Array, losses: Array, level: float) -> float | None:
    below = np.flatnonzero(losses <= level)
    return float(steps[below[0]]) if len(below) else None


def _steps_per_unit(features: Features, axis: _Axis) -> float:
    """Steps per unit of the axis over the last half of the trial.

    NaN for fewer than two reports.
    """
    if len(features.steps) < 2:
        return math.nan
    begin, end = float(features.steps[len(features.steps) // 2 - 1]), float(features.steps[-1])
    width = axis.at(end) - axis.at(begin)
    return (end - begin) / width if width > 0 else math.nan


def _log_area(x: Array, losses: Array) -> float:
    if len(x) < 2 or not np.all(losses > 0) or not x[-1] > x[0]:
        return math.nan
    return float(np.trapezoid(np.log(losses), x) / (x[-1] - x[0]))


def default_target(sweep: Sweep) -> float:
    """A loss that half of the completed trials reach: the median of their best smoothed losses.

    It is as reported, so an accuracy where that is maximised; NaN if there is none. Without a
    completed trial it is that of all trials.
    """
    return _default_target(gather(sweep))


def _default_target(gathered: dict[int, Features]) -> float:
    best = {
        state: [
            f.own(f.signals.best) for f in gathered.values() if f.signals and state in (f.state, "")
        ]
        for state in ("complete", "")
    }
    known = np.array(best["complete"] or best[""])
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else math.nan


@dataclass(frozen=True, slots=True)
class TimeToTarget:
    """How long trials need to reach a loss, with those that did not in the count.

    n_trials, n_reached. median, low, high: where half of the trials have reached the target, and
    its 95 % interval; infinity where fewer than half have by the last place any trial got to,
    `until`. at, share: the estimated share of trials that reached it by each place.
    """

    target: float
    axis: str
    n_trials: int
    n_reached: int
    median: float
    low: float
    high: float
    until: float
    at: Array
    share: Array

    def sentence(self) -> str:
        """The estimate in words."""
        unit = "steps" if self.axis == "step" else self.axis
        within = f"{self.n_reached} of {self.n_trials} trials reached {self.target:.4g}"
        if math.isinf(self.median):
            bound = (
                f" (with 95 % confidence not within {self.low:.4g} {unit})"
                if math.isfinite(self.low)
                else ""
            )
            return f"{within}; fewer than half do within {self.until:.4g} {unit}{bound}."
        high = (
            f"{self.low:.4g} to {self.high:.4g}"
            if math.isfinite(self.high)
            else f"from {self.low:.4g} on, or never"
        )
        return f"{within}; half do within {self.median:.4g} {unit} (95 % interval {high})."


def time_to_target(table: pd.DataFrame) -> TimeToTarget:
    """Kaplan and Meier's (1958) estimate of the time to the target, from a `convergence` table.

    A trial that ended early had not reached the target by then: it is censored there, not dropped.
    One that diverged never will: it is censored at the longest place of the table. Intervals:
    Greenwood's on the log-log scale, as scipy has it; where it has no upper bound because all
    trials have arrived, six or more, it is the last arrival (beyond which the median lies with a
    chance of 1 in 2^n). Pruned trials were ended because they did badly, which the estimate does
    not know: it is optimistic. Raises ValueError for a table without trials that have a finite
    report.
    """
    rows = table[table["n_reports"] > 0]
    if rows.empty:
        raise ValueError("no trial has a finite report, so none has a time to a target")
    from scipy.stats import CensoredData, ecdf  # slow to import

    longest = float(rows["last"].max())
    reached = rows["reached"].to_numpy(bool)
    ended = np.where(rows["diverged_at"].notna(), longest, rows["last"])
    data = CensoredData(
        uncensored=rows.loc[reached, "to_target"].to_numpy(float), right=ended[~reached]
    )
    estimate = ecdf(data).cdf
    median, low, high = (math.inf,) * 3
    if reached.any():
        with (
            warnings.catch_warnings()
        ):  # scipy says where the formula has no bound; the bound is NaN there
            warnings.simplefilter("ignore", RuntimeWarning)
            interval = estimate.confidence_interval(method="log-log")
        median, low, high = (
            _crossing(estimate.quantiles, p)
            for p in (
                estimate.probabilities,
                interval.high.probabilities,
                interval.low.probabilities,
            )
        )
        low = min(low, median)  # where everybody has reached it, the formula has no bounds
        if (
            reached.all() and 0.5 ** len(rows) < 0.025
        ):  # then they are those of the order of the places
            high = min(high, float(estimate.quantiles[-1]))
    return TimeToTarget(
        target=table.attrs.get("target", math.nan),
        axis=table.attrs.get("axis", "step"),
        n_trials=len(rows),
        n_reached=int(reached.sum()),
        median=median,
        low=low,
        high=high,
        until=longest,
        at=estimate.quantiles,
        share=estimate.probabilities,
    )


def _crossing(at: Array, share: Array) -> float:
    """Where a share first is a half; infinity if never. Unknown bounds (NaN) do not cross."""
    over = np.flatnonzero(np.nan_to_num(share) >= 0.5 - 1e-12)
    return float(at[over[0]]) if len(over) else math.inf
