"""Gradients that explode, step by step, with and without clipping; how often, by threshold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from iolaus.analysis.data.curves import Points, lines_of
from iolaus.analysis.data.pairs import value_text
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.explosions import UNCLIPPED, Explosions, explosions
from iolaus.analysis.figures._style import (
    AXIS_NAMES,
    BLUE,
    LEGEND,
    ORANGE,
    VERMILION,
    above_zero,
    logarithmic,
    say_nothing,
)
from iolaus.analysis.figures.gradients import LOWEST, PREFIX
from iolaus.sweeps.text import short_names

__all__ = ["draw_explosions", "twins"]

N_STEPS = 100
N_PARAMETERS = 3
LINES = ("-", "--", ":")  # one per parameter
MARKS = ("o", "s", "^", "D", "v", "P")  # one per setting
WITHOUT: dict[str, Any] = {"color": VERMILION, "linewidth": 1.8}
WITH: dict[str, Any] = {"color": BLUE, "linewidth": 0.9}
RULE_COLORS = (BLUE, ORANGE)


def draw_explosions(
    figure: Figure | SubFigure, sweep: Sweep, found: Explosions | None = None
) -> None:
    """The norms of a trial that died and of its clipped twin on one axis, and who explodes when.

    Left, the L2 norms, before clipping, of three parameters at each step of the first 100: thick
    without clipping, thin with; norms of 0 lie at the bottom. Right, the share of the seeds that
    explode at each threshold, and without clipping, with Clopper-Pearson intervals (95 %).
    found: of `explosions`, where it has been made before.
    """
    found = explosions(sweep) if found is None else found
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_norms(left, sweep, found)
    _draw_shares(right, found)


def twins(found: Explosions) -> tuple[int, int] | None:
    """(a trial that died unclipped, one that differs in clipping alone and did not explode).

    Of several the first to die, and of its twins the one with the best measure.
    """
    if found.rule is None:
        return None
    trials = found.trials
    is_unclipped = trials[found.rule].eq(UNCLIPPED)
    keys = [*found.groups, "seed"]
    safe = trials[~is_unclipped & ~trials["exploded"]]
    pairs = []
    for number, row in trials[is_unclipped & trials["died"]].iterrows():
        own = safe[_equal(safe[keys], row[keys])]
        if own["measure"].notna().any():
            best = (found.measure_sign * own["measure"]).idxmin()
            pairs.append((float(row["dead_since"]), int(str(number)), int(str(best))))
    return min(pairs)[1:] if pairs else None


def _draw_norms(ax: Axes, sweep: Sweep, found: Explosions) -> None:
    pair = twins(found)
    if pair is None:
        say_nothing(ax, "no trial died without clipping that lived with it")
        return
    norms = _norms(sweep, pair)
    top = max(float(line[:, 1].max()) for lines in norms.values() for line in lines)
    bottom = min(
        float(line[line[:, 1] > 0, 1].min(initial=top))
        for lines in norms.values()
        for line in lines
    )
    bottom = max(bottom, top * LOWEST)
    for i, (look, what) in enumerate(((WITHOUT, "without"), (WITH, "with"))):
        for (name, lines), style in zip(norms.items(), LINES, strict=False):
            points = above_zero(lines[i], bottom)
            ax.plot(*points.T, linestyle=style, label=f"{name}, {what} clipping", **look)
    logarithmic(ax.yaxis)
    ax.set_ylim(bottom / 2, top * 2)
    ax.set_xlim(0, max(float(line[-1, 0]) for lines in norms.values() for line in lines))
    ax.set_xlabel(AXIS_NAMES["step"])
    ax.set_ylabel("L2 norm of the gradient, before clipping")
    ax.legend(ncols=2, **LEGEND)
    died, lived = pair
    what = f"trial {died}, the first to die, and trial {lived}, the same but for its clipping"
    ax.set_title(what, loc="left", fontsize="medium")


def _norms(sweep: Sweep, pair: tuple[int, int]) -> dict[str, list[Points]]:
    """The first steps of both trials' norms by parameter; a model's own before its modules'."""
    names = [m for m in map(str, sweep.curves["metric"].unique()) if m.startswith(PREFIX)]
    norms: dict[str, list[Points]] = {}
    for name in sorted(names, key=lambda n: "." in n):
        lines = lines_of(sweep, name)
        if all(number in lines for number in pair) and len(norms) < N_PARAMETERS:
            first = [lines[n][lines[n][:, 0] <= N_STEPS] for n in pair]
            if all(len(line) for line in first):
                norms[name.removeprefix(PREFIX)] = first
    return norms


def _draw_shares(ax: Axes, found: Explosions) -> None:
    families = [rows for _, rows in found.by_rule()]
    if not families or found.threshold is None:
        say_nothing(ax, "no threshold was tried with several seeds")
        return
    shares, threshold = found.shares, found.threshold
    lacking = shares[shares[found.rule].eq(UNCLIPPED)] if found.rule else shares[:0]
    first = pd.concat([rows[:1] for rows in families])
    telling = [key for key in found.groups if first[key].nunique(dropna=False) > 1]
    names = short_names(telling)
    groups, rules = _codes(first, found.groups), _codes(first, filter(None, [found.rule]))
    ticks = sorted({float(value) for rows in families for value in rows[threshold]})
    none = ticks[-1] * 10
    for i, (rows, (_, setting)) in enumerate(zip(families, first.iterrows(), strict=True)):
        same = _equal(lacking[list(found.groups)], setting[list(found.groups)])
        drawn = pd.concat([rows, lacking[same].assign(**{threshold: none})])
        share, low, high = (drawn[column].to_numpy() for column in ("share", "low", "high"))
        shift = 1.09 ** (i - (len(families) - 1) / 2)  # so that intervals do not hide each other
        said = [f"{names[key]}={value_text(setting[key])}" for key in telling]
        ax.errorbar(
            drawn[threshold].to_numpy(float) * shift,
            share,
            yerr=[share - low, high - share],
            color=RULE_COLORS[rules[i] % len(RULE_COLORS)],
            linestyle=LINES[rules[i] % len(LINES)],
            marker=MARKS[groups[i] % len(MARKS)],
            linewidth=0.9,
            markersize=4,
            elinewidth=0.6,
            label=", ".join([*said, *([str(setting[found.rule])] if found.rule else [])]),
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator([*ticks, *([none] if len(lacking) else [])]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([*(f"{tick:g}" for tick in ticks), *(["none"] if len(lacking) else [])])
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel(threshold)
    ax.set_title("seeds that explode", loc="left", fontsize="medium")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, **LEGEND)


def _equal(rows: pd.DataFrame, to: pd.Series) -> NDArray[np.bool_]:
    """Which rows have these values; what is missing in both is equal."""
    same = (rows.eq(to) | (rows.isna() & to.isna())).to_numpy(dtype=np.bool_)
    return np.asarray(same.all(axis=1))


def _codes(first: pd.DataFrame, keys: Iterable[str]) -> list[int]:
    """The place of each row's values of these keys among those that occur."""
    values = list(first[list(keys)].astype(str).itertuples(index=False, name=None))
    known = list(dict.fromkeys(values))
    return [known.index(value) for value in values]
