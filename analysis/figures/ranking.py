"""The ranking: settings with their intervals, tiers set apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from iolaus.analysis.figures._style import BLACK, BLUE, GREY, ORANGE, VERMILION, say_nothing

__all__ = ["draw_ranking"]

if TYPE_CHECKING:
    import pandas as pd

    from iolaus.analysis.ranking.rank import Ranking

N_SHOWN = 25
OBJECTIVE: dict[str, Any] = {
    "marker": "|",
    "markersize": 11,
    "color": BLACK,
    "linestyle": "none",
    "zorder": 3,
}
TIER_STYLES = ((VERMILION, "o"), (BLUE, "s"), (ORANGE, "D"))  # from the fourth tier on: GREY


def draw_ranking(ax: Axes, ranking: Ranking, n_shown: int = N_SHOWN) -> None:
    """The n_shown best completed settings, best on top, in the order of the ranking.

    Each has a stroke at the objective, and its level with the 95 % interval, coloured and named by
    tier. Settings of one tier cannot be told apart. A setting without interval is a mark alone; one
    far behind is an arrow at the edge, with its level. Settings are named by the number of their
    first trial.
    """
    table = ranking.table[
        ranking.table["tier"].notna() & np.isfinite(ranking.table["level"].astype(float))
    ]
    ax.set_xlabel(ranking.of)
    ax.set_ylabel("setting")
    if table.empty:
        say_nothing(ax, "no setting has completed")
        return
    rows = table.head(n_shown)
    place = np.arange(len(rows))
    objective = rows["objective"].to_numpy(float)
    if ranking.of != "objective":
        ax.plot(objective, place, **OBJECTIVE, label="objective")
    for tier, own in rows.assign(place=place).groupby("tier", sort=True):
        n = int(str(tier))
        color, marker = TIER_STYLES[n - 1] if n <= len(TIER_STYLES) else (GREY, "o")
        level = own["level"].to_numpy(float)
        # One run may be worth nothing as an interval, or be known far too badly for the picture.
        reach = np.nan_to_num(
            np.stack([level - own["low"].to_numpy(float), own["high"].to_numpy(float) - level])
        )
        style: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "markersize": 5,
            "linestyle": "none",
        }
        ax.errorbar(level, own["place"], xerr=reach, **style, capsize=2)
    _name_tiers(ax, rows["tier"].to_numpy(int))
    seeds = rows["n_seeds"].astype(int)
    labels = [
        f"{n} ({k} seeds)" if k > 1 else str(n) for n, k in zip(rows["setting"], seeds, strict=True)
    ]
    ax.set_yticks(place, labels, fontsize="small")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    limits = _limits(ranking, rows)
    ax.set_xlim(limits)
    for row, value in zip(place, rows["level"].astype(float), strict=True):
        if not limits[0] <= value <= limits[1]:
            is_right = value > limits[1]
            ax.annotate(
                f"{value:.4g} →" if is_right else f"← {value:.4g}",
                (0.99 if is_right else 0.01, row),
                xycoords=("axes fraction", "data"),
                ha="right" if is_right else "left",
                va="center",
                fontsize="small",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )
    below = len(table) - len(rows)
    noise = "between seeds" if ranking.noise_source == "seeds" else "of each curve"
    title = f"95 % intervals from the noise {noise}"
    if ranking.noise_source == "none":
        title = "values without interval: the noise is not known"
    elif ranking.of != "objective":
        title += "; | is the objective"
    ax.set_title(title + (f"; {below} more below" if below else ""), loc="left", fontsize="medium")
    ax.grid(axis="x", alpha=0.3)


def _name_tiers(ax: Axes, tiers: NDArray[np.int64]) -> None:
    """Name the tier beside the first of each stretch of rows that share one, a line between two."""
    begins = np.flatnonzero(np.diff(tiers, prepend=0))
    for row in begins:
        ax.annotate(
            f"tier {tiers[row]}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            color=BLACK,
            fontsize="small",
        )
        if row:
            ax.axhline(row - 0.5, color=GREY, linewidth=0.7, linestyle="--")


def _limits(ranking: Ranking, rows: pd.DataFrame) -> tuple[float, float]:
    """Limits for levels up to three times as far from the best as the median, with intervals.

    They are for all levels, if the others are not even twice as far. So neither one that exploded
    nor one that is hardly known makes all others a single point.
    """
    level = rows["level"].to_numpy(float)
    distance = np.abs(level - (level.max() if ranking.larger_is_better else level.min()))
    reached = distance[distance <= 3 * np.median(distance)].max()
    near = level[distance <= (reached if distance.max() > 2 * reached else np.inf)]
    low, high = float(near.min()), float(near.max())
    reach = (rows["high"] - rows["low"]).astype(float) / 2
    usual = float(reach[np.isfinite(reach)].median())
    margin = max(
        0.1 * (high - low), 0.0 if np.isnan(usual) else 1.2 * usual, 1e-3 * abs(low), 1e-12
    )
    return low - margin, high + margin
