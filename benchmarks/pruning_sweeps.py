"""Schedules through the real driver and trainer.

python benchmarks/pruning_sweeps.py FOLDER [--seeds 3 --trials 40]. Trains every trial of a sweep to
its end with `python -m trainer --multirun` (digits, an MLP, SGD; learning rate, decay and schedule
differ), reads the curves and the learning rates from the sweep's folder, replays the pruners on
them, and runs the same settings once more with the stalled pruner at work. A sweep whose folder is
there is not trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.analysis.data.sweep import load
from iolaus.analysis.replay._curves import Curve, read
from iolaus.analysis.replay.comparison import replay

KINDS = {
    "multistep": ("schedule=multistep",),
    "cosine": ("schedule=cosine",),
    "staged": ("schedule=cosine_restarts",),
    "warmup": ("schedule=warmup_linear",),
    "mixed": ("schedule=choice(multistep,cosine,cosine_restarts,warmup_linear,constant)",),
}
RULES = ("stalled", "stalled-cautious", "median", "median-warmup")
N_STEPS = 600


def train(folder: Path, kind: str, seed: int, n_trials: int, pruner: str) -> Path:
    """The folder of one sweep; the same kind and seed give the same settings with any pruner."""
    name = f"{kind}_{seed}_{pruner}"
    sweep = folder / "multirun" / name
    if not (sweep / "study.db").exists():
        command = [
            *(
                sys.executable,
                "-m",
                "iolaus.trainer",
                "--multirun",
                "task=digits",
                "optim=sgd",
                *KINDS[kind],
            ),
            *(
                f"steps={N_STEPS}",
                "batch_size=32",
                "report_every=12",
                "eval_every=12",
                "keep_best=false",
            ),
            *(
                "hydra/sweeper/sampler=random",
                f"hydra.sweeper.sampler.seed={seed}",
                f"hydra/sweeper/pruner={pruner}",
            ),
            *(
                f"hydra.sweeper.study_name={name}",
                f"hydra.sweeper.n_trials={n_trials}",
                "hydra.sweeper.n_jobs=1",
            ),
            "hydra.sweeper.lanes=8",  # eight trials at a time, as the replay has
            *("hydra.sweeper.metric=val_loss", "optim.lr=tag(log,interval(1e-3,3))"),
            *("optim.momentum=interval(0,0.95)", "optim.weight_decay=tag(log,interval(1e-5,1e-1))"),
        ]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return sweep


def survivors(curves: list[Curve], pruned: Path) -> dict[str, float]:
    """What the pruner at work left of the true best four, and the steps it let run, as shares."""
    n_top = -(-len(curves) // 10)
    top = np.argsort([c.losses[: c.n_finite].min(initial=np.inf) for c in curves], kind="stable")[
        :n_top
    ]
    trials = load(pruned).trials
    n_steps = load(pruned).curves.groupby("trial")["step"].max()
    return {
        "compute": float(n_steps.sum() / (N_STEPS * len(curves))),
        "kept": float(np.mean([trials["state"][i] == "complete" for i in top])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    tasks: dict[str, list[Curve]] = {}
    live = []
    for seed in range(args.seeds):
        for kind in KINDS:
            (curves,) = read(train(args.folder, kind, seed, args.trials, "none")).values()
            tasks[f"{kind}_{seed}"] = curves
            live.append(
                {
                    "kind": kind,
                    **survivors(curves, train(args.folder, kind, seed, args.trials, "stalled")),
                }
            )
    scores = replay(tasks, RULES, n_seeds=3)
    scores["kind"] = scores["task"].str.replace(r"_\d+$", "", regex=True)
    each = scores.groupby(["rule", "kind", "task"])[
        ["compute", "kept"]
    ].mean()  # the sweeps differ, orders repeat
    print(
        each.groupby(["rule", "kind"]).agg(["mean", "std"]).to_string(float_format="%.3f"),
        end="\n\n",
    )
    print(
        each.groupby("rule").agg(["mean", "std", "min"]).to_string(float_format="%.3f"), end="\n\n"
    )
    kept = each["kept"].unstack("rule")
    for rule in ("median", "median-warmup"):
        print(
            f"stalled - {rule}, kept, least of {len(kept)} sweeps: "
            f"{(kept['stalled'] - kept[rule]).min():+.3f}"
        )
    print(
        "\nthe stalled pruner at work\n",
        pd.DataFrame(live).groupby("kind").agg(["mean", "min"]).to_string(),
        sep="",
    )


if __name__ == "__main__":
    main()
