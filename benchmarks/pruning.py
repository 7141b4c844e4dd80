"""All pruners on real curves, in one simulator.

python benchmarks/pruning.py CURVES.parquet [--small] [--tune] [--figure FILE]. Prints the tables
of README.md, and the front of the trivial baseline. --figure: all of it as points and a line.
--small: sweeps of 40 trials drawn from each task. --tune: which caution a user would have chosen
without the problem that is measured (DeepOBS), and what it did there.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iolaus.analysis.replay._curves import Curve, read
from iolaus.analysis.replay.baseline import baseline_front
from iolaus.analysis.replay.comparison import (
    BASELINE,
    draw_pareto,
    replay,
    score,
    simulate,
    summary,
    table,
    truth,
)
from iolaus.analysis.replay.rules import RULES, Stalled

CAUTIONS = (0.75, 1.0, 1.25, 1.5, 2.0)


def small_sweeps(
    tasks: Mapping[str, Sequence[Curve]], n_trials: int, n_draws: int
) -> dict[str, list[Curve]]:
    """n_draws random sweeps of n_trials trials from each task."""
    rng = np.random.default_rng(0)
    return {
        f"{task}#{draw}": [curves[i] for i in rng.choice(len(curves), n_trials, replace=False)]
        for task, curves in tasks.items()
        for draw in range(n_draws)
    }


def leave_one_problem_out(
    tasks: Mapping[str, Sequence[Curve]], n_seeds: int, goal: float
) -> pd.DataFrame:
    """Per problem (task without its optimizer).

    The cheapest caution that kept `goal` on all others, and its result.
    """
    rows = []
    for task, curves in tasks.items():
        known = truth(curves)
        problem = re.sub(r"_(adam|momentum|gradientdescent)$", "", task)
        for caution in CAUTIONS:
            found = [
                score(curves, simulate(curves, Stalled(caution), 8, seed), known)
                for seed in range(n_seeds)
            ]
            compute, kept = np.mean([(s.compute, s.kept) for s in found], axis=0)
            rows.append({"problem": problem, "caution": caution, "compute": compute, "kept": kept})
    means = pd.DataFrame(rows).groupby(["problem", "caution"]).mean()
    held_out = []
    for problem in means.index.unique("problem"):
        others = means.drop(index=problem, level="problem").groupby("caution").mean()
        enough = others[others["kept"] >= goal]
        caution = enough["compute"].idxmin() if len(enough) else others["kept"].idxmax()
        held_out.append({"problem": problem, "caution": caution, **means.loc[(problem, caution)]})
    return pd.DataFrame(held_out).set_index("problem")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", type=Path)
    parser.add_argument("--pruner", nargs="+", default=list(RULES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    tasks: Mapping[str, Sequence[Curve]] = read(args.curves)
    if args.tune:
        found = leave_one_problem_out(tasks, args.seeds, 0.98)
        print(
            found.to_string(float_format="%.3f"),
            found[["compute", "kept"]].mean().to_string(),
            sep="\n\n",
        )
        return
    if args.small:
        tasks = small_sweeps(tasks, 40, 4)
    found, front = summary(replay(tasks, args.pruner, 8, args.seeds)), baseline_front(tasks)
    print(table(found))
    print(f"\n{BASELINE}: stop, continued, compute, kept")
    for p in front:
        print(f"{p.stop:.2f} {p.continued:.2f} {p.compute:.3f} {p.kept:.3f}")
    if args.figure:
        picture = Figure(figsize=(7, 5), layout="constrained")
        FigureCanvasAgg(picture)
        axes = picture.subplots()
        draw_pareto(axes, found, [(p.compute, p.kept) for p in front])
        axes.set_title(args.curves.stem + (", sweeps of 40" if args.small else ""))
        picture.savefig(args.figure, dpi=100)


if __name__ == "__main__":
    main()
