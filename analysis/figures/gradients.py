"""Gradient norms per parameter, clipped and unclipped trials on the same axes (case 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from analysis.figures.style import AXIS_NAMES, BLUE, VERMILION, Points, add_lines, lines_of, say_nothing
from analysis.load import Sweep

PREFIX = "grad_norm/"
N_PANELS = 8
LOWEST = 1e-8  # of the highest norm: a logarithmic axis has no 0, so vanished gradients are drawn here
CLIPPED: dict[str, Any] = {"color": BLUE, "linewidth": 0.9, "linestyle": "-"}
UNCLIPPED: dict[str, Any] = {"color": VERMILION, "linewidth": 1.1, "linestyle": "--"}


def draw_gradients(figure: Figure | SubFigure, sweep: Sweep, n_steps: int | None = None) -> None:
    """One panel per parameter (the first eight reported), its gradient's norm over the first n_steps (default: all).

    All panels share their limits. Solid: trials of which some steps in that time were clipped; dashed: the others.
    A norm that is not finite breaks off in a cross; vanished ones lie at the bottom.
    """
    names = [m for m in sweep.curves["metric"].unique() if str(m).startswith(PREFIX)]
    norms = {name: _first(lines_of(sweep, name), n_steps) for name in names[:N_PANELS]}
    norms = {name: lines for name, lines in norms.items() if lines}
    if not norms:
        say_nothing(figure.subplots(), "no gradient norms were reported (metrics grad_norm/PARAMETER)")
        return
    clipped = {t for t, share in _first(lines_of(sweep, "clipped"), n_steps).items() if np.any(share[:, 1] > 0)}
    trials = list(dict.fromkeys(trial for lines in norms.values() for trial in lines))
    broken = _broken(sweep, list(norms), n_steps)
    values = np.concatenate([line[:, 1] for lines in norms.values() for line in lines.values()])
    top = float(values.max()) or 1.0
    bottom = max(float(values[values > 0].min(initial=top)), top * LOWEST)
    alpha = max(0.15, min(0.9, 8 / len(trials)))
    n_columns = min(4, len(norms))
    axes = figure.subplots(-(-len(norms) // n_columns), n_columns, sharex=True, sharey=True, squeeze=False)
    for ax, (name, lines) in zip(axes.flat, norms.items(), strict=False):
        floored = {t: np.column_stack([line[:, 0], np.maximum(line[:, 1], bottom)]) for t, line in lines.items()}
        for is_clipped, style in ((True, CLIPPED), (False, UNCLIPPED)):
            own = [line for t, line in floored.items() if (t in clipped) == is_clipped]
            add_lines(ax, own, **style, alpha=alpha)
        ends = np.array([floored[t][-1] for t in broken.get(name, ()) if t in floored]).reshape(-1, 2)
        ax.plot(*ends.T, linestyle="none", marker="x", markersize=4, color="black")
        ax.set_title(name.removeprefix(PREFIX), loc="left", fontsize="medium")
    for ax in axes.flat[len(norms) :]:
        ax.set_visible(False)
    axes.flat[0].set_yscale("log")
    axes.flat[0].set_ylim(bottom / 2, top * 2)
    axes.flat[0].set_xlim(0, max(float(line[-1, 0]) for lines in norms.values() for line in lines.values()) or 1)
    n_clipped = len(clipped.intersection(trials))
    handles = [
        Line2D([], [], **style, label=f"{what} ({n})")
        for what, style, n in (
            ("some steps clipped", CLIPPED, n_clipped),
            ("no step clipped", UNCLIPPED, len(trials) - n_clipped),
        )
        if n
    ]
    if any(broken.values()):
        handles.append(
            Line2D([], [], linestyle="none", marker="x", markersize=4, color="black", label="not finite next")
        )
    axes.flat[0].legend(handles=handles, frameon=False, fontsize="small")
    figure.supxlabel(AXIS_NAMES["step"], fontsize="medium")
    left_out = f"; {len(names) - N_PANELS} more parameters not shown" if len(names) > N_PANELS else ""
    figure.supylabel("L2 norm of the gradient", fontsize="medium")
    figure.suptitle(f"gradients before clipping, per parameter{left_out}", x=0.01, ha="left", fontsize="medium")


def _first(lines: dict[int, Points], n_steps: int | None) -> dict[int, Points]:
    if n_steps is None:
        return lines
    cut = {trial: line[line[:, 0] < n_steps] for trial, line in lines.items()}
    return {trial: line for trial, line in cut.items() if len(line)}


def _broken(sweep: Sweep, names: list[str], n_steps: int | None) -> dict[str, set[int]]:
    """Parameter to the trials whose norms of it became NaN or infinite in these steps."""
    rows = sweep.curves[sweep.curves["metric"].isin(names)]
    rows = rows[~np.isfinite(rows["value"])]
    if n_steps is not None:
        rows = rows[rows["step"] < n_steps]
    return {str(name): set(own["trial"]) for name, own in rows.groupby("metric")}
