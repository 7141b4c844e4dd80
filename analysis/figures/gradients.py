"""Gradient norms per parameter, clipped and unclipped trials on the same axes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from iolaus.analysis.data.curves import Points, lines_of
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.figures._style import (
    AXIS_NAMES,
    BLUE,
    ORANGE,
    VERMILION,
    above_zero,
    add_lines,
    logarithmic,
    say_nothing,
)

__all__ = ["PREFIX", "draw_gradients"]

PREFIX = "grad_norm/"
N_PANELS = 8
CROSS: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 4, "color": "black"}
LOWEST = (
    1e-8  # of the highest norm: a logarithmic axis has no 0, so vanished gradients are drawn here
)
N_FIRST = 40  # reports drawn where nobody says how many steps
# The share of a trial's steps that were clipped, from which a style holds.
STYLES_BY_SHARE: tuple[tuple[float, str, dict[str, Any]], ...] = (
    (0.5, "clipped in most steps", {"color": BLUE, "linewidth": 0.9, "linestyle": "-"}),
    (1e-9, "in fewer", {"color": ORANGE, "linewidth": 0.9, "linestyle": "-."}),
    (0.0, "never clipped", {"color": VERMILION, "linewidth": 1.2, "linestyle": "--"}),
)


def draw_gradients(figure: Figure | SubFigure, sweep: Sweep, n_steps: int | None = None) -> None:
    """The norms of the gradients over the first n_steps, a panel per parameter.

    Panels are of the first eight parameters reported.
    n_steps: by default as many as hold 40 reports of the median trial. All panels share their
    limits. The style says in which share of these steps a trial was clipped. A trial whose norm
    stops being finite ends in a cross; norms of 0 lie at the bottom.
    """
    names = [m for m in sweep.curves["metric"].unique() if str(m).startswith(PREFIX)]
    norms = {name: lines for name in names[:N_PANELS] if (lines := lines_of(sweep, name))}
    if not norms:
        say_nothing(
            figure.subplots(), "no gradient norms were reported (metrics grad_norm/PARAMETER)"
        )
        return
    if n_steps is None:
        reached = [
            line[min(N_FIRST, len(line)) - 1, 0]
            for lines in norms.values()
            for line in lines.values()
        ]
        n_steps = int(np.median(reached)) + 1
    norms = {name: _first(lines, n_steps) for name, lines in norms.items()}
    trials = list(dict.fromkeys(trial for lines in norms.values() for trial in lines))
    shares = {
        trial: float(line[:, 1].mean())
        for trial, line in _first(lines_of(sweep, "clipped"), n_steps).items()
    }
    broken = _broken(sweep, list(norms), n_steps)
    bottom, top = _span(norms)
    alpha = max(0.25, min(0.9, 12 / max(len(trials), 1)))
    n_rows = -(-len(norms) // 4)
    axes = figure.subplots(
        n_rows, -(-len(norms) // n_rows), sharex=True, sharey=True, squeeze=False
    )
    for ax, (name, lines) in zip(axes.flat, norms.items(), strict=False):
        floored = {trial: above_zero(line, bottom) for trial, line in lines.items()}
        for i, (_, _, style) in enumerate(STYLES_BY_SHARE):
            add_lines(
                ax,
                [line for t, line in floored.items() if _style_of(shares, t) == i],
                **style,
                alpha=alpha,
            )
        ends = [floored[t][-1] for t in broken.get(name, ()) if t in floored]
        ax.plot(*np.reshape(ends, (-1, 2)).T, **CROSS)
        ax.set_title(name.removeprefix(PREFIX), loc="left", fontsize="medium")
    for ax in axes.flat[len(norms) :]:
        ax.set_visible(False)
    logarithmic(axes.flat[0].yaxis)
    axes.flat[0].set_ylim(bottom / 2, top * 2)
    axes.flat[0].set_xlim(0, n_steps)
    counts = Counter(_style_of(shares, trial) for trial in trials)
    handles = [
        Line2D([], [], **style, label=f"{what} ({counts[i]})")
        for i, (_, what, style) in enumerate(STYLES_BY_SHARE)
        if counts[i]
    ]
    if any(broken.values()):
        handles.append(Line2D([], [], **CROSS, label="not finite from here"))
    figure.legend(
        handles=handles, frameon=False, fontsize="small", loc="outside upper right", ncols=4
    )
    figure.supxlabel(AXIS_NAMES["step"], fontsize="medium")
    figure.supylabel("L2 norm before clipping", fontsize="medium")
    left_out = f" ({len(names) - N_PANELS} more not shown)" if len(names) > N_PANELS else ""
    figure.suptitle(f"gradient of each parameter{left_out}", x=0.01, ha="left", fontsize="medium")


def _style_of(shares: dict[int, float], trial: int) -> int:
    """The place in STYLES_BY_SHARE; a trial that says nothing of clipping is never clipped."""
    return next(
        i for i, (least, _, _) in enumerate(STYLES_BY_SHARE) if shares.get(trial, 0.0) >= least
    )


def _span(norms: dict[str, dict[int, Points]]) -> tuple[float, float]:
    """(lowest, highest) norm to draw, both above 0."""
    values = np.concatenate(
        [line[:, 1] for lines in norms.values() for line in lines.values()] or [np.ones(1)]
    )
    top = float(values.max()) or 1.0
    return max(float(values[values > 0].min(initial=top)), top * LOWEST), top


def _first(lines: dict[int, Points], n_steps: int) -> dict[int, Points]:
    cut = {trial: line[line[:, 0] < n_steps] for trial, line in lines.items()}
    return {trial: line for trial, line in cut.items() if len(line)}


def _broken(sweep: Sweep, names: list[str], n_steps: int) -> dict[str, set[int]]:
    """Parameter to the trials whose norms of it became NaN or infinite in these steps."""
    rows = sweep.curves[sweep.curves["metric"].isin(names) & (sweep.curves["step"] < n_steps)]
    rows = rows[~np.isfinite(rows["value"])]
    return {str(name): set(own["trial"]) for name, own in rows.groupby("metric")}
