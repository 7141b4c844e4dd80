"""The lane protocol: a worker that trains many trials in one process, by a given function.

`hydra.sweeper.lane_runner` names a function that is called with a `LaneServer` in each worker. It
takes trials from it as long as it has room, trains them side by side, and finishes
each when it is over; a trial it cannot take, it hands back to be run alone. Reports, verdicts and
interventions go through each trial's own reporter, as in a worker of its own.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from iolaus.sweeps.hydra_compat import resolver
from iolaus.sweeps.reporting import Reporter, reporting_to
from iolaus.sweeps.run._channel import Channel
from iolaus.sweeps.run._job import HydraRunner
from iolaus.sweeps.run._job_files import output_to
from iolaus.sweeps.run._messages import Assignment, Filled, Held
from iolaus.sweeps.run._outcomes import infeasible, is_ruled_out, not_begun, outcome_of
from iolaus.sweeps.run._prepared import Job
from iolaus.sweeps.types import OUTPUT_FILE, Ending, Finding

__all__ = ["InLanes", "LaneRunner", "LaneServer", "LaneTrial"]


@dataclass(frozen=True, slots=True)
class LaneTrial:
    """A trial to be trained in a lane. config: the task's, without the `hydra` node.

    folder: for its files.
    """

    number: int
    config: DictConfig
    folder: Path
    reporter: Reporter
    tell: Callable[[str], None]
    _assignment: Assignment
    _job: Job
    _return: JobReturn
    _findings: tuple[Finding, ...]


class LaneServer:
    """Where a lane runner gets its trials and hands in what became of them.

    n_lanes: what the user asked for, None for as many as pay. most: beyond this, more lanes would
    leave the sampler nothing to learn from; it bounds only what is measured, not what is asked for.
    """

    def __init__(
        self, channel: Channel, runner: HydraRunner, n_lanes: int | None, most: int, output: Path
    ) -> None:
        self.n_lanes = n_lanes
        self.most = most
        self._channel = channel
        self._runner = runner
        self._output = output
        self._logs = _JobLogs()
        self._n_open = 0

    def open(self, n_lanes: int) -> None:
        """Ask for so many trials at a time; may be called again."""
        if n_lanes != self._n_open:
            self._n_open = n_lanes
            self._channel.open(n_lanes)

    def say(self, text: str) -> None:
        """A line for the user's terminal."""
        self._channel.say(text)

    def fill(self, n_full: int, n_all: int) -> None:
        """Pass on how many lane-steps have been made, and how many of them trained a trial."""
        self._channel.send(Filled(n_full, n_all))

    def flush(self) -> None:
        """Send what has been reported to the driver, so that it can answer."""
        self._channel.flush()

    def take(self, wait_s: float | None = None) -> LaneTrial | None:
        """The next trial; None if none comes in time (None: wait for ever).

        One that cannot begin is finished here.
        """
        while (taken := self._channel.take(wait_s)) is not None:
            assignment, reporter = taken
            if assignment.alone:  # lanes beside it took the memory that it needs
                self._run(assignment, reporter)
                continue
            try:
                job = self._runner.place(assignment, reporter)
                findings = self._runner.findings(job)
                if is_ruled_out(findings):
                    self._channel.finish(assignment.trial, infeasible(findings))
                    continue
                begun = self._runner.begin(job)
            except Exception as error:
                self._channel.finish(assignment.trial, not_begun(error))
                continue
            return LaneTrial(
                assignment.trial,
                cast(DictConfig, begun.cfg),
                job.folder,
                reporter,
                self._logs.teller(job),
                assignment,
                job,
                begun,
                findings,
            )
        return None

    def finish(self, trial: LaneTrial, returned: Any) -> None:
        """A trial is over.

        returned: what the task function would return, or the exception it would raise.
        """
        job = trial._return
        job.return_value = returned
        job.status = (
            JobStatus.FAILED if isinstance(returned, BaseException) else JobStatus.COMPLETED
        )
        outcome = outcome_of(job, trial.reporter.verdict if trial.reporter.acknowledged else None)
        if outcome.ending is Ending.FAILED:
            with suppress(OSError):
                (trial.folder / OUTPUT_FILE).write_text(_traceback(returned), encoding="utf-8")
        self._runner.end(trial._job, job)
        self._channel.finish(trial.number, replace(outcome, findings=trial._findings))

    def hold(self, trial: LaneTrial) -> None:
        """Say that a trial waits to run alone, so that no timeout counts for it."""
        self._channel.send(Held(trial.number, True))

    def run_alone(self, trial: LaneTrial) -> None:
        """Run a trial as if there were no lanes; returns when it is over."""
        self._channel.send(Held(trial.number, False))
        self._run(trial._assignment, trial.reporter)

    def _run(self, assignment: Assignment, reporter: Reporter) -> None:
        with reporting_to(reporter):
            outcome = self._runner(assignment, reporter)
        with output_to(self._output):
            pass  # what is printed from here on is no longer the trial's
        self._channel.finish(assignment.trial, outcome)


LaneRunner = Callable[[LaneServer], None]


@dataclass(frozen=True, slots=True)
class InLanes:
    """A worker's server that has `lane_runner` run its trials.

    What the process prints goes to lanes-SLOT.log in `sweep_dir`.
    """

    runner: HydraRunner
    lane_runner: LaneRunner
    n_lanes: int | None
    most: int
    sweep_dir: Path

    def load(self) -> None:
        """Make what trials have in common, and import what the lane runner uses.

        The latter by its function attribute `load`, where it has one. Called once, before workers
        are forked, while the driver opens its study.
        """
        self.runner.load()
        getattr(self.lane_runner, "load", lambda: None)()

    def __call__(self, channel: Channel) -> None:
        """Serve until the lane runner returns."""
        output = self.sweep_dir / f"lanes-{channel.spec.slot}.log"
        with output_to(output):
            self.lane_runner(LaneServer(channel, self.runner, self.n_lanes, self.most, output))


class _JobLogs:
    """Writes lines to jobs' logs, in their format.

    Not by loggers, which belong to the process that jobs share. What the logs of jobs with one
    config have in common is looked up once.
    """

    def __init__(self) -> None:
        self._config: DictConfig | None = None
        self._path: Callable[[], Any] | None = None
        self._form = logging.Formatter()

    def teller(self, job: Job) -> Callable[[str], None]:
        """What writes to a job's log; its config is as it has just been placed."""
        if job.whole is not self._config:
            self._look(job.whole)
        if self._path is None:
            return lambda _: None
        path, form = job.folder / str(self._path()), self._form

        def tell(text: str) -> None:
            record = logging.LogRecord("lanes", logging.INFO, "", 0, text, None, None)
            with path.open("a", encoding="utf-8") as file:
                file.write(form.format(record) + "\n")

        return tell

    def _look(self, config: DictConfig) -> None:
        settings = config.hydra.job_logging
        plain = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
        named = (plain.get("handlers") or {}).items()
        files = [(name, handler) for name, handler in named if handler.get("filename")]
        self._path = None
        if files:
            name, handler = files[0]
            formatter = (plain.get("formatters") or {}).get(handler.get("formatter"), {})
            self._path = resolver(settings.handlers[name], "filename")
            self._form = logging.Formatter(formatter.get("format"), formatter.get("datefmt"))
        as_written = cast(dict[str, Any], OmegaConf.to_container(settings)).get("formatters")
        is_shared = "${" not in str(as_written)  # else a format may be each job's own
        self._config = config if is_shared else None


def _traceback(error: Any) -> str:
    return (
        "".join(traceback.format_exception(error))
        if isinstance(error, BaseException)
        else f"{error!r}\n"
    )
