"""The holdout of pruning: where trials it would have ended lie among all that completed."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.figures._style import BLUE, GREY, LEGEND, VERMILION, logarithmic, say_nothing
from iolaus.analysis.replay.holdout import Pruning

__all__ = ["draw_holdout"]


def draw_holdout(ax: Axes, sweep: Sweep, pruning: Pruning) -> None:
    """Completed trials by their objective; those that the pruner would have ended stand out.

    Left of the line it would have been wrong to end them. The objective's axis is logarithmic if
    values span more than a factor of 20 above 0.
    """
    done = sweep.trials
    done = (
        done[(done["state"] == "complete") & np.isfinite(done["objective"].astype(float))]
        if len(done)
        else done
    )
    ax.set_xlabel("rank of the completed trial (1 is best)")
    ax.set_ylabel("objective")
    if done.empty:
        say_nothing(ax, "no trial has completed")
        return
    objective = done["objective"].astype(float)
    ordered = objective.sort_values(ascending=sweep.objective_sign > 0)
    rank = np.arange(1, len(ordered) + 1)
    held_out = ordered.index.isin(pruning.held_out.index)
    ax.plot(
        rank[~held_out],
        ordered[~held_out],
        ".",
        color=GREY,
        label=f"left alone ({(~held_out).sum()})",
    )
    wrong = ordered.index.isin(pruning.held_out.index[pruning.held_out["wrong"].astype(bool)])
    right = held_out & ~wrong
    if right.any():
        ax.plot(
            rank[right],
            ordered[right],
            "v",
            color=BLUE,
            label=f"rightly to be ended ({right.sum()})",
        )
    if wrong.any():
        ax.plot(
            rank[wrong],
            ordered[wrong],
            "X",
            color=VERMILION,
            markersize=9,
            label=f"wrongly ({wrong.sum()})",
        )
    ax.axvline(pruning.good_rank + 0.5, color="black", linewidth=0.8, linestyle="--")
    low, high = float(objective.min()), float(objective.max())
    if low > 0 and high > 20 * low:
        logarithmic(ax.yaxis)
    ax.legend(**LEGEND)
    n = len(pruning.held_out)
    title = "no trial was held out" if not n else (
        f"ending was wrong in {pruning.n_wrong} of {n} "
        f"({pruning.wrong_low:.0%} to {pruning.wrong_high:.0%} at 95 %)"
    )  # fmt: skip
    saved = (
        f"; {pruning.saved_share:.0%} of the planned steps saved"
        if np.isfinite(pruning.saved_share)
        else ""
    )
    ax.set_title(title + saved, loc="left", fontsize="medium")
