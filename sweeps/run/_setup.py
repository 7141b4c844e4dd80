"""Everything a sweep needs, made from its config and checked before anything runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from iolaus.sweeps.checkpoints import parse_bytes
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.metric import Metric, choose_metric
from iolaus.sweeps.run import _provenance as provenance
from iolaus.sweeps.run._factories import (
    as_given,
    function_named,
    make_plans,
    make_pruner,
    make_sampler,
    seed_of,
)
from iolaus.sweeps.run._foreground import QUITS, in_foreground
from iolaus.sweeps.run._job import HydraRunner, changes_directory, no_lint
from iolaus.sweeps.run._launcher import Launch, launch_of
from iolaus.sweeps.run._messages import WorkerSpec
from iolaus.sweeps.run._objective import Objective
from iolaus.sweeps.run._reports import Report, find_report
from iolaus.sweeps.run._slots import physical_cores, plan_slots
from iolaus.sweeps.run._worker import OneAtATime, Server
from iolaus.sweeps.run.devices import Device, list_devices, visible_devices
from iolaus.sweeps.run.driver import Rules
from iolaus.sweeps.run.folders import refuse_shared_folders
from iolaus.sweeps.run.lanes import InLanes
from iolaus.sweeps.run.settings import Settings
from iolaus.sweeps.search.branches import searched
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.search.fixed import fixed_settings
from iolaus.sweeps.secrets import without_password
from iolaus.sweeps.study.backend import in_memory
from iolaus.sweeps.study.fingerprint import Fingerprint
from iolaus.sweeps.study.folder import DRIVER_VARIABLE
from iolaus.sweeps.study.sweep_study import Plans, Proposal

__all__ = ["Setup", "set_up"]

log = logging.getLogger("sweeps")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a sweep is made of.

    config: the app's, `hydra` node included. launch: of the drivers, None where this process is the
    one. runner: of one trial. serve: what a worker does. gpus: those that the slots share.
    fingerprint: what the results depend on beside the search.
    """

    settings: Settings
    config: DictConfig
    launch: Launch | None
    folder: Path
    sampler: optuna.samplers.BaseSampler
    pruner: optuna.pruners.BasePruner
    plans: Plans
    rules: Rules
    slots: Sequence[WorkerSpec]
    gpus: Sequence[Device]
    runner: HydraRunner
    serve: Server
    report: Report | None
    fingerprint: Fingerprint

    @property
    def is_shared(self) -> bool:
        """Whether other drivers may have the study: it is not in this sweep's own folder."""
        storage = self.settings.storage
        return storage is not None and not (isinstance(storage, str) and in_memory(storage))

    @property
    def held_for(self) -> str:
        """The study for which drivers hold the sweep's folder together; "" for this one alone."""
        storage, name = self.settings.storage, self.settings.study_name
        if not self.is_shared or name is None or not isinstance(storage, str):
            return ""  # without a name each start makes a study
        return f"{name} in {without_password(storage)}"


def set_up(
    settings: Settings,
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    arguments: Sequence[str],
) -> Setup:
    """A sweep's parts; nothing has been written or started.

    arguments: the overrides of the command line. Raises BadInputError for what cannot be run.
    """
    is_foreground = settings.n_jobs == 0
    settings = in_foreground(settings) if is_foreground else settings
    settings = replace(settings, sampler=as_given(settings.sampler, config.hydra))
    composer = Composer(context.config_loader, config)
    space = searched(config.hydra.sweeper, arguments, composer)
    gpus = visible_devices(os.environ, list_devices)
    _refuse_unmeasured(settings, gpus)
    launch = None
    if DRIVER_VARIABLE in os.environ:  # another process waits for this one, and writes the report
        settings = replace(settings, report=None, log_to=())
    else:
        launch = launch_of(config.hydra.launcher, settings)
    slots = plan_slots(
        *(settings.n_jobs, gpus, physical_cores()),
        *(settings.trials_per_gpu, settings.slot_bytes),
    )
    sampler = make_sampler(settings.sampler, space)
    n_directions, seed = len(settings.directions), seed_of(settings.sampler)
    pruner = make_pruner(settings.pruner, n_directions, settings.holdout_fraction, seed)
    plans = make_plans(settings, space, config)
    metric = _metric(settings)
    objective = Objective(settings.objective, metric, tuple(settings.directions))
    rules = Rules(
        *(space, settings.seed_key, objective, settings.max_failure_rate),
        *(settings.timeouts, settings.limit),
        paused_bytes=parse_bytes(settings.paused_limit),
        keep_checkpoints=settings.keep_checkpoints,
    )
    _refuse_budget_of_none(settings, gpus)
    refuse_shared_folders(config, rules, plans, composer)
    lint = function_named("lint", settings.lint) if settings.lint else no_lint
    quits = QUITS if is_foreground else ()
    first_seed = plans.first_seed if plans.gives_seeds else None
    example = rules.assignment(Proposal(0, space.example({}), first_seed)).overrides
    runner = HydraRunner(context, task_function, composer, lint, quits, example)
    folder = Path(config.hydra.sweep.dir).absolute()
    serve = _server(settings, config, runner, folder, _most_lanes(plans.n_trials, len(slots)))
    report = find_report(settings.report)
    folders = {"SWEEP": folder, "": Path(config.hydra.runtime.cwd)}
    fingerprint = provenance.fingerprint(fixed_settings(space, composer, folders), sys.modules)
    return Setup(
        *(settings, config, launch, folder, sampler, pruner, plans, rules, slots, gpus, runner),
        *(serve, report, fingerprint),
    )


def _refuse_unmeasured(settings: Settings, gpus: Sequence[Device]) -> None:
    if settings.trials_per_gpu != 1 and not gpus:
        log.warning(
            "hydra.sweeper.trials_per_gpu=%s is not used: no GPU is visible here",
            settings.trials_per_gpu,
        )
    unknown = [gpu.name for gpu in gpus if gpu.total_bytes is None]
    if settings.trials_per_gpu == "auto" and unknown:
        raise BadInputError(
            f"hydra.sweeper.trials_per_gpu=auto: the memory of GPU {', '.join(unknown)} is not "
            "known: pip install nvidia-ml-py, or give a number"
        )


def _refuse_budget_of_none(settings: Settings, gpus: Sequence[Device]) -> None:
    if settings.limit is not None and settings.limit.resource == "gpu" and not gpus:
        raise BadInputError(
            f"hydra.sweeper.budget={settings.budget}: no GPU is visible here, so none of it would "
            "ever be spent; give a wall time such as 2h, or core time such as '30 core-min'"
        )


def _metric(settings: Settings) -> Metric:
    asked, goal = settings.metric, settings.metric_goal
    metric, note = choose_metric(asked, goal, settings.directions, settings.objective)
    if note:
        log.info("%s", note)
    return metric


def _server(
    settings: Settings, config: DictConfig, runner: HydraRunner, folder: Path, most_lanes: int
) -> Server:
    if settings.lanes == 1 or not settings.lane_runner:
        return OneAtATime(runner)
    lane_runner = function_named("lane_runner", settings.lane_runner)
    _refuse_job_settings(config)
    n_lanes = None if settings.lanes == "auto" else int(settings.lanes)
    return InLanes(runner, lane_runner, n_lanes, most_lanes, folder)


def _most_lanes(n_trials: int, n_slots: int) -> int:
    """How many lanes each slot may open by itself.

    No more than half of the trials run at the same time. Settings that run together were proposed
    without knowing of each other's results, and a lane pays by being refilled.
    """
    return max(1, n_trials // (2 * n_slots))


def _refuse_job_settings(config: DictConfig) -> None:
    """Raise BadInputError for what a job can have only in a process of its own."""
    if changes_directory(config):
        raise BadInputError(
            "hydra.job.chdir=true and lanes do not go together: lanes share one working directory"
        )
    if config.hydra.job.env_set:
        raise BadInputError(
            "hydra.job.env_set and lanes do not go together: lanes share one environment"
        )
