"""Several scores of the same settings side by side, with every seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from iolaus.analysis.figures._style import BLUE, GREY

if TYPE_CHECKING:
    from iolaus.analysis.data.sweep import Sweep
    from iolaus.analysis.ranking.scores import Scores

__all__ = ["draw_scores"]


def draw_scores(figure: Figure, sweep: Sweep, found: Scores, names: dict[int, str]) -> None:
    """A panel per score: a grey dot per seed, the mean with its 95 % interval in blue.

    The settings are in the order of the first score, best on top; names: what to call them.
    """
    table = found.table
    panels = figure.subplots(1, len(found.rankings), sharey=True, squeeze=False)[0]
    place = {int(setting): i for i, setting in enumerate(table["setting"])}
    for ax, name in zip(panels, found.rankings, strict=True):
        rows = sweep.curves[sweep.curves["metric"] == name].sort_values("step", kind="stable")
        last = rows.groupby("trial")["value"].last()
        settings = sweep.trials["setting"].reindex(last.index)
        is_shown = settings.isin(list(place)).to_numpy()
        ax.plot(
            last[is_shown],
            [place[int(s)] for s in settings[is_shown]],
            linestyle="none",
            marker="o",
            markersize=4,
            color=GREY,
            alpha=0.6,
        )
        half = np.nan_to_num(table[f"± {name}"].to_numpy(np.float64))
        ax.errorbar(
            table[name],
            list(place.values()),
            xerr=half,
            linestyle="none",
            marker="s",
            markersize=5,
            capsize=3,
            color=BLUE,
        )
        ax.set_xlabel(name)
    panels[0].set_yticks(list(place.values()), [names.get(s, str(s)) for s in place])
    panels[0].invert_yaxis()
