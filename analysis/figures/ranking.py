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
CUT_WHISKER: dict[str, Any] = {
    "linestyle": "none",
    "markersize": 7,
    "color": BLACK,
    "markerfacecolor": "white",
    "clip_on": False,
    "zorder": 4,
}
TIER_STYLES = ((VERMILION, "o"), (BLUE, "s"), (ORANGE, "D"))  # from the fourth tier on: GREY


def draw_ranking(ax: Axes, ranking: Ranking, n_shown: int = N_SHOWN) -> None:
    """The n_shown best completed settings, best on top, in the order of the ranking.

    Each has a stroke at the objective, and its level with the 95 % interval, coloured and named by
    tier. Settings of one tier cannot be told apart. Without repeats there are no tiers: intervals
    are of each run's own end, and a grey band around the first is what two seeds may differ by,
    where that is known. A setting without interval is a mark alone; one far behind is an arrow at
    the edge, with its level; an arrowhead at the edge ends an interval that goes on beyond it.
    Settings are named by the number of their first trial.
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
        color = color if ranking.is_repeated else BLUE
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
    if ranking.is_repeated:
        _name_tiers(ax, rows["tier"].to_numpy(int))
    seeds = rows["n_seeds"].astype(int)
    labels = [
        f"{n} ({k} seeds)" if k > 1 else str(n) for n, k in zip(rows["setting"], seeds, strict=True)
    ]
    ax.set_yticks(place, labels, fontsize="small")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    limits = _limits(ranking, rows)
    ax.set_xlim(limits)
    _mark_cut_whiskers(ax, rows, limits)
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
    what = ["bars: 95 % intervals from the noise between seeds"]
    if not ranking.is_repeated:
        what = ["bars: where each run's own curve ends (95 %); another seed may differ by more"]
        what = what if np.isfinite(rows["low"].astype(float)).any() else []
        if np.isfinite(ranking.seed_difference):
            what = ["bars: each run's own end", "grey: no further than two seeds may differ"]
            middle, half = float(rows["level"].iloc[0]), ranking.seed_difference
            ax.axvspan(middle - half, middle + half, color=GREY, alpha=0.15, zorder=0)
    what = what or ["values without interval: the noise is not known"]
    what += ["| is the objective"] if ranking.of != "objective" else []
    what += [f"{below} more below"] if below else []
    ax.set_title("; ".join(what), loc="left", fontsize="medium")
    ax.grid(axis="x", alpha=0.3)


def _mark_cut_whiskers(ax: Axes, rows: pd.DataFrame, limits: tuple[float, float]) -> None:
    """An open arrowhead at the frame's edge where an interval goes on beyond it."""
    inside = rows["level"].astype(float).between(*limits).to_numpy()
    for bound, edge, marker in (("low", limits[0], "<"), ("high", limits[1], ">")):
        ends = rows[bound].to_numpy(float)
        is_cut = inside & ((ends < edge) if bound == "low" else (ends > edge))
        ax.plot(
            np.full(int(is_cut.sum()), edge), np.flatnonzero(is_cut), marker=marker, **CUT_WHISKER
        )


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
