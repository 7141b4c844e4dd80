"""Learning-rate schedules over the run, with where each trial ended."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from iolaus.analysis.data.curves import lines_of, planned_rates
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.figures._style import (
    AXIS_NAMES,
    ENDS,
    LEGEND,
    LOWEST_RATE,
    STATE_NAMES,
    STYLES,
    above_zero,
    add_lines,
    logarithmic,
    say_nothing,
)
from iolaus.analysis.ranking.rank import Ranking, best_trial

__all__ = ["draw_schedules"]

PLANNED: dict[str, Any] = {"color": "#777777", "linewidth": 0.7, "alpha": 0.7, "linestyle": ":"}
END_MARKS = {"complete": "o", "running": ">", **ENDS}


def draw_schedules(ax: Axes, sweep: Sweep, *, ranking: Ranking | None = None) -> None:
    """Each trial's learning rate over its steps.

    It is as reported (metric `lr`), and faint as planned beyond its end. The mark at the end says
    how it ended; the first of the `ranking` stands out. Rates of 0 are drawn at the bottom. Plans
    come from the column `lr_plan` of the trials (corners (step, rate), linear in between), if there
    is one.
    """
    ax.set_xlabel(AXIS_NAMES["step"])
    ax.set_ylabel("learning rate")
    taken = lines_of(sweep, "lr")
    plans = planned_rates(sweep)
    if not taken and not plans:
        say_nothing(ax, "no learning rate was reported (metric lr, or iolaus.plan)")
        return
    highest = max(float(line[:, 1].max()) for line in [*taken.values(), *plans.values()])
    floor = highest * LOWEST_RATE
    chosen, handles = best_trial(sweep, ranking), []
    add_lines(ax, [above_zero(plan, floor) for plan in plans.values()], **PLANNED)
    states = sweep.states_of([*dict.fromkeys([*plans, *taken])])
    for name, style in STYLES.items():
        lines = [
            above_zero(taken[t], floor)
            for t in taken
            if name == ("best" if t == chosen else states[t])
        ]
        mark = END_MARKS.get("complete" if name == "best" else name, "o")
        if lines:
            add_lines(ax, lines, **style)
            ends = np.array([line[-1] for line in lines])
            ax.plot(*ends.T, **{**style, "linestyle": "none", "marker": mark, "markersize": 5})
        n = list(states.values()).count(name)
        label = (
            f"best: trial {chosen}" if name == "best" else f"{STATE_NAMES.get(name, name)} ({n})"
        )
        if lines or n:
            handles.append(Line2D([], [], **style, marker=mark, label=label))
    if plans:
        handles.append(Line2D([], [], **PLANNED, label="planned"))
    ax.autoscale_view()
    if highest > 0:
        logarithmic(ax.yaxis)
    ax.set_xlim(left=0)
    ax.legend(handles=handles, **LEGEND)
    ax.set_title("learning rates, and where each trial ended", loc="left", fontsize="medium")
