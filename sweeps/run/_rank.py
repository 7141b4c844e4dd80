"""A child process of a trial that runs the app's command line again, as one rank of its training.

So PyTorch Lightning starts the other ranks of `strategy=ddp`: with the arguments of the sweep.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import configure_log
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from iolaus.sweeps.child import RANK_VARIABLES
from iolaus.sweeps.hydra_compat import copy_without
from iolaus.sweeps.run._job import CHILD_TRIAL_VARIABLE, changes_directory
from iolaus.sweeps.run._prepared import set_job

__all__ = ["is_rank_of_trial", "run_rank"]


def is_rank_of_trial(environ: Mapping[str, str]) -> bool:
    """Whether this process is to be a rank of a running trial, not a sweep of its own."""
    return CHILD_TRIAL_VARIABLE in environ and any(name in environ for name in RANK_VARIABLES)


def run_rank(context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Any:
    """Call the task with the trial's config, in the trial's folder, and return what it returns.

    The sweep that the command line asks for is not begun. None if the trial was pruned: that is no
    failure of a rank.
    """
    trial: dict[str, Any] = json.loads(os.environ[CHILD_TRIAL_VARIABLE])
    overrides: Sequence[str] = trial["overrides"]
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    folder = set_job(composed, int(trial["trial"]))
    configure_log(composed.hydra.job_logging, composed.hydra.verbose)
    if changes_directory(composed):
        os.chdir(Path(folder))
    with suppress(optuna.TrialPruned):
        return task_function(copy_without(composed, "hydra"))
    return None
