"""The quickstart with each pruner and without one, live: compute, what it kept, what it found.

python benchmarks/pruning_quickstart.py FOLDER [--seeds 0 1 2 --jobs 2 --rules stalled]. The same
32 settings, drawn at random with each sampler seed, are trained to their end and then once under
each rule, through the real driver and trainer. A sweep whose folder is there is not trained again.

compute: steps made, as a share of all (the trainer repeats none after a pause). kept: of the true
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
# The quickstart as it was when it was measured: of longer sequences, and one trial per slot.
LONG = (
    *("task.length=20", f"steps={N_STEPS}", f"report_every={REPORT_EVERY}", "eval_every=100"),
    *("batch_size=choice(32, 64, 128)", "schedule.decay_steps=tag(log, interval(100, 1000))"),
    "hydra.sweeper.lanes=1",
)
RULES = {
    "none": ("none",),
    "stalled": ("stalled",),
    "caution 2": ("stalled", "hydra.sweeper.pruner.caution=2"),
    "stopping": ("stalled", "hydra.sweeper.on_prune=stop"),
    "median": ("median",),
    "median-warmup": ("median", f"hydra.sweeper.pruner.n_warmup_steps={N_STEPS // 10}"),
    "asha": ("asha",),
}


def train(folder: Path, rule: str, seed: int, n_jobs: int) -> Path:
    """One sweep of the quickstart; the same seed gives the same settings under any rule."""
    name = f"{rule.replace(' ', '_')}_{seed}"
    sweep = folder / "multirun" / name
    if not (sweep / "optimization_results.yaml").exists():  # it has not come to its end
        pruner, *options = RULES[rule]
        command = [
            *(sys.executable, "-m", "iolaus.trainer", "--multirun", "+sweep=quickstart"),
            *LONG,
            *(f"hydra/sweeper/pruner={pruner}", *options),
            *("hydra/sweeper/sampler=random", f"hydra.sweeper.sampler.seed={seed}"),
            *(f"hydra.sweeper.study_name={name}", f"hydra.sweeper.n_jobs={n_jobs}"),
            *(f"hydra.sweeper.n_trials={N_TRIALS}", "hydra.sweeper.holdout_fraction=0"),
            *("hydra.sweeper.finalists=null", "hydra.sweeper.report=null"),
        ]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return sweep


def measured(whole: Sweep, pruned: Sweep, curves: Path) -> dict[str, float]:
    """What a rule cost, and what it left of the best without it."""
    final = whole.trials["objective"].where(whole.trials["state"] == "complete", np.inf)
    finished = pruned.trials["state"] == "complete"
    reports = pd.concat(map(pd.read_parquet, curves.glob("*.parquet")))
    made = reports[reports["metric"] == "loss"].drop_duplicates(["trial", "step"])
    return {
        "compute": len(made) * REPORT_EVERY / (N_STEPS * N_TRIALS),
        "kept": finished[final.nsmallest(N_TOP).index].mean(),
        "found": pruned.trials["objective"][finished].min(),
        "best": final.min(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in args.seeds:
        whole = load(train(args.folder, "none", seed, args.jobs))
        for rule in args.rules:
            pruned = train(args.folder, rule, seed, args.jobs)
            found = measured(whole, load(pruned), pruned / "curves")
            rows.append({"rule": rule, "seed": seed, **found})
            print(pd.DataFrame(rows[-1:]).to_string(header=len(rows) == 1, index=False), flush=True)
    table = pd.DataFrame(rows).groupby("rule", sort=False)
    ranges = table[["compute", "kept", "found", "best"]].agg(["mean", "min", "max"])
    print("\n", ranges.round(3).to_string())


if __name__ == "__main__":
    main()
