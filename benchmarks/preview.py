"""What pruners save of a sweep's steps, and how often the preview of a sweep holds.

python benchmarks/preview.py CURVES.parquet... [--trials 40 --draws 3]. Sweeps of so many trials
drawn from each task, 8 workers, through the simulator of `iolaus replay`. First the shares of all
steps that were made, from which `iolaus.sweeps.study.preview` has what it expects before a sweep
knows its own. Then, when the first 2, 8 and 16 trials have ended or been paused and when half of
the steps have been made, whether the steps that are left lie in the range of the preview, how wide
that is (99 at most), and how far its middle is off, as a share of all steps made.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.analysis.replay._curves import Curve, read
from iolaus.analysis.replay.comparison import simulate
from iolaus.analysis.replay.rules import RULES, Move, Rule, SweepInfo
from iolaus.sweeps.signals import Array
from iolaus.sweeps.study.preview import (
    Machine,
    Pace,
    Preview,
    expected_share,
    preview,
    preview_pruned,
)
from iolaus.sweeps.types import Plan

# Of replay's rules those that a sweep can be told, by the class that it is told.
PRUNERS: Mapping[str, str] = {
    "divergence": "NopPruner",
    "stalled": "StalledLoss",
    "stalled-cautious": "StalledLoss",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "asha": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
}
KNOWN = (2, 8, 16)  # trials that have ended, or been paused for the first time
HALF = "half made"  # of all steps that will be made


class Watched:
    """A rule of the replay, and what a driver would see: steps made, and who ended or paused."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.made: dict[int, int] = {}
        self.running: set[int] = set()
        self.shares: dict[int, int] = {}  # reports until the first end or pause
        self.pauses = False
        self.log: list[tuple[dict[int, int], frozenset[int], dict[int, int], bool]] = []

    def report(self, trial: int, steps: Array, losses: Array, plan: Plan) -> Move:
        """See Rule."""
        self.made[trial] = len(steps)
        self.running.add(trial)
        move = self._rule.report(trial, steps, losses, plan)
        if move is Move.PAUSE:
            self.pauses = True
            self._left(trial)
        return move

    def end(self, trial: int, best: float, complete: bool) -> None:
        """See Rule."""
        self.made.setdefault(trial, 1)
        self._left(trial)
        self._rule.end(trial, best, complete)

    def resume(self, last_call: bool) -> int | None:
        """See Rule."""
        return self._rule.resume(last_call)

    def _left(self, trial: int) -> None:
        self.running.discard(trial)
        self.shares.setdefault(trial, self.made[trial])
        self.log.append((dict(self.made), frozenset(self.running), dict(self.shares), self.pauses))


def foreseen(
    made: Mapping[int, int],
    running: frozenset[int],
    shares: Mapping[int, int],
    pauses: bool,
    whole: Array,
    rule: str,
) -> Preview:
    """The preview in steps, at one moment of a sweep."""
    paces = [Pace(whole[t], n / whole[t]) for t, n in shares.items()]
    paces += [Pace(whole[t]) for t in running if t not in shares]
    so_far = {trial: n / whole[trial] for trial, n in made.items()}
    expected = expected_share([PRUNERS[rule]])
    is_open = running if not pauses else {t for t in made if t in running or so_far[t] < 1}
    n_left = len(whole) - len(made) + sum(1 - so_far[t] for t in is_open)
    if expected.middle < 1:
        n_made = sum(so_far.values())
        what = preview_pruned(paces, expected, len(whole), n_made, n_left, Machine(1))
    else:
        what = preview(paces, expected, n_left, Machine(1))
    assert what is not None
    return what


def rows(task: str, curves: list[Curve], rule: str, seed: int) -> dict[str, object]:
    """One sweep: its share of steps, and at each moment whether the range held, width and error."""
    n_steps = max(int(curve.steps[-1]) + 1 for curve in curves)
    info = SweepInfo(n_steps, max(len(curve.steps) for curve in curves), seed)
    watched = Watched(RULES[rule](info))
    run = simulate(curves, watched, 8, seed)
    order = np.random.default_rng(seed).permutation(len(curves))  # that of simulate
    whole = np.array([len(curves[i].steps) for i in order], dtype=float)
    total = int(run.n_seen.sum())
    found: dict[str, object] = {"task": task, "rule": rule, "share": total / whole.sum()}
    for key in (*KNOWN, HALF):
        for made, *others in watched.log:
            n_made = sum(made.values())
            if 2 * n_made >= total if key == HALF else len(others[1]) >= key:
                what = foreseen(made, *others, whole, rule).wall_s
                found[f"held {key}"] = what.low <= total - n_made <= what.high
                found[f"width {key}"] = min(what.high / max(what.low, 1.0), 99.0)
                found[f"error {key}"] = abs(what.middle - (total - n_made)) / total
                break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", type=Path, nargs="+")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--rules", nargs="+", choices=list(PRUNERS), default=list(PRUNERS))
    args = parser.parse_args()
    found = []
    for path in args.curves:
        for i, (task, curves) in enumerate(read(path).items()):
            for seed in range(args.draws):
                n = min(args.trials, len(curves))
                drawn = np.random.default_rng([seed, i]).choice(len(curves), n, replace=False)
                own = [curves[j] for j in drawn]
                found += [rows(f"{path.stem}/{task}", own, rule, seed) for rule in args.rules]
    frame = pd.DataFrame(found)
    shares = frame.groupby("rule")["share"].quantile([0.05, 0.5, 0.95]).unstack()
    print(shares.to_string(float_format="{:.2f}".format), end="\n\n")
    others = [name for name in frame if name.startswith(("held", "width", "error"))]
    print(frame.groupby("rule")[others].mean().to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
