"""Draws docs/one_loss.svg: the way of one loss value through a sweep. `python docs/one_loss.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

WORKER, DRIVER, DISK, REPORT = range(4)
# place: (column, row), title, where it lives
STATIONS = {
    "task": ((WORKER, 0), "your task", "iolaus.report(step, loss=…)"),
    "reporter": ((WORKER, 1), "Reporter", "sweeps/reporting.py"),
    "channel": ((WORKER, 2), "Channel", "sweeps/run/_channel.py"),
    "driver": ((DRIVER, 2), "Driver", "sweeps/run/driver.py"),
    "study": ((DRIVER, 1), "SweepStudy", "sweeps/study/sweep_study.py"),
    "pruner": ((DRIVER, 0), "pruner", "sweeps/pruners/"),
    "curves": ((DISK, 2), "curves/*.parquet", "sweeps/curves.py"),
    "db": ((DISK, 1), "study.db", "sweeps/study/live_storage.py"),
    "sweep": ((REPORT, 2), "Sweep", "analysis/data/"),
    "rank": ((REPORT, 1), "ranking, diagnosis", "analysis/ranking/, analysis/diagnosis/"),
    "page": ((REPORT, 0), "report page", "analysis/report/"),
}
# from, to, what passes, where the words stand: (x, y) from the middle of the arrow
WAYS = [
    ("task", "reporter", "1  checked, with its time", (0.05, 0.0)),
    ("reporter", "channel", "2  a row of a batch", (0.05, 0.0)),
    ("channel", "driver", "3  pipe", (0.0, 0.13)),
    ("driver", "curves", "4  rows,\nevery 2 s", (0.0, 0.18)),
    ("driver", "study", "5  the watched metric", (0.05, 0.0)),
    ("study", "pruner", "6  goes on?", (0.05, 0.0)),
    ("study", "db", "7  thinned,\nwritten behind", (0.0, 0.18)),
    ("curves", "sweep", "8  load", (0.0, 0.13)),
    ("db", "sweep", "", (0.0, 0.0)),
    ("sweep", "rank", "9  levels, features", (0.05, 0.0)),
    ("rank", "page", "10  order, shapes", (0.05, 0.0)),
]
ROOMS = ["worker process", "driver process", "the sweep's folder", "afterwards, or meanwhile"]
WIDE, HIGH, STEP = 0.78, 0.46, 1.0


def box(ax: Axes, place: tuple[int, int], title: str, where: str) -> None:
    """A station: what it is called, and where its code lives."""
    x, y = 1.22 * place[0], -STEP * place[1]
    shape = FancyBboxPatch(
        (x - WIDE / 2, y - HIGH / 2), WIDE, HIGH, "round,pad=0.02", fc="white", ec="0.2", lw=1.2
    )
    ax.add_patch(shape)
    ax.text(x, y + 0.07, title, ha="center", va="center", fontsize=10, weight="bold", color="0.1")
    ax.text(x, y - 0.11, where, ha="center", va="center", fontsize=6.8, color="0.3")


def way(ax: Axes, start: str, end: str, words: str, off: tuple[float, float]) -> None:
    """An arrow between two stations with words on it, or beside it."""
    (a, b), (c, d) = STATIONS[start][0], STATIONS[end][0]
    one, other = (1.22 * a, -STEP * b), (1.22 * c, -STEP * d)
    across, down = other[0] - one[0], other[1] - one[1]
    if across:
        one, other = (one[0] + WIDE / 2 + 0.03, one[1]), (other[0] - WIDE / 2 - 0.03, other[1])
    else:
        up = 1 if down > 0 else -1
        one, other = (one[0], one[1] + up * 0.27), (other[0], other[1] - up * 0.27)
    style = {"arrowstyle": "-|>", "color": "0.2", "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", other, one, arrowprops=style)
    x, y = (one[0] + other[0]) / 2 + off[0], (one[1] + other[1]) / 2 + off[1]
    ax.text(x, y, words, ha="center" if across else "left", va="center", fontsize=7.6, color="0.1")


def main() -> None:
    """Draw and save it, in greys."""
    plt.rcParams["svg.hashsalt"] = "one_loss"
    figure, ax = plt.subplots(figsize=(11, 5.6), layout="constrained")
    for column, room in enumerate(ROOMS):
        x, shade = 1.22 * column, "0.95" if column % 2 else "0.90"
        ax.add_patch(plt.Rectangle((x - 0.6, -2.45), 1.2, 3.1, fc=shade, ec="none", zorder=-2))
        ax.text(x, 0.5, room, ha="center", va="center", fontsize=9.5, style="italic", color="0.1")
    for place, title, where in STATIONS.values():
        box(ax, place, title, where)
    for start, end, words, off in WAYS:
        way(ax, start, end, words, off)
    # A verdict goes back the way the value came.
    back = {"arrowstyle": "-|>", "color": "0.2", "lw": 1.2, "ls": "--"}
    ax.annotate("", (0.4, -0.9), (0.82, -0.9), arrowprops=back)
    ax.text(0.61, -0.8, "a verdict:\nStop", ha="center", va="bottom", fontsize=7.6, color="0.1")
    ax.set(xlim=(-0.62, 3 * 1.22 + 0.62), ylim=(-2.47, 0.67))
    ax.set_axis_off()
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
