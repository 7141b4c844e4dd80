"""Losses over the examples seen, of settings that differ in their batch alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from iolaus.analysis.data.curves import lines_of
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.decays import Decays, by_batch, decays
from iolaus.analysis.figures._style import (
    AXIS_NAMES,
    BLACK,
    BLUE,
    GREEN,
    LEGEND,
    ORANGE,
    VERMILION,
    say_nothing,
    smoothed,
    value_limits,
)

__all__ = ["draw_batches"]

N_PANELS = 3
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": VERMILION, "linestyle": "--"},
    {"color": GREEN, "linestyle": "-."},
    {"color": ORANGE, "linestyle": ":"},
)


def draw_batches(
    figure: Figure | SubFigure,
    sweep: Sweep,
    found: Decays | None = None,
    smooth: float | None = None,
) -> None:
    """The training loss of each batch size, or course of sizes, the mean of its seeds, smoothed.

    A panel for each of the first three settings that were run with several; a ring is where the
    batch changes. Over examples, since an update of a larger batch sees more of them. found: of
    `decays`, where it has been made before. smooth: as in `draw_curves`.
    """
    found = decays(sweep) if found is None else found
    groups = list(by_batch(found).items())[:N_PANELS]
    if not groups:
        say_nothing(figure.subplots(), "no two settings differ in their batch alone")
        return
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    losses = lines_of(sweep, found.metric, "examples")
    steps = lines_of(sweep, found.metric)
    for ax, (rest, settings) in zip(panels, groups, strict=True):
        drawn = []
        for i, rows in enumerate(settings):
            numbers = [int(str(n)) for n in rows.index if int(str(n)) in losses]
            if not numbers:
                continue
            curves = [smoothed(losses[n], smooth) for n in numbers]
            grid = np.linspace(
                max(one[0, 0] for one in curves), min(one[-1, 0] for one in curves), 201
            )
            mean = np.mean([np.interp(grid, *one.T) for one in curves], axis=0)
            drawn.append(np.column_stack([grid, mean]))
            look = LOOKS[i % len(LOOKS)]
            ax.plot(grid, mean, **look, label=f"batch of {rows['batch'].iloc[0]}")
            if rows["batch_at"].notna().any():
                first = numbers[0]
                at = np.interp(rows["batch_at"].iloc[0], steps[first][:, 0], losses[first][:, 0])
                ax.plot(at, np.interp(at, grid, mean), "o", color=BLACK, markerfacecolor="white")
        value_limits(ax, drawn)
        ax.set_title(rest, loc="left", fontsize="small", wrap=True)
        ax.set_xlabel(AXIS_NAMES["examples"])
        ax.legend(**LEGEND)
    panels[0].set_ylabel(f"{found.metric}, mean of the seeds")
