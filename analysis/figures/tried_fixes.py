"""Which shapes each choice led to, and what fixes that were run have changed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.shapes import SHAPES, shape_name
from iolaus.analysis.diagnosis.tried_fixes import fixed_settings
from iolaus.analysis.figures._style import BLUE, LEGEND, VERMILION, logarithmic, say_nothing

__all__ = ["choice_to_show", "draw_fixes", "draw_shapes_by"]

N_CHOICES = 4  # fewer are read off the sentences
WIDE = 20.0  # a range of objectives beyond this factor is drawn on a logarithmic axis


def choice_to_show(sweep: Sweep) -> str | None:
    """The parameter of words with the most values, four at least; None if there is none."""
    counts = {
        key: sweep.trials[column].nunique()
        for key, column in varied(sweep.trials).items()
        if not pd.api.types.is_numeric_dtype(sweep.trials[column])
    }
    best = max(counts, key=lambda key: counts[key], default=None)
    return best if best is not None and counts[best] >= N_CHOICES else None


def draw_shapes_by(ax: Axes, sweep: Sweep, diagnosis: pd.DataFrame, key: str) -> None:
    """How many trials of each value of a parameter have each shape; fixes that were run left out.

    Values in the order in which they were first tried, from the top.
    """
    trials = sweep.trials.loc[sweep.trials.index.intersection(diagnosis.index)]
    trials = trials[~trials["setting"].isin(fixed_settings(trials))]
    values = list(dict.fromkeys(trials[f"params.{key}"].astype(str)))
    found = diagnosis.loc[trials.index, "shape"]
    shapes = [shape for shape in SHAPES if shape in set(found)]
    if not values:
        say_nothing(ax, "no trial has a shape yet")
        return
    table = pd.crosstab(trials[f"params.{key}"].astype(str), found)
    counts = table.reindex(index=values, columns=shapes, fill_value=0).to_numpy()
    ax.imshow(counts, cmap="Blues", aspect="auto", vmin=0, vmax=1.4 * counts.max())
    for (row, column), n in np.ndenumerate(counts):
        if n:
            ax.text(column, row, str(n), ha="center", va="center")
    ax.set_xticks(range(len(shapes)), map(shape_name, shapes), rotation=40, ha="right")
    ax.set_yticks(range(len(values)), values)
    ax.set_title(f"trials by {key} and shape", loc="left", fontsize="medium")


def draw_fixes(ax: Axes, tried: pd.DataFrame, objective: str) -> None:
    """The objective of each setting before its fix and after it, joined by a line.

    tried: of `iolaus.analysis.diagnosis.tried_fixes.tried_fixes`, drawn in its order from the top.
    One that had no result before has its second mark alone.
    """
    if tried.empty:
        say_nothing(ax, "no suggested fix has been run")
        return
    places = np.arange(len(tried))
    before, after = tried["before"].to_numpy(float), tried["after"].to_numpy(float)
    ax.hlines(places, before, after, color="#999999", linewidth=1)
    ax.plot(before, places, "o", color=VERMILION, fillstyle="none", label="before")
    ax.plot(after, places, "o", color=BLUE, label="after")
    known = np.concatenate([before, after])
    known = known[np.isfinite(known)]
    if len(known) and known.min() > 0 and known.max() > WIDE * known.min():
        logarithmic(ax.xaxis)
    said = [f"{because}: {change}" for because, change in tried[["because", "change"]].to_numpy()]
    ax.set_yticks(places, said)
    ax.invert_yaxis()
    ax.set_xlabel(objective)
    ax.set_title("suggested fixes that were run", loc="left", fontsize="medium")
    ax.legend(**LEGEND)
