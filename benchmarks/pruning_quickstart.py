"""The quickstart with each pruner and without one, live: compute, what it kept, what it found.

python benchmarks/pruning_quickstart.py FOLDER [--seeds 3 --jobs 2 --rules stalled median]. The same
32 settings, drawn at random with each sampler seed, are trained to their end and then once under
each rule, through the real driver and trainer. A sweep whose folder is there is not trained again.

compute: steps made, those made twice after a pause included, as a share of all. kept: of the true
best five, by the final validation loss without a pruner, the share that ran to its end. found and
best: the lowest final loss under the rule, and without one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.analysis.data.sweep import Sweep, load

N_TOP = 5
N_STEPS, REPORT_EVERY, N_TRIALS = 2000, 20, 32
RULES = {
    "none": ("none",),
    "stalled": ("stalled",),
    "caution 2": ("stalled", "hydra.sweeper.pruner.caution=2"),
    "stopping": ("stalled", "hydra.sweeper.on_prune=stop"),
    "median": ("median",),
    "median-warmup": ("median", f"hydra.sweeper.pruner.n_warmup_steps={N_STEPS // 10}"),
    "asha": ("asha",),
}


def train(folder: Path, rule: str, seed: int, n_jobs: int) -> Sweep:
    """One sweep of the quickstart; the same seed gives the same settings under any rule."""
    name = f"{rule.replace(' ', '_')}_{seed}"
    sweep = folder / "multirun" / name
    if not (sweep / "report").exists():  # it has not come to its end
        pruner, *options = RULES[rule]
        command = [
            *(sys.executable, "-m", "iolaus.trainer", "--multirun", "+sweep=quickstart"),
            *(f"hydra/sweeper/pruner={pruner}", *options),
            *("hydra/sweeper/sampler=random", f"hydra.sweeper.sampler.seed={seed}"),
            *(f"hydra.sweeper.study_name={name}", f"hydra.sweeper.n_jobs={n_jobs}"),
            *(f"hydra.sweeper.n_trials={N_TRIALS}", "hydra.sweeper.holdout_fraction=0"),
        ]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return load(sweep)


def measured(whole: Sweep, pruned: Sweep) -> dict[str, float]:
    """What a rule cost, and what it left of the best without it."""
    final = whole.trials["objective"].where(whole.trials["state"] == "complete", np.inf)
    finished = pruned.trials["state"] == "complete"
    reports = pd.concat(map(pd.read_parquet, (pruned.folder / "curves").glob("*.parquet")))
    return {
        "compute": (reports["metric"] == "loss").sum() * REPORT_EVERY / (N_STEPS * N_TRIALS),
        "kept": finished[final.nsmallest(N_TOP).index].mean(),
        "found": pruned.trials["objective"][finished].min(),
        "best": final.min(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(args.seeds):
        whole = train(args.folder, "none", seed, args.jobs)
        for rule in args.rules:
            pruned = train(args.folder, rule, seed, args.jobs)
            rows.append({"rule": rule, "seed": seed, **measured(whole, pruned)})
            print(pd.DataFrame(rows[-1:]).to_string(header=len(rows) == 1, index=False), flush=True)
    table = pd.DataFrame(rows).groupby("rule", sort=False)
    print("\n", table[["compute", "kept", "found", "best"]].agg(["mean", "min", "max"]).round(3))


if __name__ == "__main__":
    main()
