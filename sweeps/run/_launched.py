"""The process from which a launcher starts drivers: it waits for them, and shows how all stand."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from types import FrameType

import optuna
from rich.console import Console
from rich.status import Status as RichStatus

from iolaus.sweeps.errors import SweepFailedError, SweepStoppedError
from iolaus.sweeps.run._conclusion import conclude, is_spent, show_reached, show_spent
from iolaus.sweeps.run._engines import DriverCommand, Job, start_drivers
from iolaus.sweeps.run._launcher import Launch
from iolaus.sweeps.run._provenance import shareable
from iolaus.sweeps.run._session import join_study, opened_storage
from iolaus.sweeps.run._setup import Setup
from iolaus.sweeps.run._signals import handled
from iolaus.sweeps.run.driver import ENDING_SIGNALS
from iolaus.sweeps.run.loggers import logged
from iolaus.sweeps.secrets import without_password
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.folder import STORAGE_VARIABLE, STUDY_FILE, locked
from iolaus.sweeps.study.status import Status, status
from iolaus.sweeps.study.stopping import request_stop
from iolaus.sweeps.text import counted, quoted

__all__ = ["run_launched", "stands"]

log = logging.getLogger("sweeps")

LOOK_S = 1.0
# From one line to the next, where lines are not drawn over each other.
LINE_S = 10.0
# How often drivers are asked to stop, and when those that still have not are ended by the engine.
ASK_AGAIN_S = 5.0
GIVE_UP_S = 15.0


def run_launched(setup: Setup, launch: Launch, console: Console) -> None:
    """Have drivers started, wait for their end, and show the sweep's summary.

    Ctrl-C, and signals, are passed on through the study. Raises SweepFailedError where a driver
    has failed and trials are left, SweepStoppedError if a signal has left some.
    """
    with locked(setup.folder, setup.held_for), opened_storage(setup) as storage:
        joined = join_study(setup, storage)
        if joined.n_to_ask == 0 and not joined.of_others() and not joined.paused:
            show_reached(console, joined, setup)
            return
        if is_spent(joined, setup):
            show_spent(console, joined, setup)
            return
        name = joined.study.study_name
    began_s = time.monotonic()
    with logged(setup.settings.log_to, setup.folder) as start_logging:
        jobs = start_drivers(launch, _drivers(setup, launch.n_nodes), _secrets(setup))
        names = ", ".join(job.name for job in jobs)
        log.info("%s by %s: %s", counted(len(jobs), "driver"), launch.engine, names)
        url = _url(setup)
        # No process may look into a file of SQLite that another machine writes.
        looks = url is not None and (launch.is_here or not url.startswith("sqlite"))
        study = _study(str(url), name) if looks else None
        n_runs = setup.plans.n_runs
        stopped_by = _Wait(jobs, study, n_runs, console, start_logging).until_over()
        ended = {job.name: job.ended() for job in jobs}
    with locked(setup.folder, setup.held_for), opened_storage(setup) as storage:
        joined = join_study(setup, storage)
        conclude(console, joined, setup, time.monotonic() - began_s)
        n_left = joined.n_to_ask
    failed = [f"{name} {one.why}" for name, one in ended.items() if one.has_failed]
    for failure in failed:
        log.error("%s", failure)
    stops = [one.stopped_by for one in ended.values() if one.stopped_by is not None]
    if n_left > 0 and (stopped_by is not None or stops):
        raise SweepStoppedError(stopped_by or stops[0], n_left)
    if n_left > 0 and failed:
        raise SweepFailedError(f"{counted(n_left, 'trial')} are left; {failed[0]}")


def _drivers(setup: Setup, n_nodes: int) -> list[DriverCommand]:
    """The same command for each, in the same folder wherever it runs."""
    key = "hydra.sweep.dir"  # it may be named after the time
    kept = [a for a in shareable(sys.orig_argv[1:]) if a.partition("=")[0] != key]
    command = [sys.executable, *kept, f"{key}={quoted(str(setup.folder))}"]
    logs = (setup.folder / f"driver-{number}.log" for number in range(n_nodes))
    return [DriverCommand(command, Path(setup.config.hydra.runtime.cwd), log) for log in logs]


def _secrets(setup: Setup) -> dict[str, str]:
    """What the command leaves out, see `shareable`: a storage's URL that has a password."""
    url = setup.settings.storage
    if not isinstance(url, str) or url == without_password(url):
        return {}
    return {STORAGE_VARIABLE: url}


def _url(setup: Setup) -> str | None:
    """Where the study is; None where that is no URL, but an object of the user's."""
    storage = setup.settings.storage
    if storage is None:
        return sqlite_url(setup.folder / STUDY_FILE)
    return storage if isinstance(storage, str) else None


def _study(url: str, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=open_backend(url, only_reads=True))


class _Wait:
    """Waits for the end of jobs, shows how their study stands, and passes signals on.

    study: None where it cannot be looked at while they run. n_total: trials wanted. on_begun:
    called when there is a trial.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        study: optuna.Study | None,
        n_total: int,
        console: Console,
        on_begun: Callable[[], None],
    ) -> None:
        self._jobs, self._study, self._n_total = jobs, study, n_total
        self._console, self._on_begun = console, on_begun
        self._signals: list[int] = []  # that have come
        self._has_begun = False
        self._n_running = 0  # trials
        self._asked_s = self._idle_since_s = self._shown_s = -math.inf
        self._cancelled_s = math.inf
        self._shown = ""

    def until_over(self) -> int | None:
        """Returns the number of the last signal that has come, if one has."""
        live = self._console.status("") if self._console.is_terminal else nullcontext()
        with _collected(self._signals), live as line:
            while not self._is_over():
                began_s = time.monotonic()
                self._look(line)
                if self._signals:
                    self._stop()
                # A study of many trials is not looked at all the time.
                time.sleep(max(LOOK_S, 10 * (time.monotonic() - began_s)))
        return self._signals[-1] if self._signals else None

    def _is_over(self) -> bool:
        has_given_up = time.monotonic() - self._cancelled_s >= GIVE_UP_S
        return has_given_up or all(job.is_over() for job in self._jobs)

    def _look(self, line: RichStatus | None) -> None:
        if self._study is None:
            return
        try:
            found = status(self._study, {}, datetime.now())
        except optuna.exceptions.StorageInternalError as error:  # it may come back
            log.debug("no look at the study: %s", error)
            return
        self._n_running = found.n_by_state.get("running", 0)
        if found.n_by_state and not self._has_begun:
            self._has_begun = True
            self._on_begun()
        text = stands(found, self._n_total, sum(not job.is_over() for job in self._jobs))
        now_s = time.monotonic()
        if line is not None:
            line.update(text)
        elif text != self._shown and now_s - self._shown_s >= LINE_S:
            self._shown, self._shown_s = text, now_s
            self._console.out(text, highlight=False)

    def _stop(self) -> None:
        """Have all drivers stop. Asked again and again: one may begin meanwhile."""
        now_s = time.monotonic()
        is_first = self._signals == [signal.SIGINT]
        if self._study is not None and now_s - self._asked_s >= ASK_AGAIN_S:
            if self._asked_s == -math.inf:
                self._console.print("no new trials: every driver is asked to stop")
            self._asked_s = now_s
            request_stop(self._study, "finish" if is_first else "now")
        if self._n_running or self._idle_since_s == -math.inf:
            self._idle_since_s = now_s
        # Who has nothing to do any more is at its end; others wait in a queue.
        is_idle = self._study is None or now_s - self._idle_since_s >= GIVE_UP_S
        if is_idle and self._cancelled_s == math.inf:
            self._cancelled_s = now_s
            for job in self._jobs:
                if not job.is_over():
                    job.cancel()


def stands(found: Status, n_total: int, n_drivers: int) -> str:
    """How the study of several drivers stands, in a line.

    >>> stands(Status({"complete": 3, "pruned": 1, "running": 4}, 0.25, 2, 4, ()), 12, 2)
    '4/12 trials · 4 running, 2 drivers · 1 pruned · best 0.25 (trial 2)'
    """
    n = found.n_by_state
    n_done = sum(n.get(state, 0) for state in ("complete", "pruned", "paused", "fail"))
    running = f"{n.get('running', 0)} running, {counted(n_drivers, 'driver')}"
    names = {"paused": "paused", "pruned": "pruned", "fail": "failed"}
    others = [f"{n[state]} {name}" for state, name in names.items() if n.get(state)]
    parts = [f"{n_done}/{n_total} trials", running, *others, found.best_text()]
    return " · ".join(filter(None, parts))


@contextmanager
def _collected(signals: list[int]) -> Iterator[None]:
    """Signals that end a sweep are appended as they come, and do nothing else."""

    def collect(number: int, _: FrameType | None) -> None:
        signals.append(number)

    with handled((signal.SIGINT, *ENDING_SIGNALS), collect):
        yield
