"""A trial as a Hydra job: its config, its folder, its log, its task function.

The same as Hydra's `run_job` (hydra/core/utils.py), for less: what a branch of config groups has in
common is made once (`_prepared`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import optuna
from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from iolaus.sweeps.checkpoints import copied, forget, newest
from iolaus.sweeps.hydra_compat import may_keep_configs, whitelisted
from iolaus.sweeps.reporting import Reporter
from iolaus.sweeps.run._children import Children
from iolaus.sweeps.run._job_files import output_to
from iolaus.sweeps.run._job_log import JobLog
from iolaus.sweeps.run._messages import Assignment
from iolaus.sweeps.run._outcomes import (
    describe,
    infeasible,
    is_ruled_out,
    not_begun,
    outcome_of,
)
from iolaus.sweeps.run._prepared import Job, PreparedJobs
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.types import OUTPUT_FILE, Finding, Outcome

__all__ = [
    "CHILD_TRIAL_VARIABLE",
    "HydraRunner",
    "Lint",
    "changes_directory",
    "no_lint",
]

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
    compute. quits: exceptions that end more than the trial, and are let pass; where there are some,
    the task is in the foreground, and prints to the terminal. example: overrides of a trial such as
    are to come, for `load`.
    """

    def __init__(
        self,
        context: HydraContext,
        task_function: TaskFunction,
        composer: Composer,
        lint: Lint = no_lint,
        quits: tuple[type[BaseException], ...] = (),
        example: Sequence[str] = (),
    ) -> None:
        self._quits = quits
        self._example = example
        self._context = context
        self._task_function = task_function
        self._lint = lint
        self._log = JobLog()
        self._jobs = PreparedJobs(composer, keeps=not may_keep_configs(context))
        self._children: Children | None = None

    def __call__(self, assignment: Assignment, reporter: Reporter) -> Outcome:
        """Run one trial; whatever the task does, the outcome says so in a sentence."""
        try:
            job = self.place(assignment, reporter)
            with nullcontext() if self._quits else output_to(job.folder / OUTPUT_FILE):
                findings = self.findings(job)
                if is_ruled_out(findings):
                    return infeasible(findings)
                children = self._children_of_here()
                address = {} if children is None else children.begin(assignment.trial, reporter)
                try:
                    result = self._run(job, reporter, {**_for_children(assignment), **address})
                finally:
                    findings += () if children is None else children.end()
        except self._quits:
            raise
        except Exception as error:
            return not_begun(error)
        return replace(
            outcome_of(result, reporter.verdict if reporter.acknowledged else None),
            findings=findings,
        )

    def load(self) -> None:
        """Make what trials have in common, before workers are forked."""
        self._jobs.prepare(self._example)

    def _children_of_here(self) -> Children | None:
        """Where children of this process report; None where there are no such sockets."""
        if self._children is None:
            with suppress(OSError, AttributeError):
                self._children = Children()
        return self._children

    def place(self, assignment: Assignment, reporter: Reporter) -> Job:
        """A trial's job, in whose folder it may find its checkpoint."""
        job = self._jobs.job(assignment.trial, assignment.overrides)
        may_go_on = assignment.attempt and not assignment.is_anew
        checkpoint = newest(job.folder) if may_go_on else None
        if checkpoint is None or checkpoint.setting != assignment.overrides:
            # Of another sweep that had the folder, or of another setting: a driver that is killed
            # may not have written yet which it was.
            forget(job.folder)
            other = assignment.from_checkpoint
            checkpoint = copied(Path(other), job.folder, assignment.overrides) if other else None
        reporter.place(str(job.folder), checkpoint, assignment.overrides)
        return job

    def findings(self, job: Job) -> tuple[Finding, ...]:
        """What the lint says of a job's config."""
        return () if self._lint is no_lint else tuple(self._lint(job.config()))

    def begin(self, job: Job) -> JobReturn:
        """A job with its configs on disk, before its task is called."""
        config = job.whole
        result = JobReturn()
        result.task_name = JobRuntime.instance().get("name")
        result.overrides = job.overrides
        result.cfg = job.config()
        result.hydra_cfg = cast(DictConfig, HydraConfig.instance().cfg)
        result.working_dir = str(job.folder if changes_directory(config) else Path.cwd())
        if config.hydra.output_subdir is not None:
            place = job.folder / config.hydra.output_subdir
            place.mkdir(parents=True, exist_ok=True)
            for name, text in job.files().items():
                (place / name).write_text(text, encoding="utf-8")
        self._context.callbacks.on_job_start(config=config, task_function=self._task_function)
        return result

    def end(self, job: Job, result: JobReturn) -> None:
        """A job is over."""
        self._context.callbacks.on_job_end(config=job.whole, job_return=result)

    def _run(self, job: Job, reporter: Reporter, env: Mapping[str, str]) -> JobReturn:
        config, old_directory = job.whole, Path.cwd()
        try:
            if changes_directory(config):
                os.chdir(job.folder)
            self._log.configure(config)
            with env_override({**config.hydra.job.env_set, **env}):
                result = self.begin(job)
                try:
                    with whitelisted(self._context):
                        result.return_value = self._task_function(result.cfg)
                    result.status = JobStatus.COMPLETED
                except self._quits:
                    raise
                except BaseException as error:  # whatever it is, it ends this trial alone
                    log = logging.getLogger(__name__)
                    is_pruned = isinstance(error, optuna.TrialPruned)
                    if not is_pruned and reporter.acknowledged:  # torchrun, whose rank 0 has ended
                        log.info("the task ended, as it was to: %s", describe(error))
                    elif not is_pruned:
                        log.error("the task failed", exc_info=error)
                    result.return_value = error
                    result.status = JobStatus.FAILED
            self.end(job, result)
        finally:
            with suppress(OSError):  # the task has removed it
                os.chdir(old_directory)
            for handler in logging.getLogger().handlers:
                with suppress(OSError, ValueError):  # a disk that is full, a stream that is closed
                    handler.flush()
        return result


def _for_children(assignment: Assignment) -> dict[str, str]:
    """What a child process of a trial that is given the sweep's command line is to know."""
    trial = {"trial": assignment.trial, "overrides": list(assignment.overrides)}
    return {CHILD_TRIAL_VARIABLE: json.dumps(trial)}


def changes_directory(config: DictConfig) -> bool:
    """Whether a job runs in its folder.

    Hydra's rule: apps that ask for the behaviour before 1.2 still do.
    """
    chdir = config.hydra.job.chdir
    return not version.base_at_least("1.2") if chdir is None else bool(chdir)
