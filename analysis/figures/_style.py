"""What all figures share: colours, marks, limits, and how nothing to draw looks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.ticker import LogLocator

from iolaus.analysis.data.curves import Points

__all__ = [
    "AXIS_NAMES",
    "BLACK",
    "ENDS",
    "GREY",
    "LEGEND",
    "LOWEST_RATE",
    "SHAPE_MARKS",
    "STATE_NAMES",
    "STYLES",
    "above_zero",
    "add_lines",
    "centred_mean",
    "limits_of",
    "logarithmic",
    "plain_ticks",
    "say_nothing",
    "shape_style",
    "smoothed",
    "smoothing_text",
    "value_limits",
]

AXIS_NAMES = {
    "step": "step (optimizer updates)",
    "examples": "examples seen",
    "seconds": "seconds of training",
}
# Of the highest: a logarithmic axis has no 0, so lower learning rates are drawn here.
LOWEST_RATE = 1e-6
# A drawn curve is the mean over this part of its reports, at least 3.
N_MEAN_SHARE = 20
# Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart by colour-blind readers.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#999999"

# Line style and width say in grey what colour says.
STYLES: dict[str, dict[str, Any]] = {
    "best": {"color": VERMILION, "linewidth": 2.2, "linestyle": "-", "zorder": 4},
    "complete": {"color": BLUE, "linewidth": 0.9, "linestyle": "-", "alpha": 0.75, "zorder": 3},
    "running": {"color": GREEN, "linewidth": 0.9, "linestyle": "-.", "zorder": 3},
    "paused": {"color": SKY, "linewidth": 0.9, "linestyle": "--", "zorder": 3},
    "pruned": {"color": GREY, "linewidth": 0.7, "linestyle": "-", "zorder": 2},
    "fail": {"color": BLACK, "linewidth": 0.7, "linestyle": ":", "zorder": 2},
}
# For legends over lines: readable where they overlap.
LEGEND: dict[str, Any] = {"fontsize": "small", "framealpha": 0.8, "edgecolor": "none"}
ENDS = {"paused": "|", "pruned": "|", "fail": "x"}
STATE_NAMES = {"complete": "completed", "fail": "failed"}

# One mark per shape, told apart without its colour.
SHAPE_MARKS: dict[str, tuple[str, str]] = {
    "exploded": ("X", VERMILION),
    "died": ("P", BLACK),
    "broken": ("*", BLACK),
    "fast_then_flat": ("<", ORANGE),
    "slow": (">", SKY),
    "underfitting": ("s", PURPLE),
    "oscillating": ("D", ORANGE),
    "overfitting": ("p", VERMILION),
    "rebound": ("^", PURPLE),
    "stalled": ("d", BLACK),
    "improving": ("v", BLUE),
    "converged": ("o", GREEN),
}


def shape_style(shape: str) -> dict[str, Any]:
    """Marker properties of a shape for `Axes.plot`, without a line."""
    marker, color = SHAPE_MARKS.get(shape, ("h", GREY))
    return {"linestyle": "none", "marker": marker, "color": color, "markersize": 6}


def say_nothing(ax: Axes, why: str) -> None:
    """What an empty figure shows instead: why it is empty."""
    ax.text(
        0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes, color="#555555", wrap=True
    )
    ax.set_xticks([])
    ax.set_yticks([])


def add_lines(ax: Axes, lines: Sequence[Points], **style: Any) -> None:
    """Many lines, each [n, 2], as one object: a thousand of them draw in a fraction of a second."""
    names = {"color": "colors", "linewidth": "linewidths", "linestyle": "linestyles"}
    ax.add_collection(
        LineCollection(list(lines), **{names.get(key, key): value for key, value in style.items()})
    )


def logarithmic(axis: Axis) -> None:
    """Make an axis logarithmic, with plain ticks."""
    axis.axes.set(xscale="log") if axis is axis.axes.xaxis else axis.axes.set(yscale="log")
    plain_ticks(axis)


def plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers.

    0.01 is read faster than a power of ten, and drawn faster.
    """

    def minor(value: float, _: float) -> str:
        low, high = axis.get_view_interval()
        return f"{value:g}" if high < 100 * low else ""

    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axis.set_minor_formatter(minor)


def value_limits(ax: Axes, curves: Iterable[Points]) -> None:
    """Set the value axis of `ax` for curves [n, 2], see `limits_of`."""
    low, high, is_log = limits_of(curves)
    if is_log:
        logarithmic(ax.yaxis)
        ax.set_ylim(low, high)
    elif high > low:
        ax.set_ylim(low, high)


def limits_of(curves: Iterable[Points]) -> tuple[float, float, bool]:
    """(low, high, whether logarithmic) of values [n, 2] so that a diverged one does not spoil them.

    The best value lies at the bottom, the level at which most begin (or end, if that is higher)
    half-way up or above; what lies higher leaves the frame. Logarithmic if that is more than a
    factor of 20 above 0.
    """
    values = [curve[:, 1] for curve in curves if len(curve)]
    if not values:
        return 0.0, 0.0, False
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    level = max(float(np.median([v[0] for v in values])), float(np.median([v[-1] for v in values])))
    top = min(high, 2 * level - low) if level > low else high
    if low > 0 and top > 20 * low:
        return low * 0.9, top * 1.1, True
    margin = 0.03 * (top - low)
    return low - margin, top + margin, False


def smoothed(curve: Points, smooth: float | None = None) -> Points:
    """The curve [n, 2] smoothed for the eye; numbers are read off `iolaus.sweeps.signals`.

    smooth: None, `centred_mean` over a twentieth of the reports. From 0 up and below 1, as in
    TensorBoard, each value the mean of it and all before, whose weights fall by this factor from
    one to the one before; 0 is the curve itself. A whole number from 2 up: `centred_mean` over so
    many reports. Raises ValueError for others. Source: Adam's bias correction, arXiv 1412.6980.
    """
    smoothing_text(smooth)
    if not len(curve):
        return curve
    if smooth is None or smooth >= 2:
        return centred_mean(curve, None if smooth is None else int(smooth))
    from scipy.signal import lfilter  # slow to import, and not for every figure

    weights = 1 - smooth ** np.arange(1, len(curve) + 1)
    means = lfilter([1 - smooth], [1, -smooth], curve[:, 1]) / weights
    return np.column_stack([curve[:, 0], means])


def smoothing_text(smooth: float | None) -> str:
    """What `smoothed` does, for a caption; raises ValueError for what it does not take."""
    if smooth is None:
        return "smoothed"
    if smooth == 0:
        return "as reported"
    if 0 < smooth < 1:
        return f"smoothed with a weight of {smooth:g} from one report to the next"
    if smooth >= 2 and smooth % 1 == 0:
        return f"smoothed over {smooth:.0f} reports"
    raise ValueError(
        "smooth is from 0 (as reported) up and below 1 (what came before counts so much at each "
        f"report), or a whole number of reports from 2 up; got {smooth:g}"
    )


def centred_mean(curve: Points, n_reports: int | None = None) -> Points:
    """The curve [n, 2] with each value the mean of so many reports around it.

    n_reports: left out, a twentieth of them, 3 at least. Towards the ends the mean is of fewer, so
    that it never lags.
    """
    half = max(1, (len(curve) // N_MEAN_SHARE if n_reports is None else n_reports) // 2)
    if len(curve) < 3:
        return curve
    sums = np.concatenate([[0.0], np.cumsum(curve[:, 1])])
    at = np.arange(len(curve))
    reach = np.minimum(half, np.minimum(at, at[::-1]))
    means = (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)
    return np.column_stack([curve[:, 0], means])


def above_zero(line: Points, floor: float) -> Points:
    """The line with values below `floor` lifted to it, for a logarithmic axis."""
    return np.column_stack([line[:, 0], np.maximum(line[:, 1], floor)])
