"""One trial among the others: its curve, where it was judged, and its learning rate beneath."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure, SubFigure

from iolaus.analysis.data.curves import lines_of, planned_rates
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import are_alike, loss_metrics
from iolaus.analysis.diagnosis.shapes import shape_name
from iolaus.analysis.figures._style import (
    AXIS_NAMES,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LOWEST_RATE,
    VERMILION,
    above_zero,
    add_lines,
    logarithmic,
    say_nothing,
    shape_style,
    smoothed,
    value_limits,
)

__all__ = ["draw_trial"]

N_BEHIND = 50  # of the other trials: enough to see where they lie
VALIDATION: dict[str, Any] = {
    "color": GREEN,
    "linewidth": 1.2,
    "linestyle": "--",
    "marker": ".",
    "markersize": 4,
}
VERDICT: dict[str, Any] = {"color": BLACK, "linewidth": 1.0, "linestyle": "--"}


def draw_trial(
    figure: Figure | SubFigure, sweep: Sweep, trial: int, diagnosis: pd.DataFrame
) -> None:
    """One trial's watched metric, others faint behind, and its learning rate, taken and planned.

    Of a loss the validation's (or training's) is drawn beside, dashed.

    The shape's mark stands where it began, a dashed line where a verdict ended the trial. Limits
    are those of all trials, so that pictures of several compare. diagnosis: of
    `iolaus.analysis.diagnosis.diagnose.diagnose`.
    """
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.set_ylabel(sweep.metric)
    below.set_ylabel("learning rate")
    below.set_xlabel(AXIS_NAMES["step"])
    above.set_title(f"{sweep.name}, trial {trial}", loc="left", fontsize="medium")
    curves = lines_of(sweep, sweep.metric)
    if trial in curves:
        others = [curve for number, curve in curves.items() if number != trial]
        behind = others[:: max(1, len(others) // N_BEHIND)]
        add_lines(
            above, [smoothed(curve) for curve in behind], color=GREY, linewidth=0.5, alpha=0.35
        )
        above.plot(*curves[trial].T, color=BLUE, linewidth=0.6, alpha=0.3)
        own = smoothed(curves[trial])
        above.plot(*own.T, color=BLUE, linewidth=1.8, label=f"trial {trial}")
        if trial in diagnosis.index:
            shape, since = str(diagnosis.at[trial, "shape"]), float(diagnosis.at[trial, "since"])  # type: ignore[arg-type]
            if since == since:
                at = own[min(int((own[:, 0] < since).sum()), len(own) - 1)]
                label = f"{shape_name(shape)}, since step {since:,.0f}"
                above.plot(*at, **shape_style(shape), zorder=5, label=label)
        measured = lines_of(sweep, beside).get(trial) if (beside := _beside(sweep)) else None
        if measured is not None:
            above.plot(*measured.T, **VALIDATION, label=beside)
        value_limits(above, curves.values())
        above.set_xlim(0, 1.01 * max(curve[-1, 0] for curve in curves.values()))
    else:
        say_nothing(above, f"no finite {sweep.metric} was reported")
    verdict = sweep.trials["verdict_step"].get(trial)
    if verdict is not None and verdict == verdict:
        rule = sweep.trials["verdict_rule"].get(trial)
        above.axvline(verdict, **VERDICT, label=f"ended by rule {rule}")
        below.axvline(verdict, **VERDICT)
    if above.get_legend_handles_labels()[0]:
        above.legend(frameon=False, fontsize="small")
    taken, planned = lines_of(sweep, "lr").get(trial), planned_rates(sweep).get(trial)
    rates = [rate for rate in (planned, taken) if rate is not None]
    highest = max((float(rate[:, 1].max()) for rate in rates), default=0.0)
    if not highest > 0:
        say_nothing(below, "no learning rate was reported")
        return
    if planned is not None:
        rate = above_zero(planned, highest * LOWEST_RATE)
        below.plot(*rate.T, color=GREY, linestyle=":", linewidth=1.2, label="planned")
    if taken is not None:
        rate = above_zero(taken, highest * LOWEST_RATE)
        below.plot(*rate.T, color=VERMILION, linewidth=1.5, label="taken")
    logarithmic(below.yaxis)
    below.legend(frameon=False, fontsize="small")


def _beside(sweep: Sweep) -> str | None:
    """The other one of training and validation, where both are losses or both the same measure."""
    training, validation = loss_metrics(sweep)
    if validation is None or not are_alike(training, validation):
        return None
    return validation if training == sweep.metric else training
