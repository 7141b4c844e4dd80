"""Who ran when: the slots of the machine over the time of the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.figures._style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    SKY,
    STATE_NAMES,
    VERMILION,
    say_nothing,
)
from iolaus.analysis.ranking.rank import Ranking, best_trial
from iolaus.sweeps.text import duration

__all__ = ["draw_timeline", "lanes"]

BARS: dict[str, dict[str, Any]] = {
    "best": {"facecolor": VERMILION, "hatch": "xx"},
    "complete": {"facecolor": BLUE},
    "held out": {"facecolor": BLUE, "hatch": ".."},
    "running": {"facecolor": GREEN, "hatch": "//"},
    "paused": {"facecolor": SKY, "hatch": ".."},
    "pruned": {"facecolor": "#cccccc"},
    "fail": {"facecolor": BLACK},
}
UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
N_LANES_NUMBERED = 2
THINNEST = 0.001  # of the time drawn: less than a pixel
N_WITH_LINES = 6  # paused trials, beyond which lines would only cross
START_S = 60.0  # from the begin of a session to its first trial, at most
N_NUMBERED = 60  # with more trials than this their numbers do not fit into the bars


def draw_timeline(ax: Axes, sweep: Sweep, *, ranking: Ranking | None = None) -> None:
    """A bar per trial on its slot, from start to end, in time since the sweep's first start.

    One that was paused has a bar for each stretch that it ran, and a grey line from one to the
    next, where few were paused or it is the best.
    Trials that ran side by side on one slot (in lanes) lie under one another. The title says for
    which share of the time, from the first start to the last end, the slots had a trial: gaps are
    time lost between trials. Time between sessions, when nobody ran the sweep, is cut out where a
    dashed line is. Trials that were to be stopped but were held out are
    dotted. Trials without a start, slot or duration (running ones
    have none) are left out.
    """
    ax.set_ylabel("slot")
    columns = ["started_s", "seconds", "slot"]
    ran = sweep.trials.dropna(subset=columns) if len(sweep.trials) else sweep.trials
    if ran.empty:
        ax.set_xlabel("time since the sweep began")
        say_nothing(ax, "no trial has a start, a slot and a duration")
        return
    was_held_out = ran["state"].eq("complete") & ran["held_out_step"].notna()
    ran = _by_stretch(ran.assign(state=ran["state"].mask(was_held_out, "held out")))
    length = ran["seconds"].to_numpy(float)
    start, breaks = _without_breaks(ran["started_s"].to_numpy(float), length, _begun_s(sweep))
    ran = ran.assign(started_s=start)
    end = float((start + length).max())
    unit_s, unit = next((u for u in UNITS if end >= 2 * u[0]), UNITS[-1])
    slots = sorted(ran["slot"].astype(int).unique())
    slot = ran["slot"].astype(int).map(slots.index).to_numpy()
    lane = np.zeros(len(ran), dtype=int)
    for i in range(len(slots)):
        lane[slot == i] = lanes(
            start[slot == i], (start + length)[slot == i], tolerance_s=0.005 * end
        )
    n_lanes = int(lane.max()) + 1
    height = 0.8 / n_lanes
    place = slot - 0.4 + height * (lane + 0.5)
    best, states = best_trial(sweep, ranking), ran["state"].astype(str)
    kind = np.where(ran.index == best, "best", states)
    handles: list[Artist] = []
    for name, style in BARS.items():
        own = kind == name
        if own.any():
            # White edges keep neighbours apart; a bar that would vanish between its own has one of
            # its colour.
            edge: dict[str, Any] = {
                "edgecolor": "white",
                "linewidth": 0.5 if len(ran) <= 300 else 0.1,
            }
            edges = np.where(length[own] > THINNEST * end, "white", style["facecolor"])
            ax.barh(
                place[own], length[own] / unit_s, left=start[own] / unit_s, height=height, **style,
                **{**edge, "edgecolor": edges},
            )  # fmt: skip
            n = len(set(ran.index[states == name]))
            label = (
                f"best: trial {best}" if name == "best" else f"{STATE_NAMES.get(name, name)} ({n})"
            )
            handles.append(Patch(**style, **edge, label=label))
    handles += _draw_pauses(
        *(ax, best, ran.index.to_numpy(), start / unit_s, (start + length) / unit_s),
        place + 0.35 * height,  # the numbers stand above
    )
    if len(ran) <= N_NUMBERED and n_lanes <= N_LANES_NUMBERED:
        for number, middle, row, width, name in zip(
            ran.index, start + length / 2, place, length, kind, strict=True
        ):
            if width > 0.02 * end:
                color = "black" if name == "pruned" else "white"
                box = (
                    {"facecolor": BARS[name]["facecolor"], "edgecolor": "none", "pad": 2.0}
                    if "hatch" in BARS[name]
                    else None
                )
                place_s = middle / unit_s
                ax.text(
                    place_s,
                    row,
                    str(number),
                    ha="center",
                    va="center",
                    fontsize="x-small",
                    color=color,
                    bbox=box,
                )
    ax.set_yticks(range(len(slots)), [str(slot) for slot in slots])
    ax.set_ylim(len(slots) - 0.5, -0.5)
    ax.set_xlim(0, end / unit_s * 1.01 or 1)
    ax.set_xlabel(f"time since the sweep began ({unit})")
    busy_s = sum(_covered(start[slot == i], (start + length)[slot == i]) for i in range(len(slots)))
    used = busy_s / (len(slots) * (end - start.min())) if end > start.min() else 1.0
    title = f"slots in use {used:.0%} of the time"
    if breaks:
        idle = duration(sum(idle_s for _, idle_s in breaks))
        title += f"; {idle} between sessions cut out (dashed)"
        for at_s, _ in breaks:
            ax.axvline(at_s / unit_s, color=BLACK, linestyle="--", linewidth=1)
    ax.set_title(title, loc="left", fontsize="medium", color=BLACK)
    ax.legend(
        handles=handles, frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1)
    )
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_color(GREY)


def _begun_s(sweep: Sweep) -> list[float]:
    """When each session after the first began, in seconds since the first."""
    begun = [
        datetime.fromisoformat(session["started"])
        for session in sweep.provenance
        if session.get("started")
    ]
    return [(moment - begun[0]).total_seconds() for moment in begun[1:]]


def _without_breaks(
    start: NDArray[np.float64], length: NDArray[np.float64], begun_s: Sequence[float]
) -> tuple[NDArray[np.float64], list[tuple[float, float]]]:
    """The starts without the time between sessions, and what was cut out: where, and how much.

    start, length: of each stretch, seconds. begun_s: of each session after the first; it lies
    between the last trial before and the first of its own, but for START_S, as the clock of starts
    begins with the first trial.
    """
    order = np.argsort(start, kind="stable")
    shift, breaks = np.zeros(len(start)), []
    ended = np.maximum.accumulate((start + length)[order])
    for i, (last, first) in enumerate(zip(ended[:-1], start[order][1:], strict=True)):
        if first > last and any(last <= begun <= first + START_S for begun in begun_s):
            breaks.append((float(last - shift.max()), float(first - last)))
            shift[order[i + 1 :]] += first - last
    return start - shift, breaks


def _by_stretch(trials: pd.DataFrame) -> pd.DataFrame:
    """A row for each stretch in which a trial ran, all under its number."""
    known = trials.get("stretches", pd.Series(None, trials.index, dtype=object))
    paused = {number: own for number, own in known.items() if isinstance(own, list) and own}
    rows = [
        (number, slot, start, length)
        for number, own in paused.items()
        for slot, start, length in own
        if slot is not None
    ]
    columns = ["number", "slot", "started_s", "seconds"]
    split = pd.DataFrame(rows, columns=columns).set_index("number")
    split["state"] = trials["state"].astype(str).reindex(split.index)
    whole = trials.drop(index=list(paused))[["slot", "started_s", "seconds", "state"]]
    return pd.concat([whole, split]) if len(split) else whole


def _draw_pauses(
    ax: Axes,
    best: int | None,
    trial: NDArray[np.int64],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    place: NDArray[np.float64],
) -> list[Line2D]:
    """A grey line from the end of each stretch of a trial to the start of its next; all are [n].

    Where more than N_WITH_LINES trials were paused, only the best has lines. Returns the line for a
    legend, if there is any. Others ran where it was paused: the lines lie over their bars.
    """
    order = np.lexsort((start, trial))
    gaps = [(i, k) for i, k in pairwise(order) if trial[i] == trial[k]]
    style: dict[str, Any] = {"color": "#555555", "linewidth": 1.0, "linestyle": (0, (1, 1.5))}
    halo = withStroke(linewidth=2.5, foreground="white")
    n = len({int(trial[i]) for i, _ in gaps})
    for i, k in gaps:
        if n > N_WITH_LINES and trial[i] != best:
            continue
        xs, ys = [end[i], start[k]], [place[i], place[k]]
        ax.plot(xs, ys, **style, zorder=3, path_effects=[halo])
    return [Line2D([], [], **style, label=f"paused ({n})")] if gaps else []


def lanes(
    start: NDArray[np.float64], end: NDArray[np.float64], tolerance_s: float = 0.0
) -> NDArray[np.int64]:
    """The lowest lane that is free for each trial when it starts, in order of their starts; [n].

    tolerance_s: how far a start may lie before the end that freed the lane, as clocks are read at
    different moments.
    """
    out = np.zeros(len(start), dtype=np.int64)
    free_from: list[float] = []
    for i in np.argsort(start, kind="stable"):
        lane = next(
            (k for k, free in enumerate(free_from) if free <= start[i] + tolerance_s),
            len(free_from),
        )
        free_from[lane:] = [float(end[i]), *free_from[lane + 1 :]]
        out[i] = lane
    return out


def _covered(start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    """Length of the union of intervals."""
    order = np.argsort(start)
    before = np.maximum.accumulate(end[order])
    begin = np.maximum(start[order], np.concatenate([[-np.inf], before[:-1]]))
    return float(np.maximum(end[order] - begin, 0).sum())
