"""The numbers of the rungs, chosen for each set of curves without it.

python benchmarks/pruning_choice.py CURVES_FOLDER SCHEDULES.parquet (of pruning_schedules.py). Four
families of curves, each whole and as cuts of 20 trials (TaskSet as cuts of 250, 40 and 20). For
each family: the cheapest setting that keeps GOAL of the true top tenth in the mean of the other
families, what it does on the one left out, and what the default does there.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

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


@dataclass(frozen=True)
class Setting:
    """errors: 1 + caution. prior: the correlation assumed over a doubling of the steps."""

    errors: float = 2.0
    prior: float = rungs.PRIOR


GRID = (*(Setting(e) for e in (1.5, 2.0, 2.5)), Setting(prior=0.9), Setting(prior=0.95))


class OnlyRungs:
    """`StalledLoss` under pauses without words and signals, which decide nothing there."""

    def __init__(self, setting: Setting) -> None:
        self._rungs = rungs.Rungs(
            lambda n: max(2, min(10, math.ceil(0.1 * n))), errors=setting.errors
        )
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
    names = [name for name in trials.columns if name not in ("task", "trial", "seed", "source")]
    first = trials.drop_duplicates(["task", *names]).groupby("task")["trial"].agg(set)
    found = {}
    for task, curves in read(folder / "deepobs.parquet").items():
        numbers = sorted(trials.loc[trials["task"] == task, "trial"].unique())
        pairs = zip(numbers, curves, strict=True)
        found[task] = [curve for number, curve in pairs if number in first[task]]
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


def measured(tasks: Tasks, setting: Setting) -> tuple[float, float]:
    """(compute, kept), means over the tasks."""
    found = []
    with mock.patch.multiple(rungs, PRIOR=setting.prior):
        for curves in tasks.values():
            run = simulate(curves, OnlyRungs(setting), N_WORKERS, 0)
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
    for setting in GRID:
        for name, tasks in sets.items():
            results[name].append(measured(tasks, setting))
        row = " ".join(f"{name} {own[-1][0]:.3f}/{own[-1][1]:.3f}" for name, own in results.items())
        print(json.dumps(asdict(setting)), row, flush=True)
    default = GRID.index(Setting())
    for name, own in results.items():
        others = np.mean([results[other] for other in results if other != name], axis=0)
        enough = np.flatnonzero(others[:, 1] >= GOAL)
        chosen = int(enough[others[enough, 0].argmin()] if len(enough) else others[:, 1].argmax())
        print(
            f"{name}: chosen without it {json.dumps(asdict(GRID[chosen]))}, "
            f"{own[chosen][0]:.3f}/{own[chosen][1]:.3f}; "
            f"the default {own[default][0]:.3f}/{own[default][1]:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
