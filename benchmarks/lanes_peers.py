"""The contenders of lanes_sweep.py, each in a process of its own.

Python lanes_peers.py CONTENDER SEED [OPTIONS]. When all it imports is loaded, a contender notes the
time in the file `ready` of its working directory. All train by `iolaus.trainer.loop.train` and
report the training loss 30 times. The environment variables LANES_TRIALS, LANES_STEPS and
LANES_MODEL say how many trials there are (64), of how many steps (300), of which model (mlp).
"""

import dataclasses
import json
import multiprocessing
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from iolaus.trainer.loop import train
from iolaus.trainer.settings import CONF, Settings, read

N_TRIALS = int(os.environ.get("LANES_TRIALS", "64"))
N_STEPS = int(os.environ.get("LANES_STEPS", "300"))
EVERY = N_STEPS // 30
TASKS = {"mlp": "digits", "rnn": "digit_sum"}
MODEL = os.environ.get("LANES_MODEL", "mlp")
TRAINED = [
    f"task={TASKS[MODEL]}",
    f"model={MODEL}",
    "clip=norm",
    f"steps={N_STEPS}",
    f"report_every={EVERY}",
    f"eval_every={10 * EVERY}",
    "keep_best=false",
]
# Of successive halving, the same for all: rungs at a 15th, a 5th and three 5ths of the steps.
FIRST_RUNG, REDUCTION = N_STEPS // 15, 3
# A round without refill waits so long for its next trial before it begins with those it has.
PATIENCE_S = 0.1


def ready() -> None:
    torch.set_num_threads(1)
    Path("ready").write_text(str(time.time()))


def run_hydra(arguments: list[str]) -> None:
    """`python -m trainer --multirun ...`, and the time when its modules are loaded."""
    import optuna  # noqa: F401

    import iolaus.trainer.__main__  # noqa: F401

    ready()
    sys.argv = ["trainer", "--multirun", *TRAINED, *arguments]
    runpy.run_module("iolaus.trainer", run_name="__main__", alter_sys=True)


def base(seed: int) -> Settings:
    with initialize_config_dir(str(CONF), version_base=None, job_name="lanes"):
        run = read(compose("config", [*TRAINED, f"seed={seed}"]))
    GlobalHydra.instance().clear()
    return run


def at(run: Settings, lr: float, momentum: float, threshold: float) -> Settings:
    """A setting of the search space.

    Cheaper than composing a config for each trial, as a script would do it.
    """
    optim = dataclasses.replace(
        run.optim, lr=lr, settings={**run.optim.settings, "momentum": momentum}
    )
    return dataclasses.replace(run, optim=optim, clip=run.clip.with_threshold(threshold))


HOOKS: dict[str, Any] = {
    "should_stop": lambda: False,
    "plan": lambda *_: None,
    "ask_intervention": lambda: None,
}


def run_optuna(seed: int, n_processes: int) -> None:
    """Plain Optuna on a journal file; the processes are forked when everything is loaded."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ready()
    run = base(seed)

    def objective(trial: Any) -> float:
        lr = trial.suggest_float("lr", 1e-3, 1, log=True)
        momentum = trial.suggest_float("momentum", 0, 0.95)
        threshold = trial.suggest_float("threshold", 0.1, 10, log=True)

        def report(step: int, **metrics: float) -> None:
            trial.report(metrics["loss"], step)
            if trial.should_prune():
                raise optuna.TrialPruned

        return train(at(run, lr, momentum, threshold), report=report, **HOOKS).final["val_loss"]

    def optimize(index: int) -> None:
        sampler = optuna.samplers.TPESampler(seed=seed + 100 * index)
        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=FIRST_RUNG, reduction_factor=REDUCTION
        )
        storage = optuna.storages.JournalStorage(JournalFileBackend("journal"))
        study = optuna.create_study(
            storage=storage, study_name="study", sampler=sampler, pruner=pruner, load_if_exists=True
        )
        study.optimize(objective, n_trials=N_TRIALS // n_processes)

    if n_processes == 1:
        optimize(0)
        return
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=optimize, args=(i,)) for i in range(n_processes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def run_ray(seed: int) -> None:
    """Ray Tune with ASHA and random search, two trials at a time in actors that are used again."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    ready()
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    run_ref = ray.put(base(seed))

    def trainable(config: dict[str, float]) -> None:
        torch.set_num_threads(1)

        def report(step: int, **metrics: float) -> None:
            tune.report({"step": step, **metrics})

        train(at(ray.get(run_ref), **config), report=report, **HOOKS)

    space = {
        "lr": tune.loguniform(1e-3, 1),
        "momentum": tune.uniform(0, 0.95),
        "threshold": tune.loguniform(0.1, 10),
    }
    halving = ASHAScheduler(
        time_attr="step", max_t=N_STEPS, grace_period=FIRST_RUNG, reduction_factor=REDUCTION
    )
    config = tune.TuneConfig(
        metric="loss",
        mode="min",
        num_samples=N_TRIALS,
        scheduler=halving,
        search_alg=BasicVariantGenerator(max_concurrent=2, random_state=seed),
        reuse_actors=True,
    )
    results = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=config,
        run_config=tune.RunConfig(storage_path=str(Path.cwd()), verbose=0),
    ).fit()
    rows = [result.metrics or {} for result in results]
    ended = [
        [row.get("val_loss") if row["step"] == N_STEPS else None, row["step"]]
        for row in rows
        if "step" in row
    ]
    Path("results.json").write_text(json.dumps(ended))


class Rounds:
    """A lane_server that gives trials only when all lanes have fallen empty.

    Lanes without refill.
    """

    def __init__(self, lane_server: Any) -> None:
        self._lane_server, self._n_left = lane_server, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lane_server, name)

    def take(self, wait_s: float | None = None) -> Any:
        """As `LaneServer.take`, which `run_lanes` asks without a limit when nothing is training."""
        if wait_s is None:  # a round begins
            self._n_left = self._lane_server.n_lanes - 1
            return self._lane_server.take(None)
        trial = self._lane_server.take(PATIENCE_S) if self._n_left else None
        self._n_left = 0 if trial is None else self._n_left - 1
        return trial


def run_in_rounds(lane_server: Any) -> None:
    """The lane runner of "no refill"."""
    from iolaus.trainer.lanes.serve import run_lanes

    run_lanes(Rounds(lane_server))


if __name__ == "__main__":
    contender, seed, *options = sys.argv[1:]
    if contender == "hydra":
        run_hydra([f"seed={seed}", *options])
    elif contender == "optuna":
        run_optuna(int(seed), int(options[0]))
    else:
        run_ray(int(seed))
