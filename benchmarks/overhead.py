"""Wall time per trial beyond the training itself.

Iolaus beside plain Optuna, Hydra's launchers, a process per trial. python benchmarks/overhead.py
[--rounds 3] [--only nothing] [--official PYTHON]

All contenders run in every round, in random order. A task notes when it begins and ends, so a
contender's figure is (last end - first begin - time in tasks / slots) / (trials - slots): starting
and stopping Python is left out, and the load of other programs weighs on tasks and overhead alike.
What comes after the last task is given as "end". PYTHON: one that has hydra-optuna-sweeper and
numpy; without it the official sweeper is left out.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

APP = str(Path(__file__).with_name("overhead_app.py"))
N_PROCESSES = (
    16  # trials of the contender that starts a process for each: enough to see its second or so
)
TASKS = {
    "nothing": (200, 0),
    "short training": (64, 1000),
}  # trials, matrix products (1000: about 50 ms here)
Command = Sequence[str]


def hydra(*options: str) -> Callable[[int, int, int], Command]:
    return lambda n, work, _: [APP, "--multirun", f"n_products={work}", f"x=range(0,{n})", *options]


def iolaus(n_slots: int) -> Callable[[int, int, int], Command]:
    fixed = [
        "hydra/sweeper=iolaus",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.report=null",
        "x=interval(-1,1)",
    ]

    def command(n: int, work: int, seed: int) -> Command:
        given = [f"n_trials={n}", f"n_jobs={n_slots}", f"sampler.seed={seed}"]
        return [
            APP,
            "--multirun",
            f"n_products={work}",
            *fixed,
            *(f"hydra.sweeper.{option}" for option in given),
        ]

    return command


def official(*storage: str) -> Callable[[int, int, int], Command]:
    """The official Optuna sweeper, whose trials Hydra's basic launcher runs one after the other."""
    fixed = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "x=interval(-1,1)", *storage]

    def command(n: int, work: int, seed: int) -> Command:
        given = [f"n_trials={n}", "n_jobs=1", f"sampler.seed={seed}"]
        options = [f"hydra.sweeper.{option}" for option in given]
        return [APP, "--multirun", f"n_products={work}", *fixed, *options]

    return command


def optuna(storage: str, n_jobs: int) -> Callable[[int, int, int], Command]:
    return lambda n, work, seed: [__file__, "--optuna", storage, *map(str, (n_jobs, n, work, seed))]


CONTENDERS: dict[str, tuple[int, Callable[[int, int, int], Command] | None]] = {
    "Iolaus, 2 slots": (2, iolaus(2)),
    "Iolaus, 1 slot": (1, iolaus(1)),
    "Optuna, SQLite, n_jobs=1 (threads)": (1, optuna("sqlite", 1)),
    "Optuna, SQLite, n_jobs=2 (threads)": (2, optuna("sqlite", 2)),
    "Optuna, journal, n_jobs=1 (threads)": (1, optuna("journal", 1)),
    "Optuna, journal, n_jobs=2 (threads)": (2, optuna("journal", 2)),
    "Hydra, basic launcher": (1, hydra()),
    "Hydra, joblib launcher, n_jobs=2": (
        2,
        hydra("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    ),
    "a process per trial, 2 at a time": (2, None),
}


OFFICIAL: dict[str, tuple[int, Callable[[int, int, int], Command] | None]] = {
    "official Optuna sweeper": (1, official()),
    "official Optuna sweeper, SQLite": (1, official("hydra.sweeper.storage=sqlite:///study.db")),
}


def run_optuna(storage: str, n_jobs: int, n: int, work: int, seed: int) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from overhead_app import train

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = (
        optuna.storages.JournalStorage(JournalFileBackend("journal"))
        if storage == "journal"
        else None
    )
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(storage=backend or "sqlite:///study.db", sampler=sampler)
    study.optimize(
        lambda trial: train(trial.suggest_float("x", -1, 1), work), n_trials=n, n_jobs=n_jobs
    )


def measure(
    contender: tuple[int, Callable[[int, int, int], Command] | None],
    python: str,
    n: int,
    work: int,
    seed: int,
) -> tuple[float, float]:
    """Seconds per trial beyond training, and seconds from the last task's end to the command's."""
    n_slots, command = contender
    with tempfile.TemporaryDirectory() as folder:
        diary = Path(folder, "diary")
        # One BLAS thread for everyone.
        environment = {
            **os.environ,
            "DIARY": str(diary),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

        def start(arguments: Command) -> None:
            run = [python, *arguments]
            subprocess.run(
                run, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=600
            )

        if command is None:
            n = N_PROCESSES
            with ThreadPoolExecutor(n_slots) as pool:
                list(pool.map(start, [[APP, f"x={i}", f"n_products={work}"] for i in range(n)]))
        else:
            start(command(n, work, seed))
        end_s = time.time()
        times = [tuple(map(float, line.split())) for line in diary.read_text().splitlines()]
    assert len(times) == n, f"{len(times)} tasks were run of {n}"
    first_s, last_s = min(begin for begin, _ in times), max(end for _, end in times)
    trained_s = sum(end - begin for begin, end in times)
    return (last_s - first_s - trained_s / n_slots) / (n - n_slots), end_s - last_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--official", help="interpreter with hydra-optuna-sweeper")
    parser.add_argument("--optuna", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.optuna:
        storage, *numbers = arguments.optuna
        run_optuna(storage, *map(int, numbers))
        return
    contenders = CONTENDERS | (OFFICIAL if arguments.official else {})
    for task in [arguments.only] if arguments.only else TASKS:
        n, work = TASKS[task]
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for seed in range(arguments.rounds):
            for name in random.Random(seed).sample(list(contenders), len(contenders)):
                python = arguments.official if name in OFFICIAL else sys.executable
                seen[name].append(measure(contenders[name], python, n, work, seed))
        ours_s = {
            i: [s for s, _ in seen[name]]
            for i, name in ((2, "Iolaus, 2 slots"), (1, "Iolaus, 1 slot"))
        }
        print(f"\n{task}, {n} trials, {arguments.rounds} rounds; ms per trial beyond training\n")
        print("| contender | min | median | max | to Iolaus, as many slots | end, s |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, pairs in seen.items():
            ms = [1000 * s for s, _ in pairs]
            ratio = statistics.median(ms) / 1000 / statistics.median(ours_s[contenders[name][0]])
            end_s = statistics.median(s for _, s in pairs)
            print(
                f"| {name} | {min(ms):.1f} | {statistics.median(ms):.1f} | {max(ms):.1f} "
                f"| {ratio:.2f} | {end_s:.1f} |"
            )
        spread = max(1000 * (max(s) - min(s)) for s in ours_s.values())
        print(
            f"\nDifferences below {spread:.1f} ms, the spread of Iolaus itself over the rounds, "
            "could not be seen."
        )


if __name__ == "__main__":
    main()
