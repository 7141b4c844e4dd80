"""The caution where trials can be paused, chosen for each set of curves without it.

python benchmarks/pruning_choice.py CURVES_FOLDER SCHEDULES.parquet (of pruning_schedules.py). Four
families of curves, each whole and as cuts of 20 trials (TaskSet as cuts of 250, 40 and 20). For
each family: the cheapest caution that keeps GOAL of the true top tenth in the mean of the other
families, and what it does on the one left out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.analysis.replay._curves import Curve, read
from iolaus.analysis.replay.comparison import simulate
from iolaus.analysis.replay.rules import Move
from iolaus.sweeps.pruners import rungs
from iolaus.sweeps.types import Plan

Tasks = Mapping[str, Sequence[Curve]]

GOAL = 0.95
N_WORKERS = 8


CAUTIONS = (0.5, 1.0, 1.5)


class OnlyRungs:
    """`StalledLoss` under pauses without words and signals, which decide nothing there."""

    def __init__(self, caution: float) -> None:
        self._rungs = rungs.Rungs(lambda n: max(2, min(10, math.ceil(0.1 * n))), errors=1 + caution)
        self._best: dict[int, float] = {}
        self._at_rung: set[int] = set()
        self._paused: set[int] = set()

    def report(self, trial: int, steps: np.ndarray, losses: np.ndarray, plan: Plan) -> Move:
        """See Rule."""
        n_steps, step = plan.n_steps or 1, int(steps[-1])
        best = self._best[trial] = min(float(losses[-1]), self._best.get(trial, math.inf))
        if self._rungs.report(trial, (step + 1) / n_steps, best):
            self._at_rung.add(trial)
        few = len(self._rungs) <= rungs.MIN_PEERS or len(losses) < 3
        if few or trial not in self._at_rung or step >= n_steps - 1:
            return Move.GO
        place = self._rungs.place(trial)
        if place is None or place.goes_on:
            self._at_rung.discard(trial)
            return Move.GO
        if not place.here.waits:
            self._rungs.gone(trial)
        self._paused.add(trial)
        return Move.PAUSE

    def end(self, trial: int, best: float, complete: bool) -> None:  # noqa: ARG002
        """See Rule."""
        self._rungs.gone(trial)

    def resume(self, last_call: bool) -> int | None:
        """See Rule."""
        if len(self._rungs) <= rungs.MIN_PEERS or not self._paused:
            return None
        if last_call:
            self._rungs.last_call()
        trial = self._rungs.first(self._paused)
        if trial is not None:
            self._paused.discard(trial)
            self._at_rung.discard(trial)
            self._rungs.gone(trial, gone=False)
        return trial


def cuts(tasks: Tasks, n_trials: int, n_draws: int) -> dict[str, list[Curve]]:
    """n_draws sweeps of n_trials trials drawn from each task."""
    rng = np.random.default_rng(n_trials)
    return {
        f"{task}#{n_trials}.{draw}": [curves[i] for i in rng.permutation(len(curves))[:n_trials]]
        for task, curves in tasks.items()
        for draw in range(n_draws)
    }


def one_seed(folder: Path) -> dict[str, list[Curve]]:
    """DeepOBS without the nine more seeds of each task's best setting."""
    trials = pd.read_parquet(folder / "trials.parquet")
    setting = trials["hyperparameters"].str.replace(r'"seed": \d+', "", regex=True)
    first = trials[~trials.assign(setting=setting).duplicated(["task", "setting"])]
    kept = first.groupby("task")["trial"].agg(set)
    found = {}
    for task, curves in read(folder / "deepobs.parquet").items():
        numbers = sorted(trials.loc[trials["task"] == task, "trial"].unique())
        pairs = zip(numbers, curves, strict=True)
        found[task] = [curve for number, curve in pairs if number in kept[task]]
    return found


def families(folder: Path, schedules: Path) -> dict[str, dict[str, Sequence[Curve]]]:
    digits, taskset = (
        read(folder / f"{name}.parquet") for name in ("digit_sum_dev", "taskset_dev")
    )
    deepobs, trained = one_seed(folder), read(schedules)
    return {
        "plateau tasks": {**digits, **cuts(digits, 20, 3)},
        "DeepOBS": {**deepobs, **cuts(deepobs, 20, 1)},
        "TaskSet": {**cuts(taskset, 250, 1), **cuts(taskset, 40, 1), **cuts(taskset, 20, 2)},
        "schedules": {**trained, **cuts(trained, 20, 2)},
    }


def measured(tasks: Tasks, caution: float) -> tuple[float, float]:
    """(compute, kept), means over the tasks."""
    found = []
    for curves in tasks.values():
        run = simulate(curves, OnlyRungs(caution), N_WORKERS, 0)
        best = [c.losses[: c.n_finite].min(initial=math.inf) for c in curves]
        top = np.argsort(best, kind="stable")[: min(10, -(-len(curves) // 10))]
        n_finite = np.array([c.n_finite for c in curves])
        kept = float(np.mean(run.n_seen[top] >= n_finite[top]))
        found.append((run.n_seen.sum() / sum(len(c.steps) for c in curves), kept))
    compute, kept = np.mean(found, axis=0)
    return float(compute), float(kept)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("schedules", type=Path)
    args = parser.parse_args()
    sets = families(args.folder, args.schedules)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in sets}
    for caution in CAUTIONS:
        for name, tasks in sets.items():
            results[name].append(measured(tasks, caution))
        row = ", ".join(f"{name} {_shown(own[-1])}" for name, own in results.items())
        print(f"caution {caution}: {row}", flush=True)
    for name, own in results.items():
        others = np.mean([results[other] for other in results if other != name], axis=0)
        enough = np.flatnonzero(others[:, 1] >= GOAL)
        chosen = int(enough[others[enough, 0].argmin()] if len(enough) else others[:, 1].argmax())
        print(f"{name}: caution {CAUTIONS[chosen]} chosen without it, {_shown(own[chosen])}")


def _shown(point: tuple[float, float]) -> str:
    return f"{point[0]:.3f} / {point[1]:.3f}"


if __name__ == "__main__":
    main()
