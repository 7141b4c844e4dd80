"""Figures of a sweep. Each draws on an Axes it is given, names units, and reads in grey as in colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.load import Sweep
from sweeps.reporting import INTERVENTION

# Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart by colour-blind readers; line style and width say the
# same in grey.
STYLES: dict[str, dict[str, Any]] = {
    "best": {"color": "#D55E00", "linewidth": 2.2, "zorder": 4},
    "complete": {"color": "#0072B2", "linewidth": 0.9, "alpha": 0.75, "zorder": 3},
    "running": {"color": "#009E73", "linewidth": 0.9, "linestyle": "-.", "zorder": 3},
    "pruned": {"color": "#999999", "linewidth": 0.7, "zorder": 2},
    "fail": {"color": "#000000", "linewidth": 0.7, "linestyle": ":", "zorder": 2},
}
REMEDY: dict[str, Any] = {"marker": "v", "markersize": 6, "color": "#000000", "zorder": 5}
ENDS = {"pruned": "|", "fail": "x"}


def draw_curves(ax: Axes, sweep: Sweep, metric: str | None = None) -> None:
    """All curves of one metric (default: the watched one) on one pair of axes, steps against value.

    The best completed trial stands out; pruned and failed ones end in a mark; a triangle shows where a remedy lowered
    the rate (or went back to the best weights). The axis is logarithmic if values span
    more than a factor of 20 above 0. Values far above where trials start, and non-finite ones, leave the frame.
    """
    metric = metric or sweep.metric
    rows = sweep.curves[sweep.curves["metric"] == metric]
    finite = rows[np.isfinite(rows["value"])]
    ax.set_xlabel("step (optimizer updates)")
    ax.set_ylabel(metric)
    if finite.empty:
        ax.text(0.5, 0.5, f"no finite {metric} was reported", ha="center", va="center", transform=ax.transAxes)
        return
    states = sweep.trials["state"].to_dict()
    best = _best(sweep)
    shown: dict[str, int] = {}
    for number, curve in finite.groupby("trial", sort=False):
        state = states.get(number, "running")
        style = "best" if number == best else state
        shown[state] = shown.get(state, 0) + 1
        ax.plot(curve["step"], curve["value"], **STYLES[style])
        if state in ENDS:
            end = {**STYLES[state], "linestyle": "none", "marker": ENDS[state], "markersize": 5}
            ax.plot(curve["step"].iloc[-1:], curve["value"].iloc[-1:], **end)
    remedied = _interventions(sweep, finite)
    ax.plot(remedied["step"], remedied["value"], linestyle="none", **REMEDY)
    _frame(ax, finite)
    names = {"complete": "completed", "fail": "failed"}
    handles = [Line2D([], [], **STYLES["best"], label=f"best: trial {best}")] if best is not None else []
    handles += [
        Line2D([], [], **STYLES[state], marker=ENDS.get(state, ""), label=f"{names.get(state, state)} ({n})")
        for state, n in shown.items()
    ]
    handles += (
        [Line2D([], [], linestyle="none", **REMEDY, label=f"remedies ({len(remedied)})")] if len(remedied) else []
    )
    ax.legend(handles=handles, frameon=False, fontsize="small")
    ax.set_title(f"{sweep.name}: {len(states)} trials", loc="left", fontsize="medium")


def _interventions(sweep: Sweep, finite: pd.DataFrame) -> pd.DataFrame:
    """Where remedies were taken: trial, step, and the value reported there."""
    taken = sweep.curves[sweep.curves["metric"].str.startswith(f"{INTERVENTION}/")]
    return taken[["trial", "step"]].merge(finite[["trial", "step", "value"]], on=["trial", "step"])


def _best(sweep: Sweep) -> int | None:
    objective = sweep.trials["objective"].dropna() if len(sweep.trials) else pd.Series(dtype=float)
    if objective.empty:
        return None
    sign = -1 if sweep.directions[0] == "maximize" else 1
    return int(objective.index[int((sign * objective).to_numpy().argmin())])


def _frame(ax: Axes, finite: pd.DataFrame) -> None:
    """Limits that a diverged curve does not spoil: up to twice the level at which most trials begin."""
    first = finite.groupby("trial")["value"].first()
    low, high = float(finite["value"].min()), float(finite["value"].max())
    top = min(high, max(float(first.median()) * 2, float(finite.groupby("trial")["value"].last().median()) * 2))
    if low > 0 and top > 20 * low:
        ax.set_yscale("log")
        ax.set_ylim(low * 0.9, top * 1.1)
    elif high > low and top > low:
        margin = 0.03 * (top - low)
        ax.set_ylim(low - margin, top + margin)
