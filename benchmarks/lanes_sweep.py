"""A whole sweep, such as 64 trials x 300 steps of the MLP, storage on disk.

Iolaus with lanes beside its peers.
"""

import json
import math
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from lanes_peers import FIRST_RUNG, MODEL, N_STEPS, N_TRIALS, REDUCTION
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

HERE = Path(__file__).parent
PEERS = str(HERE / "lanes_peers.py")
# Lanes per slot where a number is given: half of the trials run at a time, and refill has the other
# half to work with.
N_LANES = 16
LIMIT_S = 600

SPACE = [
    "optim.lr=tag(log,interval(1e-3,1))",
    "optim.momentum=interval(0,0.95)",
    "clip.threshold=tag(log,interval(0.1,10))",
]
GRID = ["optim.lr=1e-3,1e-2,1e-1,1", "optim.momentum=0,0.3,0.6,0.9", "clip.threshold=0.1,0.5,2,10"]
IOLAUS = ["study_name=study", f"n_trials={N_TRIALS}", "n_jobs=2", "report=null", "objective=return"]
ASHA = [
    "hydra/sweeper/pruner=asha",
    f"hydra.sweeper.pruner.min_resource={FIRST_RUNG}",
    f"hydra.sweeper.pruner.reduction_factor={REDUCTION}",
]
STALLED = ["hydra/sweeper/pruner=stalled"]
JOBLIB = [
    "hydra/sweeper=basic",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
    "hydra.sweep.dir=multirun/study",
]


@dataclass(frozen=True)
class Measured:
    """One run of a contender.

    wall_s: from the command's start to its end. ready_s: until all modules were loaded. cpu_s: of
    all its processes. best: the lowest final validation loss. n_steps: made by all trials together.
    """

    wall_s: float
    ready_s: float
    cpu_s: float
    best: float
    n_steps: int


Ended = list[
    tuple[float | None, int]
]  # of each trial: the final loss, None if it was pruned or failed; steps reported


def iolaus(seed: int, pruner: Sequence[str], lanes: int | str, *options: str) -> list[str]:
    given = [*IOLAUS, f"sampler.seed={seed}", f"lanes={lanes}", *options]
    return ["hydra", str(seed), *SPACE, *pruner, *(f"hydra.sweeper.{option}" for option in given)]


def of_study(storage: str | optuna.storages.BaseStorage) -> Ended:
    trials = optuna.load_study(study_name=None, storage=storage).trials
    steps = [max(trial.intermediate_values, default=0) for trial in trials]
    values = [trial.value if trial.state is TrialState.COMPLETE else None for trial in trials]
    return list(zip(values, steps, strict=True))


def of_iolaus(folder: Path) -> Ended:
    return of_study(f"sqlite:///{folder / 'multirun/study/study.db'}")


def of_optuna(folder: Path) -> Ended:
    return of_study(optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal"))))


def of_ray(folder: Path) -> Ended:
    return [tuple(row) for row in json.loads((folder / "results.json").read_text())]


def of_jobs(folder: Path) -> Ended:
    """By the last line of each job's log."""
    logs = [path.read_text() for path in folder.glob("multirun/study/trials/*/trainer.log")]
    values = [re.findall(r"done  val_loss (\S+)", log) for log in logs]
    return [(float(value[-1]), N_STEPS) if value else (None, 0) for value in values]


OURS = (
    "Iolaus, lanes=auto",
    f"Iolaus, lanes={N_LANES}",
    f"Iolaus, lanes={N_LANES}, no refill",
    "Iolaus, lanes=auto, StalledLoss",
    "Iolaus, lanes=1",
)
# name: (arguments of lanes_peers.py for a seed, how to read what came out)
CONTENDERS: dict[str, tuple[Callable[[int], list[str]], Callable[[Path], Ended]]] = {
    OURS[0]: (lambda seed: iolaus(seed, ASHA, "auto"), of_iolaus),
    OURS[1]: (lambda seed: iolaus(seed, ASHA, N_LANES), of_iolaus),
    OURS[2]: (
        lambda seed: iolaus(seed, ASHA, N_LANES, "lane_runner=lanes_peers.run_in_rounds"),
        of_iolaus,
    ),
    OURS[3]: (lambda seed: iolaus(seed, STALLED, "auto"), of_iolaus),
    OURS[4]: (lambda seed: iolaus(seed, ASHA, 1), of_iolaus),
    "Optuna, 1 process": (lambda seed: ["optuna", str(seed), "1"], of_optuna),
    "Optuna, 2 processes": (lambda seed: ["optuna", str(seed), "2"], of_optuna),
    "Ray Tune, ASHA, 2 actors reused": (lambda seed: ["ray", str(seed)], of_ray),
    "Hydra, joblib, 2 jobs, grid, no pruning": (
        lambda seed: ["hydra", str(seed), *GRID, *JOBLIB],
        of_jobs,
    ),
}


def measure(name: str, seed: int, python: str) -> Measured:
    """Run a contender in a folder of its own."""
    command, ended = CONTENDERS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        # Ray's own wishes: no copies of the working directory, no telemetry, no wait for a better
        # file system.
        environment |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
            "RAY_AIR_NEW_OUTPUT": "0",
        }
        began_s, before_s = time.time(), _cpu_s()
        run = subprocess.run(
            [python, PEERS, *command(seed)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        wall_s, cpu_s = time.time() - began_s, _cpu_s() - before_s
        if run.returncode:
            raise RuntimeError(
                f"{name}, seed {seed}, ended with {run.returncode}:\n"
                f"{(run.stdout + run.stderr)[-2000:]}"
            )
        trials = ended(folder)
        values = [value for value, _ in trials if value is not None and math.isfinite(value)]
        n_steps = sum(steps for _, steps in trials)
        if len(trials) != N_TRIALS or not values:
            raise RuntimeError(
                f"{name}, seed {seed}, made {len(trials)} trials, {len(values)} of them to the end"
            )
        ready_s = float((folder / "ready").read_text()) - began_s
        return Measured(wall_s, ready_s, cpu_s, min(values), n_steps)


def _cpu_s() -> float:
    """Of the children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare_sweeps(n_seeds: int, ray: str | None, only: Sequence[str]) -> None:
    """Print a table of all contenders."""
    names = [
        name
        for name in CONTENDERS
        if any(part in name for part in only) and (ray or "Ray" not in name)
    ]
    if ray is None:
        print("Ray Tune is left out: give --ray an interpreter that has ray[tune].")
    seen: dict[str, list[Measured]] = {name: [] for name in names}
    for seed in range(n_seeds):
        for name in random.Random(seed).sample(names, len(names)):
            seen[name].append(measure(name, seed, str(ray) if "Ray" in name else sys.executable))
            print(
                f"seed {seed}  {name}: {seen[name][-1].wall_s:.1f} s", file=sys.stderr, flush=True
            )
    peers = [name for name in names if name not in OURS]
    best = (
        min(peers, key=lambda name: middle([m.wall_s - m.ready_s for m in seen[name]]))
        if peers
        else names[0]
    )
    print(
        f"\n{N_TRIALS} trials x {N_STEPS} steps of the {MODEL}, {n_seeds} seeds in random order; "
        f"ratios to {best}, seed by seed\n"
    )
    print(
        "| contender | wall, s | from modules loaded, s | min | max "
        "| ratio: min | median | max | CPU, s | best loss | steps |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        runs = seen[name]
        walls = [m.wall_s - m.ready_s for m in runs]
        ratios = [wall / (m.wall_s - m.ready_s) for wall, m in zip(walls, seen[best], strict=True)]
        losses = [m.best for m in runs]
        share = middle([m.n_steps / (N_TRIALS * N_STEPS) for m in runs])
        print(
            f"| {name} | {middle([m.wall_s for m in runs]):.1f} | {middle(walls):.1f} | "
            f"{min(walls):.1f} | {max(walls):.1f} | "
            f"{min(ratios):.2f} | {middle(ratios):.2f} | {max(ratios):.2f} | "
            f"{middle([m.cpu_s for m in runs]):.1f} | "
            f"{middle(losses):.3f} ({min(losses):.3f}-{max(losses):.3f}) | {100 * share:.0f} % |"
        )
    spread = max(
        max(walls) / min(walls) - 1
        for walls in ([m.wall_s - m.ready_s for m in seen[n]] for n in names)
    )
    print(
        f"\nOver the seeds the contenders vary by up to {100 * spread:.0f} %: "
        "smaller differences are unseen."
    )


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)
