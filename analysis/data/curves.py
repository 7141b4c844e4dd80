"""The curves of a sweep as arrays: of each trial, of one metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from iolaus.analysis.data.sweep import Sweep

__all__ = ["Curve", "Points", "curves_of", "lines_of", "planned_rates"]

Array = NDArray[np.float64]
Curve = tuple[Array, Array]  # steps, strictly rising; values
Points = NDArray[np.float64]  # [n, 2]: x, y


def curves_of(rows: pd.DataFrame, metric: str | None, column: str = "value") -> dict[int, Curve]:
    """One metric's curve of each trial, by number: steps strictly rising, and values.

    rows: a sweep's curves. column: what of them to take, `value`, `seconds` or `examples`. Of a
    step that was reported twice the last report counts; NaN and infinity are kept.
    """
    rows = rows.loc[rows["metric"] == metric, ["trial", "step", column]]
    trial, step, value = (rows[name].to_numpy() for name in ("trial", "step", column))
    if not len(trial):
        return {}
    order = np.lexsort((np.arange(len(step)), step, trial))
    trial, step, value = trial[order], step[order], value[order].astype(float)
    last = np.ones(len(trial), bool)
    last[:-1] = (trial[1:] != trial[:-1]) | (step[1:] != step[:-1])
    trial, step, value = trial[last], step[last].astype(float), value[last]
    numbers, begins = np.unique(trial, return_index=True)
    return {
        int(number): (step[a:b], value[a:b])
        for number, a, b in zip(numbers, begins, [*begins[1:], len(trial)], strict=True)
    }


def lines_of(sweep: Sweep, metric: str, axis: str = "step") -> dict[int, Points]:
    """Each trial's finite reports of one metric as points (axis, value), [n, 2], to be drawn.

    In the order of the trials; points of a trial as they were reported. axis: step, examples or
    seconds; where a report does not know its place, it is left out.
    """
    rows = sweep.curves[(sweep.curves["metric"] == metric).to_numpy()]
    points = rows[[axis, "value"]].to_numpy(dtype=np.float64)
    keep = np.isfinite(points).all(axis=1)
    trials, points = rows["trial"].to_numpy()[keep], points[keep]
    order = np.argsort(trials, kind="stable")
    trials, points = trials[order], points[order]
    starts = np.flatnonzero(np.diff(trials, prepend=-1))
    if not len(starts):
        return {}
    return {
        int(trials[i]): part for i, part in zip(starts, np.split(points, starts[1:]), strict=True)
    }


def planned_rates(sweep: Sweep) -> dict[int, Points]:
    """Each trial's planned learning rate as corners (step, rate), [n, 2].

    Trials without a plan are left out.
    """
    if "lr_plan" not in sweep.trials:
        return {}
    plans = (
        (int(str(trial)), plan)
        for trial, plan in sweep.trials["lr_plan"].items()
        if isinstance(plan, list | tuple)
    )
    return {trial: np.array(plan, dtype=np.float64) for trial, plan in plans if plan}
