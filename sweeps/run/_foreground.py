"""`n_jobs=0`: trials run one after the other in the driver's own process, where a debugger works.

What a trial reports goes to the driver within the call of `iolaus.report`, and the answer is back
before the next one: nothing runs at the same time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from bdb import BdbQuit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import SupportsFloat, SupportsIndex

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig

from iolaus.sweeps.reporting import Reporter, reporting_to
from iolaus.sweeps.run._messages import (
    Assignment,
    Finished,
    FromWorker,
    Offered,
    Quit,
    Ready,
    Reported,
    Stopped,
    ToWorker,
    WorkerSpec,
)
from iolaus.sweeps.run._signals import handled
from iolaus.sweeps.run.settings import Settings
from iolaus.sweeps.types import Outcome

__all__ = ["QUITS", "Foreground", "QuitTrial", "in_foreground"]


class QuitTrial(BaseException):
    """The driver has ended the trial that runs; raised in it, at its next report."""


# What ends not the trial alone: Ctrl-C, `q` in pdb, the driver.
QUITS = (KeyboardInterrupt, BdbQuit, QuitTrial)


def in_foreground(settings: Settings) -> Settings:
    """The settings of a sweep whose trials run in its own process.

    No lanes, and no time limits: they would run on while someone looks around in a debugger.
    """
    return replace(
        settings,
        lanes=1,
        trial_timeout=None,
        stall_timeout=None,
        start_timeout=None,
        checkpoint_grace=None,
    )


class Foreground:
    """The one worker of a sweep that has no other process; used as `_workers.Workers` is.

    run: a trial, which lets QUITS pass. hear: to be set to the driver's, before anything runs.
    """

    def __init__(
        self,
        run: Callable[[Assignment, Reporter], Outcome],
        watched: str,
        specs: Sequence[WorkerSpec],
        config: DictConfig,
    ) -> None:
        self.specs = specs
        self.started_how = "trials run in this process, one after the other (n_jobs=0)"
        self.hear: Callable[[int, FromWorker], None] = lambda *_: None
        self._run, self._watched, self._config = run, watched, config
        self._lock = threading.RLock()  # the driver is spoken to by one thread at a time
        self._is_up = self._is_killed = False
        self._assignment: Assignment | None = None
        self._reporter: Reporter | None = None
        self._error: Exception | None = None

    def start(self, _: int) -> None:
        """From here on the worker is Ready."""
        self._is_up = True

    def send(self, _: int, message: ToWorker) -> None:
        """Take a trial to run, or what the driver says of the one that runs."""
        match message:
            case Assignment():
                self._assignment = message
            case Stopped(_, verdict, is_pause) if self._reporter is not None:
                self._reporter.stop(verdict, is_pause)
            case Offered(_, intervention, is_pause) if self._reporter is not None:
                self._reporter.offer(intervention, is_pause)

    def listen(self, timeout_s: float) -> Iterator[tuple[int, FromWorker]]:
        """Run the trial that was sent, to its end; without one, wait."""
        slot = self.specs[0].slot
        if self._is_up:
            self._is_up = False
            yield slot, Ready()
        elif self._assignment is None or self._reporter is not None:
            time.sleep(timeout_s)
        else:
            assignment, self._assignment = self._assignment, None
            yield from ((slot, message) for message in self._messages(assignment))

    def release(self, _: int) -> None:
        """Nothing: there is no process to let go."""

    def kill(self, _: int) -> None:
        """End the trial that runs, at its next report."""
        self._is_killed, self._assignment = True, None

    def close(self) -> None:
        """Nothing: there is no process to end."""

    def pid(self, _: int) -> int:
        """The process of the sweep itself."""
        return os.getpid()

    def is_forked(self, _: int) -> bool:
        """Whether the trials have a copy of the driver to themselves."""
        return False

    def give_up_forking(self, _: int) -> str:
        """Nothing; in the words for a worker that is late, which this one cannot be."""
        return "it is the sweep's own process"

    def _messages(self, assignment: Assignment) -> list[FromWorker]:
        """Run a trial; how it ended, in a message, or none where the driver has ended it."""
        trial = assignment.trial
        reporter = _Reporter(self._watched, time.monotonic, lambda: self._pass_on(trial))
        self._reporter, self._is_killed = reporter, False
        try:
            with _hydra_as_before(self._config), reporting_to(reporter), _interruptible():
                outcome = self._run(assignment, reporter)
                self._pass_on(trial)
        except QuitTrial:
            return []
        except (KeyboardInterrupt, BdbQuit) as error:
            return [Quit(error.args[0] if error.args else signal.SIGINT)]
        finally:
            self._reporter = None
            if self._error is not None:
                raise self._error
        return [Finished(trial, outcome)]

    def _pass_on(self, trial: int) -> None:
        """Have the driver hear what is new; what is wrong with it is not the task's to catch."""
        with self._lock:
            if self._reporter is not None and (batch := self._reporter.take()) is not None:
                try:
                    self.hear(self.specs[0].slot, Reported(trial, batch))
                except Exception as error:
                    self._error, self._is_killed = error, True
        if self._is_killed:
            raise QuitTrial


class _Reporter(Reporter):
    """Passes on each report at once."""

    def report(
        self,
        step: SupportsIndex,
        metrics: Mapping[str, SupportsFloat],
        checkpoint: str | Path | None = None,
    ) -> None:
        try:
            super().report(step, metrics, checkpoint)
        finally:
            if os.getpid() == self._pid:
                self._placed()


@contextmanager
def _hydra_as_before(config: DictConfig) -> Iterator[None]:
    """After a trial, Hydra's config and the log are the sweep's again, as after Hydra's jobs."""
    before = HydraConfig.instance().cfg
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)


@contextmanager
def _interruptible() -> Iterator[None]:
    """What ends a process ends the task, in the middle of whatever it does."""

    def end(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number))

    with handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), end):
        yield
