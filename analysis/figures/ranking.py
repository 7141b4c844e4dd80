"""The ranking: settings with their intervals, tiers set apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analysis.figures.style import BLACK, BLUE, GREY, ORANGE, VERMILION, say_nothing

if TYPE_CHECKING:
    from analysis.ranking import Ranking

N_SHOWN = 25
TIER_STYLES = ((VERMILION, "o"), (BLUE, "s"), (ORANGE, "D"))  # from the fourth tier on: GREY


def draw_ranking(ax: Axes, ranking: Ranking, n_shown: int = N_SHOWN) -> None:
    """The n_shown best completed settings, best on top: estimate and 95 % interval, a line between tiers.

    Settings of one tier cannot be told apart. A setting without interval is a mark alone.
    """
    table = ranking.table[ranking.table["tier"].notna() & np.isfinite(ranking.table["estimate"].astype(float))]
    ax.set_xlabel(ranking.of)
    ax.set_ylabel("setting (number of its first trial)")
    if table.empty:
        say_nothing(ax, "no setting has completed")
        return
    rows = table.head(n_shown)
    place = np.arange(len(rows))
    for tier, own in rows.assign(place=place).groupby("tier", sort=False):
        n = int(str(tier))
        color, marker = TIER_STYLES[n - 1] if n <= len(TIER_STYLES) else (GREY, "o")
        estimate = own["estimate"].to_numpy(float)
        # One run may be worth nothing as an interval, or be known far too badly for the picture.
        reach = np.nan_to_num(np.stack([estimate - own["low"].to_numpy(float), own["high"].to_numpy(float) - estimate]))
        ax.errorbar(
            estimate, own["place"], xerr=reach, color=color, marker=marker, markersize=5, linestyle="none", capsize=2
        )
        last = int(own["place"].iloc[-1])
        if last + 1 < len(rows):
            ax.axhline(last + 0.5, color=GREY, linewidth=0.7, linestyle="--")
        at = (1.01, int(own["place"].iloc[0]))
        ax.annotate(f"tier {n}", at, xycoords=("axes fraction", "data"), va="center", color=BLACK, fontsize="small")
    seeds = rows["n_seeds"].astype(int)
    labels = [f"{n} ({k} seeds)" if k > 1 else str(n) for n, k in zip(rows["setting"], seeds, strict=True)]
    ax.set_yticks(place, labels, fontsize="small")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    _limits(ax, rows["estimate"].to_numpy(float), ranking.smallest_difference)
    below = len(table) - len(rows)
    title = f"95 % intervals from the noise {'between seeds' if ranking.noise_source == 'seeds' else 'of each curve'}"
    if ranking.noise_source == "none":
        title = "values without interval: the noise is not known"
    ax.set_title(title + (f"; {below} more below" if below else ""), loc="left", fontsize="medium")
    ax.grid(axis="x", alpha=0.3)


def _limits(ax: Axes, estimate: np.ndarray, smallest_difference: float) -> None:
    """Limits by the estimates: one very uncertain setting must not make all others a single point."""
    low, high = float(estimate.min()), float(estimate.max())
    around = max(high - low, smallest_difference if np.isfinite(smallest_difference) else 0.0, 1e-3 * abs(low), 1e-12)
    shown = ax.get_xlim()
    ax.set_xlim(max(shown[0], low - around), min(shown[1], high + around))
