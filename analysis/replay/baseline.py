"""The trivial baseline of early stopping: train all trials to one step, go on with the best K.

Source: Egele et al., arXiv 2404.04111. It needs no rule, waits for all trials at that step, and a
pruner that is not beyond its front over (step, K) has not earned its keep. The front is chosen
with the truth at hand, so it flatters the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iolaus.analysis.replay._curves import Curve
from iolaus.analysis.replay.comparison import Run, score, truth

__all__ = ["Point", "baseline_front", "stop_and_continue"]

STOPS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
CONTINUED = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True, slots=True)
class Point:
    """All trials were stopped at the share `stop` of their reports, the best `continued` went on.

    compute, kept: as in `Score`, means over tasks.
    """

    stop: float
    continued: float
    compute: float
    kept: float


def stop_and_continue(curves: Sequence[Curve], stop: float, continued: float) -> Run:
    """What becomes of a task's trials; both shares are in (0, 1], of at least one.

    The best are those of the lowest loss so far; one that has diverged ends there.
    """
    n_all = np.array([len(c.steps) for c in curves])
    n_finite = np.array([c.n_finite for c in curves])
    n_stop = np.maximum(1, (stop * n_all).astype(int))
    shown = [
        c.losses[:n].min() if n <= c.n_finite else math.inf
        for c, n in zip(curves, n_stop, strict=True)
    ]
    goes_on = np.zeros(len(curves), dtype=bool)
    goes_on[np.argsort(shown, kind="stable")[: math.ceil(continued * len(curves))]] = True
    n_seen = np.minimum(np.where(goes_on, n_all, n_stop), n_finite + 1)
    n_seen = np.minimum(n_seen, n_all).astype(np.int64)
    return Run(n_seen, (n_seen < n_all) & (n_seen <= n_finite))


def baseline_front(tasks: Mapping[str, Sequence[Curve]]) -> list[Point]:
    """The settings that no other one beats in compute and kept, by rising compute."""
    truths = {task: truth(curves) for task, curves in tasks.items()}
    points = []
    for stop in STOPS:
        for continued in CONTINUED:
            scores = [
                score(curves, stop_and_continue(curves, stop, continued), truths[task])
                for task, curves in tasks.items()
            ]
            compute, kept = np.mean([(s.compute, s.kept) for s in scores], axis=0)
            points.append(Point(stop, continued, float(compute), float(kept)))
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.compute, -p.kept)):
        if not front or point.kept > front[-1].kept:
            front.append(point)
    return front
