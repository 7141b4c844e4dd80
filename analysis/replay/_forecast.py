"""Will this trial still improve? Forecast from trials that had finished by then, and judged.

The sweep is the one of `iolaus.analysis.replay.comparison` without a pruner: random order,
asynchronous workers of different speed. A trial is compared with those that had run to their end
when it came to be asked, at the same share of their runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iolaus.analysis.replay._curves import Curve
from iolaus.sweeps.signals import Array, Trend, log_time, trend

__all__ = ["Forecasts", "Judgement", "arrivals", "forecasts", "judge"]

Flags = NDArray[np.bool_]

IMPROVEMENT = 1e-3  # "will improve" means: its best falls by this share of itself or more
N_NEIGHBOURS = 25
N_FINISHED_LEAST = 10  # with fewer finished trials the curve speaks for itself
N_FEATURES = 6
BINS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Forecasts for the finite trials of a task, [n].

    For each the chance that nothing more comes, and whether nothing more came.
    """

    chance: Array
    over: Flags

    @property
    def average_precision(self) -> float:
        """Of ranking trials by their chance; NaN if every trial went on to improve."""
        hit = self.over[np.argsort(-self.chance, kind="stable")]
        return (
            float((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].mean())
            if hit.any()
            else float("nan")
        )


def forecasts(curves: Sequence[Curve], share: float, n_workers: int, seed: int) -> Forecasts:
    """Forecasts at `share` of each run.

    Trials that are not finite up to there or have under 3 reports are left out.
    """
    asked = [i for i, c in enumerate(curves) if 3 <= _n_reports(c, share) < c.n_finite]
    starts, pace = arrivals(curves, n_workers, seed)
    seen = np.array([_n_reports(c, share) for c in curves])
    asked_at = starts + pace * seen
    # A trial that will diverge or reach a target ends earlier; that it finished is known either
    # way.
    ended_at = starts + pace * np.array([min(len(c.steps), c.n_finite + 1) for c in curves])
    trends = [trend(curves[i].steps[: seen[i]], curves[i].losses[: seen[i]]) for i in asked]
    features = np.array(
        [_features(t, curves[i]) for t, i in zip(trends, asked, strict=True)]
    ).reshape(-1, N_FEATURES)
    over = np.array([_is_over(curves[i], seen[i]) for i in asked], dtype=bool)
    own = np.array([_own_chance(t, curves[i]) for t, i in zip(trends, asked, strict=True)])
    chance = np.empty(len(asked))
    for row, i in enumerate(asked):
        finished = np.flatnonzero(ended_at[asked] <= asked_at[i])
        chance[row] = _chance(features[row], own[row], features[finished], over[finished])
    return Forecasts(chance, over)


def arrivals(curves: Sequence[Curve], n_workers: int, seed: int) -> tuple[Array, Array]:
    """Start and time per report, [trials] each, simulated with nothing ended but by divergence."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(curves))
    starts, pace = np.empty(len(curves)), np.empty(len(curves))
    pace[order] = rng.uniform(0.8, 1.25, len(curves))
    free = [0.0] * n_workers
    for i in order:
        starts[i] = heapq.heappop(free)
        n = min(len(curves[i].steps), curves[i].n_finite + 1)
        heapq.heappush(free, float(starts[i] + pace[i] * n))
    return starts, pace


def _chance(features: Array, own: float, finished: Array, over: Flags) -> float:
    """The share of the nearest finished trials that were over; the curve's own counts as one."""
    if len(finished) < N_FINISHED_LEAST:
        return own
    spread = np.quantile(finished, 0.84, axis=0) - np.quantile(finished, 0.16, axis=0) + 1e-9
    distance = np.sqrt((np.clip((finished - features) / spread, -4, 4) ** 2).sum(axis=1))
    near = np.argsort(distance, kind="stable")[: min(N_NEIGHBOURS, 2 + len(finished) // 10)]
    weight = 1 / (distance[near] + 0.05)
    return float((weight @ over[near] + weight.mean() * own) / (weight.sum() + weight.mean()))


def _features(now: Trend, curve: Curve) -> list[float]:
    """Level, foreseen change, its error, age of the best, distance from the best.

    Changes as shares of the best.
    """
    left, size = log_time(now.step, curve.plan.n_steps or 1), abs(now.best) or 1.0
    age = (now.step - now.best_step) / (now.step + 1)
    return [
        now.level,
        now.best,
        _squeezed(now.slope * left / size),
        _squeezed(now.slope_se * left / size),
        age,
        _squeezed((now.level - now.best) / size),
    ]


def _squeezed(x: float) -> float:
    """Logarithmic away from zero: 0.1 % and 1 % are far apart, 50 % and 60 % are not."""
    return float(np.sign(x) * np.log1p(1e3 * abs(x))) if np.isfinite(x) else float(np.sign(x) * 1e3)


def _own_chance(now: Trend, curve: Curve) -> float:
    """The chance from the curve alone: logistic in the log of what the slope and its error allow.

    Its four numbers were fitted on TaskSet and DeepOBS at a quarter of the run: between .15 and
    .94, and half way at 0.26 % of the best.
    """
    left, size = log_time(now.step, curve.plan.n_steps or 1), abs(now.best) or 1.0
    possible = max(now.slope_se - now.slope, 0.0) * left / size
    return float(0.15 + 0.79 / (1 + (possible / 2.6e-3) ** 1.7))


def _is_over(curve: Curve, n_seen: int) -> bool:
    losses = curve.losses[: curve.n_finite]
    best = float(losses[:n_seen].min())
    return best - float(losses[n_seen:].min()) < IMPROVEMENT * abs(best)


def _n_reports(curve: Curve, share: float) -> int:
    return int(np.searchsorted(curve.steps, share * (curve.plan.n_steps or 1)))


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good forecasts were.

    average_precision: mean over the tasks in which some trial was over, and the least of them; None
    without such a task. calibration: per bin of the chance the number of forecasts, the mean
    claimed and the share realised.
    too_short: tasks in which nothing could be asked, as no trial had three finite reports by then
    and one after.
    """

    share: float
    average_precision: float | None
    average_precision_least: float | None
    calibration: list[dict[str, float]]
    too_short: list[str]

    def __str__(self) -> str:
        answers = [self._answers()] if self.calibration else []
        if self.too_short:
            answers.append(
                f"too short to be asked at {self.share:.0%}: {', '.join(self.too_short)}"
            )
        return "\n".join(answers)

    def _answers(self) -> str:
        head = f'"improves by less than {IMPROVEMENT:.1%}", asked at {self.share:.0%} of the run: '
        if self.average_precision is None:
            return head + "every trial improved by more"
        bins = (
            pd.DataFrame(self.calibration)
            .astype({"n": int})
            .to_string(index=False, float_format="%.3f")
        )
        least = self.average_precision_least
        return (
            f"{head}average precision {self.average_precision:.3f} (least task {least:.3f})\n{bins}"
        )


def judge(
    tasks: Mapping[str, Sequence[Curve]], share: float, n_workers: int, n_seeds: int
) -> Judgement:
    """Forecasts at `share` of the run for every task and seed, judged by what came."""
    found = {
        task: [forecasts(curves, share, n_workers, seed) for seed in range(n_seeds)]
        for task, curves in tasks.items()
    }
    precision = [float(np.mean([f.average_precision for f in own])) for own in found.values()]
    known = [p for p in precision if np.isfinite(p)]
    chance = np.concatenate([f.chance for own in found.values() for f in own])
    over = np.concatenate([f.over for own in found.values() for f in own])
    calibration = []
    for low, high in pairwise(BINS):
        inside = (chance >= low) & ((chance < high) | (high == 1.0))
        if inside.any():
            row = {"from": low, "to": high, "n": float(inside.sum())}
            calibration.append(
                row
                | {"claimed": float(chance[inside].mean()), "realised": float(over[inside].mean())}
            )
    too_short = [task for task, own in found.items() if not any(len(f.over) for f in own)]
    return Judgement(
        share,
        float(np.mean(known)) if known else None,
        min(known, default=None),
        calibration,
        too_short,
    )
