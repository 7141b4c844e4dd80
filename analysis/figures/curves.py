"""Loss curves: all on one pair of axes, and one panel per shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from iolaus.analysis.data.curves import Points, lines_of
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.shapes import STALLED_SHAPES, shape_name
from iolaus.analysis.figures._style import (
    AXIS_NAMES,
    BLACK,
    ENDS,
    GREY,
    LEGEND,
    LOWEST_RATE,
    STATE_NAMES,
    STYLES,
    above_zero,
    add_lines,
    logarithmic,
    say_nothing,
    shape_style,
    smoothed,
    value_limits,
)
from iolaus.analysis.ranking.rank import Ranking, best_trial
from iolaus.sweeps.reporting import INTERVENTION_METRICS
from iolaus.sweeps.text import counted

__all__ = ["draw_by_shape", "draw_curves"]

STEPS = "{x:,.10g}"  # tick labels
N_CROWDED = 60  # with more curves than this, raw ones behind the smoothed only make mud
INTERVENTION_MARK: dict[str, Any] = {
    "marker": "v",
    "markersize": 6,
    "color": BLACK,
    "linestyle": "none",
    "zorder": 5,
}
STALL: dict[str, Any] = {
    "marker": "o",
    "markersize": 5,
    "color": BLACK,
    "markerfacecolor": "white",
    "linestyle": "none",
    "zorder": 5,
}


def draw_curves(
    ax: Axes,
    sweep: Sweep,
    metric: str | None = None,
    *,
    diagnosis: pd.DataFrame | None = None,
    ranking: Ranking | None = None,
    highlight: int | None = None,
    axis: str = "step",
    rate_ax: Axes | None = None,
    smooth: float | None = None,
) -> None:
    """All curves of one metric (default: the watched one) on one pair of axes.

    They go over steps, examples or seconds, smoothed (`smooth`: see
    `iolaus.analysis.figures._style.smoothed`), the raw curve faint behind. The first of the
    ranking (`ranking`: of `iolaus.analysis.ranking.rank.rank`), or `highlight`, stands out; pruned
    and failed ones end in a mark; a triangle shows where an intervention lowered the rate (or went
    back to the best weights), a ring where a trial stalled (`diagnosis`: of
    `iolaus.analysis.diagnosis.diagnose.diagnose`). rate_ax: where to draw the learning rates
    beneath, on the same axis, if the trials report `lr`. The axis is logarithmic if values span
    more than a factor of 20 above 0. Values far above where trials start, and non-finite ones,
    leave the frame.
    """
    metric = metric or sweep.metric
    ax.set_xlabel(AXIS_NAMES[axis])
    ax.set_ylabel(metric)
    raw = lines_of(sweep, metric, axis)
    if not raw:
        say_nothing(ax, f"no finite {metric} was reported")
        if rate_ax is not None:
            rate_ax.set_visible(False)
        return
    steps = lines_of(sweep, metric)
    lines = {trial: smoothed(curve, smooth) for trial, curve in raw.items()}
    chosen = best_trial(sweep, ranking) if highlight is None else highlight
    states = sweep.states_of(raw)
    styles = {**states, chosen: "best"} if chosen in raw else states
    _lines(ax, raw, lines, styles)
    handles = []
    for name, style in STYLES.items():
        if name == "best" and chosen in raw:
            handles.append(
                Line2D(
                    [], [], **style, label=f"{'best: ' if highlight is None else ''}trial {chosen}"
                )
            )
        elif n := list(states.values()).count(name):
            label = f"{STATE_NAMES.get(name, name)} ({n})"
            handles.append(Line2D([], [], **style, marker=ENDS.get(name, ""), label=label))
    handles += _marks(
        ax, INTERVENTION_MARK, "interventions", _values_at(lines, steps, _interventions(sweep))
    )
    if diagnosis is not None:
        stalls = diagnosis[diagnosis["shape"].isin(STALLED_SHAPES)]["since"].dropna()
        handles += _marks(
            ax, STALL, "stalled from here", _values_at(lines, steps, list(stalls.items()))
        )
    value_limits(ax, raw.values())
    last = max(curve[-1, 0] for curve in raw.values())
    ax.set_xlim(0, max(last, 1) * 1.01)
    ax.xaxis.set_major_formatter(STEPS)
    is_rising = metric == sweep.metric and sweep.metric_sign < 0
    ax.legend(
        handles=handles, loc="lower right" if is_rising else "best", **LEGEND
    )  # not over the ends of the best
    ax.set_title(
        f"{sweep.name}: {counted(len(sweep.trials), 'trial')}", loc="left", fontsize="medium"
    )
    if rate_ax is not None:
        _rates(rate_ax, sweep, styles, ax, axis)


def draw_by_shape(
    figure: Figure | SubFigure,
    sweep: Sweep,
    diagnosis: pd.DataFrame,
    *,
    axis: str = "step",
    smooth: float | None = None,
) -> None:
    """One panel per shape that occurs, most frequent first, all with the same limits.

    The curves of other shapes are faint behind.
    diagnosis: index trial, columns shape and since (a step, or missing), which a mark in the
    shape's symbol shows.
    axis: step, examples or seconds. smooth: as in `draw_curves`. A title says how many trials have
    the shape, and where they are if none is in the frame.
    """
    curves = {
        trial: smoothed(curve, smooth)
        for trial, curve in lines_of(sweep, sweep.metric, axis).items()
    }
    steps = lines_of(sweep, sweep.metric)
    shapes = diagnosis["shape"].value_counts()
    if not curves or shapes.empty:
        say_nothing(figure.subplots(), f"no finite {sweep.metric} was reported")
        return
    n_rows = -(-len(shapes) // 4)
    axes = figure.subplots(
        n_rows, -(-len(shapes) // n_rows), sharex=True, sharey=True, squeeze=False
    )
    # Behind the few of a shape, some of all the others are enough to see where they lie.
    behind = list(curves.values())[:: max(1, len(curves) // 50)]
    value_limits(axes.flat[0], curves.values())
    low, high = axes.flat[0].get_ylim()
    for ax, (shape, n) in zip(axes.flat, shapes.items(), strict=False):
        numbers = diagnosis.index[diagnosis["shape"] == shape]
        add_lines(ax, behind, color=GREY, linewidth=0.5, alpha=0.25)
        own = [curves[trial] for trial in numbers if trial in curves]
        style = shape_style(str(shape))
        add_lines(
            ax,
            own,
            color=style["color"],
            linewidth=0.9,
            alpha=max(0.25, min(0.9, 10 / max(len(own), 1))),
        )
        at = _values_at(curves, steps, list(diagnosis.loc[numbers, "since"].dropna().items()))
        ax.plot(at[:, 0], at[:, 1], **{**style, "markersize": 4})
        is_in_frame = any(((low <= curve[:, 1]) & (curve[:, 1] <= high)).any() for curve in own)
        where = "" if is_in_frame else ", above the frame" if own else ", no curve"
        ax.set_title(f"{shape_name(str(shape))} ({n}{where})", loc="left", fontsize="medium")
    n_columns = axes.shape[1]
    for i in range(len(shapes), axes.size):
        axes.flat[i].set_visible(False)
        axes.flat[i - n_columns].tick_params(labelbottom=True)
    axes.flat[0].set_ylim(low, high)
    axes.flat[0].set_xlim(0, max(curve[-1, 0] for curve in curves.values()) or 1)
    axes.flat[0].xaxis.set_major_locator(MaxNLocator(3))  # a panel has room for three numbers
    axes.flat[0].xaxis.set_major_formatter(STEPS)
    figure.supxlabel(AXIS_NAMES[axis], fontsize="medium")
    figure.supylabel(sweep.metric, fontsize="medium")


def _lines(
    ax: Axes, raw: dict[int, Points], lines: dict[int, Points], styles: dict[int, str]
) -> None:
    """Draws the curves, raw and smoothed (lines), by style, and the ends of those cut short."""
    for name, style in STYLES.items():
        trials = [trial for trial in raw if styles[trial] == name]
        if not trials:
            continue
        if name == "best" or len(raw) <= N_CROWDED:
            add_lines(
                ax,
                [raw[t] for t in trials],
                **{**style, "linewidth": 0.6, "alpha": 0.25, "zorder": 1},
            )
        faint = {
            "alpha": max(0.15, min(style.get("alpha", 1.0), N_CROWDED / len(trials)))
        }  # a crowd shows its density
        add_lines(ax, [lines[t] for t in trials], **{**style, **faint})
        # A line of one report shows nothing.
        dots = [lines[t][-1] for t in trials if name in ENDS or len(raw[t]) == 1]
        marker = {"linestyle": "none", "marker": ENDS.get(name, "."), "markersize": 5}
        ax.plot(*np.reshape(dots, (-1, 2)).T, **{**style, **marker})


def _marks(ax: Axes, style: dict[str, Any], what: str, at: Points) -> list[Line2D]:
    if not len(at):
        return []
    ax.plot(at[:, 0], at[:, 1], **style)
    return [Line2D([], [], **style, label=f"{what} ({len(at)})")]


def _values_at(
    curves: dict[int, Points], steps: dict[int, Points], places: list[tuple[Any, Any]]
) -> Points:
    """(trial, step) pairs as points on the curves, [n, 2], at the last report before.

    Those without one are left out.
    steps: the same reports as curves, with their steps in the first column.
    """
    points = [
        curves[trial][
            min(
                max(np.searchsorted(steps[trial][:, 0], step, "right") - 1, 0),
                len(curves[trial]) - 1,
            )
        ]
        for trial, step in places
        if trial in curves
    ]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _interventions(sweep: Sweep) -> list[tuple[int, int]]:
    """Where interventions were taken: trial and step."""
    taken = sweep.curves[sweep.curves["metric"].isin(INTERVENTION_METRICS)]
    return list(zip(taken["trial"], taken["step"], strict=True))


def _rates(ax: Axes, sweep: Sweep, styles: dict[int, str], above: Axes, axis: str) -> None:
    """The learning rates of the trials on a slim panel under their curves."""
    rates = lines_of(sweep, "lr", axis)
    if not rates:
        ax.set_visible(False)
        return
    highest = max(float(rate[:, 1].max()) for rate in rates.values())
    rates = {trial: above_zero(rate, highest * LOWEST_RATE) for trial, rate in rates.items()}
    for name, style in STYLES.items():
        add_lines(ax, [rate for trial, rate in rates.items() if styles.get(trial) == name], **style)
    if highest > 0:
        logarithmic(ax.yaxis)
    ax.autoscale_view()
    ax.set_xlim(above.get_xlim())
    ax.xaxis.set_major_formatter(STEPS)
    ax.set_xlabel(AXIS_NAMES[axis])
    above.set_xlabel("")
    above.tick_params(labelbottom=False)
    ax.set_ylabel("learning rate")
