"""A trial as a Hydra job: its config, its folder, its log, its task function.

The same as Hydra's `run_job` (hydra/core/utils.py), for less: a branch of config groups is composed
once and kept as bytes, a trial's values are applied to a copy, and YAML is written by libyaml.
Measured on one core: 4 ms against 55.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import optuna
from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from iolaus.sweeps.checkpoints import copied, forget, newest
from iolaus.sweeps.hydra_compat import copy_without, set_hydra_config
from iolaus.sweeps.reporting import CHILD_CHECKPOINT_VARIABLE, CHILD_REPORTS_VARIABLE, Reporter
from iolaus.sweeps.run._job_files import ConfigFiles, output_to
from iolaus.sweeps.run._messages import Assignment
from iolaus.sweeps.run._outcomes import (
    ONLY_CHILDREN_REPORTED,
    infeasible,
    is_ruled_out,
    not_begun,
    outcome_of,
)
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.study.folder import OUTPUT_FILE
from iolaus.sweeps.types import Finding, Outcome

__all__ = [
    "CHILD_TRIAL_VARIABLE",
    "HydraRunner",
    "Lint",
    "changes_directory",
    "folder_of",
    "no_lint",
    "set_job",
]

# In a trial's folder while a child process of it has reported.
CHILD_REPORTS_FILE = ".child_reports"
# In the environment of a trial: its number and overrides, for a rank that is given the command line
# of the sweep (`_rank`).
CHILD_TRIAL_VARIABLE = "IOLAUS_CHILD_TRIAL"
# Looks at a composed config without its `hydra` node, and says what is wrong with it.
Lint = Callable[[DictConfig], Sequence[Finding]]


def no_lint(_: DictConfig) -> Sequence[Finding]:
    """Nothing to say against any config."""
    return ()


class HydraRunner:
    """Runs trials of a Hydra app in a worker process; see `_worker.OneAtATime`.

    lint: asked about each trial's config before the task is called; a trial it rules out costs no
    compute.
    """

    def __init__(
        self,
        context: HydraContext,
        task_function: TaskFunction,
        composer: Composer,
        lint: Lint = no_lint,
    ) -> None:
        self._context = context
        self._task_function = task_function
        self._composer = composer
        self._lint = lint
        self._files = ConfigFiles()

    def __call__(self, assignment: Assignment, reporter: Reporter) -> Outcome:
        """Run one trial; whatever the task does, the outcome says so in a sentence."""
        try:
            config, folder = self.place(assignment, reporter)
            with output_to(folder / OUTPUT_FILE):
                findings = self.findings(config)
                if is_ruled_out(findings):
                    return infeasible(findings)
                mark = folder / CHILD_REPORTS_FILE
                result = self._run(config, folder, _for_children(assignment, reporter, mark))
            if mark.exists():
                mark.unlink()
                findings += () if reporter.has_reported else (ONLY_CHILDREN_REPORTED,)
        except Exception as error:
            return not_begun(error)
        return replace(
            outcome_of(result, reporter.verdict if reporter.acknowledged else None),
            findings=findings,
        )

    def place(self, assignment: Assignment, reporter: Reporter) -> tuple[DictConfig, Path]:
        """A trial's whole config and its folder, in which it may find its checkpoint."""
        config = self._composer.compose(assignment.overrides)
        folder = set_job(config, assignment.trial)
        may_go_on = assignment.attempt and not assignment.is_anew
        checkpoint = newest(folder) if may_go_on else None
        if checkpoint is None or checkpoint.setting != assignment.overrides:
            # Of another sweep that had the folder, or of another setting: a driver that is killed
            # may not have written yet which it was.
            forget(folder)
            other = assignment.from_checkpoint
            checkpoint = copied(Path(other), folder, assignment.overrides) if other else None
        reporter.place(str(folder), checkpoint, assignment.overrides)
        return config, folder

    def findings(self, config: DictConfig) -> tuple[Finding, ...]:
        """What the lint says of a config."""
        return tuple(self._lint(copy_without(config, "hydra")))

    def begin(self, config: DictConfig, folder: Path) -> JobReturn:
        """A job with its configs on disk, before its task is called."""
        result = JobReturn()
        result.task_name = JobRuntime.instance().get("name")
        result.overrides = cast(list[str], OmegaConf.to_container(config.hydra.overrides.task))
        result.cfg = copy_without(config, "hydra")
        result.hydra_cfg = cast(DictConfig, HydraConfig.instance().cfg)
        result.working_dir = str(folder if changes_directory(config) else Path.cwd())
        if config.hydra.output_subdir is not None:
            self._files.write(result, folder / config.hydra.output_subdir)
        self._context.callbacks.on_job_start(config=config, task_function=self._task_function)
        return result

    def end(self, config: DictConfig, result: JobReturn) -> None:
        """A job is over."""
        self._context.callbacks.on_job_end(config=config, job_return=result)

    def _run(self, config: DictConfig, folder: Path, env: Mapping[str, str]) -> JobReturn:
        old_directory = Path.cwd()
        try:
            if changes_directory(config):
                os.chdir(folder)
            configure_log(config.hydra.job_logging, config.hydra.verbose)
            with env_override({**config.hydra.job.env_set, **env}):
                result = self.begin(config, folder)
                try:
                    result.return_value = self._task_function(result.cfg)
                    result.status = JobStatus.COMPLETED
                except BaseException as error:  # whatever it is, it ends this trial alone
                    if not isinstance(error, optuna.TrialPruned):
                        logging.getLogger(__name__).error("the task failed", exc_info=error)
                    result.return_value = error
                    result.status = JobStatus.FAILED
            self.end(config, result)
        finally:
            with suppress(OSError):  # the task has removed it
                os.chdir(old_directory)
            for handler in logging.getLogger().handlers:
                with suppress(OSError, ValueError):  # a disk that is full, a stream that is closed
                    handler.flush()
        return result


def _for_children(assignment: Assignment, reporter: Reporter, mark: Path) -> dict[str, str]:
    """What child processes of a trial are to know, by names of the environment."""
    checkpoint = reporter.goes_on_from
    trial = {"trial": assignment.trial, "overrides": list(assignment.overrides)}
    return {
        CHILD_REPORTS_VARIABLE: str(mark),
        CHILD_CHECKPOINT_VARIABLE: "" if checkpoint is None else str(checkpoint),
        CHILD_TRIAL_VARIABLE: json.dumps(trial),
    }


def changes_directory(config: DictConfig) -> bool:
    """Whether a job runs in its folder.

    Hydra's rule: apps that ask for the behaviour before 1.2 still do.
    """
    chdir = config.hydra.job.chdir
    return not version.base_at_least("1.2") if chdir is None else bool(chdir)


def folder_of(config: DictConfig, trial: int) -> Path:
    """The output folder of a composed config as this trial; nothing is made.

    `hydra.job.num` and `hydra.job.id` are set to the trial's number, and HydraConfig to the config:
    the folder's name may be written with `${hydra:...}`.
    """
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.id = str(trial)
        config.hydra.job.num = trial
    set_hydra_config(config)
    return Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir)).absolute()


def set_job(config: DictConfig, trial: int) -> Path:
    """Give a composed config its trial's number and output folder.

    Returns the folder, made if it was missing.
    """
    folder = folder_of(config, trial)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
