"""Learning rates and losses side by side, by how the rate went."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from iolaus.analysis.data.curves import lines_of
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.decays import KINDS, Decays, decays
from iolaus.analysis.figures._style import (
    AXIS_NAMES,
    BLACK,
    BLUE,
    GREY,
    LEGEND,
    ORANGE,
    above_zero,
    logarithmic,
    say_nothing,
    smoothed,
    value_limits,
)

__all__ = ["draw_decays"]

LOOKS: dict[str, dict[str, Any]] = {
    "flat": {"color": ORANGE, "linestyle": "--", "linewidth": 1.2},
    "spent": {"color": GREY, "linestyle": ":", "linewidth": 1.5},
    "falls": {"color": BLUE, "linestyle": "-", "linewidth": 1.2},
}


def draw_decays(
    figure: Figure | SubFigure,
    sweep: Sweep,
    found: Decays | None = None,
    smooth: float | None = None,
) -> None:
    """Left each run's learning rate over its share of the run, right its training loss.

    Losses are smoothed, one line per setting, the mean of its seeds. A mark is where the stall
    began, the median of those that stall. Runs of different lengths have one axis, the share of the
    run. found: of `decays`, where it has been made before. smooth: as in `draw_curves`.
    """
    found = decays(sweep) if found is None else found
    left, right = figure.subplots(1, 2)
    trials = found.trials
    if trials.empty:
        say_nothing(left, "no learning rate was reported (metric lr, or iolaus.plan)")
        return
    rates, losses = lines_of(sweep, "lr"), lines_of(sweep, found.metric)
    grid, means = np.linspace(0, 1, 201), []
    for _, own in trials.groupby("setting", sort=False):
        look = LOOKS[str(own["kind"].iloc[0])]
        numbers = [int(str(n)) for n in own.index if int(str(n)) in losses]
        if not numbers:
            continue
        line = rates.get(numbers[0])
        if line is not None:
            left.plot(line[:, 0] / line[-1, 0], above_zero(line, 1e-12)[:, 1], **look)
        lines = [smoothed(losses[n], smooth) for n in numbers]
        curves = [np.interp(grid, one[:, 0] / one[-1, 0], one[:, 1]) for one in lines]
        mean = np.mean(curves, axis=0)
        right.plot(grid, mean, **look)
        means.append(np.column_stack([grid, mean]))
        ends = [losses[n][-1, 0] for n in numbers]
        shares = [own.loc[n, "stalled_at"] / end for n, end in zip(numbers, ends, strict=True)]
        if not np.isnan(shares).all():
            at = float(np.nanmedian(shares))
            right.plot(at, np.interp(at, grid, mean), marker="d", color=BLACK, markersize=5)
    present = [kind for kind in KINDS if (trials["kind"] == kind).any()]
    for kind in present:
        left.plot([], [], label=f"rate {KINDS[kind]}", **LOOKS[kind])
    if trials["stalled_at"].notna().any():
        right.plot([], [], marker="d", linestyle="none", color=BLACK, label="stalls from here on")
    value_limits(right, means)  # one that exploded does not hide the others
    logarithmic(left.yaxis)
    left.set_ylabel("learning rate")
    right.set_ylabel(f"{found.metric}, mean of the seeds")
    for ax in (left, right):
        ax.set_xlabel(f"share of the run, in {AXIS_NAMES['step'].partition(' ')[0]}s")
    # Above both frames: rates and losses fill them.
    figure.legend(**LEGEND, loc="outside upper left", ncols=4)
