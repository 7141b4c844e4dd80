"""Two parameters against each other.

Every trial is at its values, marked by its shape, coloured by its loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.shapes import shape_name
from iolaus.analysis.figures._style import (
    STATE_NAMES,
    logarithmic,
    plain_ticks,
    say_nothing,
    shape_style,
)
from iolaus.analysis.ranking.rank import Ranking, best_trial
from iolaus.sweeps.text import short_names

__all__ = ["N_CHOICES", "draw_map"]

# Marks of the states, where no diagnosis is at hand.
STATE_MARKS = {"complete": "o", "paused": "s", "pruned": "v", "running": ">", "fail": "X"}
EXPLODED = ("exploded", "died", "broken")  # shapes that have no say in what colours mean
N_CHOICES = 6  # a number with no more values than this is drawn as a choice
SPREAD_LOG = (
    20  # axes and colours whose largest value is this many times the smallest are logarithmic
)


def draw_map(
    ax: Axes,
    sweep: Sweep,
    x: str,
    y: str,
    diagnosis: pd.DataFrame | None = None,
    *,
    ranking: Ranking | None = None,
) -> None:
    """Every trial at its values of the parameters x and y (names without `params.`).

    Its mark is the shape of its curve (`diagnosis`; without it, how it ended), its colour the final
    value of the watched metric, or the objective where no trial reported that: dark is good.
    Colours end at three times the median's distance from the best, of the trials that have not
    exploded; a trial that never reported a finite value is hollow; a ring marks the first of
    the `ranking`. Choices stand side by side, a little apart where trials share one. Trials that
    lack one of the two parameters are left out.
    """
    columns = [f"params.{x}", f"params.{y}"]
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if sweep.trials.empty or not set(columns).issubset(sweep.trials):
        say_nothing(ax, f"no trial has both {x} and {y}")
        return
    trials = sweep.trials.dropna(subset=columns)
    if trials.empty:
        say_nothing(ax, f"no trial has both {x} and {y}")
        return
    (at_x, choice_x), (at_y, choice_y) = (
        _place(ax.xaxis, trials[columns[0]]),
        _place(ax.yaxis, trials[columns[1]]),
    )
    at = _apart(pd.DataFrame({"x": at_x, "y": at_y}), choice_x, choice_y)
    final = trials["final"].astype(float).where(lambda v: np.isfinite(v))
    what, is_largest = f"final {sweep.metric}", sweep.metric_sign < 0
    if final.isna().all():  # trials that only return their result
        final, what = trials["objective"].astype(float), "objective"
        is_largest = sweep.objective_sign < 0
    shapes = pd.Series(dtype=str) if diagnosis is None else diagnosis["shape"]
    exploded = shapes.index[shapes.isin(EXPLODED)]
    norm = _colours(final.drop(index=exploded, errors="ignore"), final, is_largest)
    cmap = "cividis_r" if is_largest else "cividis"
    kind = (
        trials["state"].astype(str)
        if diagnosis is None
        else diagnosis["shape"].reindex(trials.index).fillna("")
    )
    handles, drawn = [], None
    for name, members in at.groupby(kind, sort=False):
        marker = (
            STATE_MARKS.get(str(name), "h")
            if diagnosis is None
            else str(shape_style(str(name))["marker"])
        )
        known = members[final.loc[members.index].notna()]
        unknown = members.drop(known.index)
        if len(known):
            colours = final.loc[known.index].to_numpy()
            drawn = ax.scatter(
                known["x"],
                known["y"],
                s=42,
                marker=marker,
                c=colours,
                norm=norm,
                cmap=cmap,
                edgecolors="#444444",
                linewidths=0.6,
            )
        ax.scatter(
            unknown["x"], unknown["y"], s=42, marker=marker, facecolors="none", edgecolors="#777777"
        )
        label = (
            STATE_NAMES.get(str(name), str(name))
            if diagnosis is None
            else shape_name(str(name)) or "no curve"
        )
        label = f"{label} ({len(members)})"
        handles.append(
            Line2D(
                [], [], linestyle="none", marker=marker, color="#777777", markersize=6, label=label
            )
        )
    best = best_trial(sweep, ranking)
    if best is not None and best in at.index:
        ring: dict[str, Any] = {
            "linestyle": "none",
            "marker": "o",
            "markerfacecolor": "none",
            "color": "black",
        }
        ax.plot(at["x"].loc[best], at["y"].loc[best], **ring, markersize=14)
        handles.append(Line2D([], [], **ring, markersize=9, label=f"best: trial {best}"))
    if drawn is not None:
        extend = "min" if is_largest else "max"
        bar = ax.figure.colorbar(drawn, ax=ax, label=what, extend=extend, pad=0.01)
        if isinstance(norm, LogNorm):
            plain_ticks(bar.ax.yaxis)
    ax.legend(
        handles=handles,
        frameon=False,
        fontsize="small",
        loc="upper left",
        bbox_to_anchor=(0, -0.12),
        ncols=4,
    )
    ax.set_title(f"{_short(x, y)}: {what} and shape", loc="left", fontsize="medium")


def _short(x: str, y: str) -> str:
    names = short_names([x, y])
    return f"{names[x]} × {names[y]}"


def _place(axis: Axis, values: pd.Series) -> tuple[pd.Series, bool]:
    """Positions on the axis (its scale and ticks are set), and whether they are of choices."""
    is_number = values.map(
        lambda v: isinstance(v, int | float | np.number) and not isinstance(v, bool)
    ).all()
    if is_number and values.nunique() > N_CHOICES:
        numbers = values.astype(float)
        if numbers.min() > 0 and numbers.max() > SPREAD_LOG * numbers.min():
            logarithmic(axis)
        return numbers, False
    choices = sorted(values.unique()) if is_number else sorted(values.astype(str).unique())
    axis.set_ticks(range(len(choices)), [f"{c:g}" if is_number else c for c in choices])
    return (values if is_number else values.astype(str)).map(choices.index).astype(float), True


def _apart(at: pd.DataFrame, choice_x: bool, choice_y: bool) -> pd.DataFrame:
    """Points x, y that share a choice, or two, set a little apart, the same in every drawing."""
    if not (choice_x or choice_y):
        return at
    shared = [axis for axis, is_choice in (("x", choice_x), ("y", choice_y)) if is_choice]
    cells = at.groupby(shared)
    rank, n = cells.cumcount(), cells["x"].transform("size")
    n_columns = np.ceil(np.sqrt(n)) if len(shared) == 2 else n
    spread = dict(zip(shared, (rank % n_columns, rank // n_columns), strict=False))
    # Cells are half a choice wide; a row that is not full keeps its spacing.
    return at.assign(
        **{a: at[a] + 0.5 * ((place + 0.5) / n_columns - 0.5) for a, place in spread.items()}
    )


def _colours(usual: pd.Series, final: pd.Series, largest_is_best: bool) -> Normalize:
    """From the best to three times the median's distance, of those that have not exploded.

    usual: their values; where there are none, all final ones count.
    """
    known = usual.dropna() if usual.notna().any() else final.dropna()
    if known.empty:
        return Normalize(0, 1)
    values = known.to_numpy(dtype=np.float64)
    best, median = (values.max() if largest_is_best else values.min()), np.median(values)
    low, high = sorted(
        (float(best), float(np.clip(best + 3 * (median - best), values.min(), values.max())))
    )
    if low > 0 and high > SPREAD_LOG * low:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + 1)
