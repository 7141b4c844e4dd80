"""What pruners save of a sweep's steps, and how often the preview of a sweep holds.

python benchmarks/preview.py CURVES.parquet... [--trials 40 --draws 3]. Sweeps of so many trials
drawn from each task, 8 workers, through the simulator of `iolaus replay`. First the shares of all
steps that were made, from which `iolaus.sweeps.study.preview` has what it expects before a sweep
knows its own. Then, when the first 2, 8 and 16 trials have ended, whether the steps of all others
lie in the range of the preview, and how wide that is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.analysis.replay._curves import Curve, read
from iolaus.analysis.replay.comparison import simulate
from iolaus.analysis.replay.rules import RULES, SweepInfo
from iolaus.sweeps.study.preview import Machine, Pace, expected_share, preview

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
KNOWN = (2, 8, 16)


def rows(task: str, curves: list[Curve], rule: str, seed: int) -> dict[str, object]:
    """One sweep: its share of steps, and at each of KNOWN whether the range held, and its width."""
    n_steps = max(int(curve.steps[-1]) + 1 for curve in curves)
    info = SweepInfo(n_steps, max(len(curve.steps) for curve in curves), seed)
    run = simulate(curves, RULES[rule](info), 8, seed)
    whole = np.array([len(curve.steps) for curve in curves], dtype=float)
    order = np.random.default_rng(seed).permutation(len(curves))  # that of simulate
    seen, whole = run.n_seen[order].astype(float), whole[order]
    found: dict[str, object] = {"task": task, "rule": rule, "share": seen.sum() / whole.sum()}
    for n in KNOWN:
        paces = [Pace(w, s / w) for w, s in zip(whole[:n], seen[:n], strict=True)]
        what = preview(paces, expected_share([PRUNERS[rule]]), len(curves) - n, Machine(1))
        assert what is not None
        low, high = what.wall_s.low, what.wall_s.high
        found[f"held after {n}"] = low <= seen[n:].sum() <= high
        found[f"width after {n}"] = high / low
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", type=Path, nargs="+")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    found = []
    for path in args.curves:
        for i, (task, curves) in enumerate(read(path).items()):
            for seed in range(args.draws):
                n = min(args.trials, len(curves))
                drawn = np.random.default_rng([seed, i]).choice(len(curves), n, replace=False)
                own = [curves[j] for j in drawn]
                found += [rows(f"{path.stem}/{task}", own, rule, seed) for rule in PRUNERS]
    frame = pd.DataFrame(found)
    shares = frame.groupby("rule")["share"].quantile([0.05, 0.5, 0.95]).unstack()
    print(shares.to_string(float_format="{:.2f}".format), end="\n\n")
    others = [name for name in frame if name.startswith(("held", "width"))]
    print(frame.groupby("rule")[others].mean().to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
