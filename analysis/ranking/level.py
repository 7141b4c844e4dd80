"""Where a curve ends, how well that is known, and which curve the objective was taken from."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iolaus.analysis.data.sweep import Sweep
from iolaus.sweeps.signals import despike, signals, thin

__all__ = ["is_written", "level", "objective_source"]

Array = NDArray[np.float64]

# A metric is what the objective was taken from if it says so in this share of the completed trials.
SAME_SHARE = 0.9

# The end of a curve is read off a line through its last half, this many points of it at most. Fewer
# are noisier, more bend: of 4 to 16 (and of thirds and quarters) 8 held the true end of falling,
# flat, dropping and calmed curves best.
END_POINTS = 8
LEAST_POINTS = 4


def level(
    steps: Array, losses: Array, kind: Literal["final", "best"]
) -> tuple[float, float, float]:
    """(level, standard error, degrees of freedom) of the end of one curve.

    With kind="best" the level is its smoothed best, with the error of the end.

    The end is where a line through the last points stands at the last step, so that a loss that
    still falls is not behind itself, and what came before has no say; but never beyond what the
    last three have shown. Single spikes are clipped, except in the last two reports: those may be a
    drop. The error is widened by the autocorrelation of the last 32 points (none is seen in fewer
    than 16); infinite for fewer than 4. NaN for a curve that begins with NaN.
    """
    said = signals(steps, losses)
    n = said.n_reports
    _, x = thin(steps[:n], steps[:n].astype(np.float64))
    _, y = thin(steps[:n], losses[:n])
    if len(y) < LEAST_POINTS:
        return said.level if kind == "final" else said.best, math.inf, 1.0
    m = max(LEAST_POINTS, min(len(y) // 2, END_POINTS))
    r = 0.0
    if (
        len(y) >= 2 * END_POINTS
    ):  # fewer say nothing of what is a spike, nor how long the noise lasts
        y, r = np.append(despike(y)[:-2], y[-2:]), said.autocorrelation
    end, error, df = _end_of_line(x[-m:], y[-m:], float(steps[n - 1]), r)
    shown = (*y[-3:], losses[n - 1])  # a bent curve is no reason to foresee more than it has shown
    end = min(max(end, float(min(shown))), float(max(shown)))
    return end if kind == "final" else said.best, error, df


def _end_of_line(
    x: Array, y: Array, at: float, autocorrelation: float
) -> tuple[float, float, float]:
    """(value at `at`, standard error, degrees of freedom) of a line through noisy points.

    autocorrelation: of the noise, lag 1.

    Positive values are fitted by an exponential if that is nearer to them: what has exploded comes
    down by factors.
    """
    scale = float(np.abs(y).max()) or 1.0  # squares of losses that exploded overflow
    m, ahead, x, y = len(x), at - float(x.mean()), x - x.mean(), y / scale
    squares = float(x @ x)
    widened = (1 + autocorrelation) / (1 - autocorrelation)
    df = max(m - 2 * widened, 1.0)  # two terms take up as much as so many independent points
    relative = math.sqrt((1 / m + ahead**2 / squares) * widened / df)
    line = y.mean() + (x @ y) / squares * x
    end = float(y.mean() + (x @ y) / squares * ahead)
    error = float(np.linalg.norm(y - line)) * relative
    if y.min() > 0:
        logs = np.log(y)
        log_line = logs.mean() + (x @ logs) / squares * x
        if np.linalg.norm(y - np.exp(log_line)) < np.linalg.norm(y - line):
            end = math.exp(logs.mean() + (x @ logs) / squares * ahead)
            error = end * float(np.linalg.norm(logs - log_line)) * relative
    return end * scale, error * scale, df


def objective_source(
    sweep: Sweep, done: pd.DataFrame
) -> tuple[str, Literal["final", "best"]] | None:
    """The metric whose last ("final") or best value is the objective of the completed trials.

    None if none is. Trials whose curve is not all on disk yet do not count.
    """
    largest = sweep.directions[0] == "maximize"
    done = done[is_written(sweep, done)]
    curves = sweep.curves[sweep.curves["trial"].isin(done.index)]
    names = curves["metric"].unique()
    for metric in sorted(names, key=lambda name: (name != sweep.metric, name)):
        own = (
            curves[curves["metric"] == metric]
            .sort_values("step", kind="stable")
            .groupby("trial")["value"]
        )
        for kind, values in (("final", own.last()), ("best", own.max() if largest else own.min())):
            objective = done["objective"].astype(float)
            same = np.isclose(values.reindex(done.index), objective, rtol=1e-5, atol=0.0)
            if same.mean() >= SAME_SHARE:
                whole = done.index.isin(values.index).all()
                return (str(metric), kind) if whole else None  # type: ignore[return-value]
    return None


def is_written(sweep: Sweep, done: pd.DataFrame) -> pd.Series:
    """Whether each trial's curve is on disk to its last report.

    While a sweep runs, a result may be there before.
    """
    last = sweep.curves[sweep.curves["metric"] == sweep.metric].groupby("trial")["step"].max()
    return ~(
        last.reindex(done.index).fillna(-1)
        < done.get("steps", pd.Series(np.nan, done.index)).astype(float)
    )
