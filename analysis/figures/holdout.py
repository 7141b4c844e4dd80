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
    holdout = pruning.holdout
    held_out = ordered.index.isin([one.trial for one in holdout.finished])
    ax.plot(
        rank[~held_out],
        ordered[~held_out],
        ".",
        color=GREY,
        label=f"left alone ({(~held_out).sum()})",
    )
    wrong = ordered.index.isin([one.trial for one in holdout.finished if one.was_wrong])
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
    ax.axvline(holdout.goal_rank + 0.5, color="black", linewidth=0.8, linestyle="--")
    low, high = float(objective.min()), float(objective.max())
    if low > 0 and high > 20 * low:
        logarithmic(ax.yaxis)
    ax.legend(**LEGEND)
    is_known = bool(holdout.finished)
    title = f"ending was wrong in {holdout.wrong}" if is_known else "no trial was held out"
    saved = (
        f"; {pruning.saved_share:.0%} of the planned steps saved"
        if np.isfinite(pruning.saved_share)
        else ""
    )
    ax.set_title(title + saved, loc="left", fontsize="medium")
