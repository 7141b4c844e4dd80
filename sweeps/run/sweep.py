"""A sweep from a Hydra app's command line to its summary: read it top to bottom."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from optuna.trial import TrialState
from rich.console import Console

from iolaus.sweeps.errors import StorageError, SweepFailedError, SweepStoppedError
from iolaus.sweeps.pruners.compose import parts
from iolaus.sweeps.run._conclusion import (
    conclude,
    is_spent,
    make_console,
    show_reached,
    show_spent,
)
from iolaus.sweeps.run._foreground import Foreground
from iolaus.sweeps.run._fork_server import ForkServer
from iolaus.sweeps.run._launched import run_launched
from iolaus.sweeps.run._new_study import beside
from iolaus.sweeps.run._progress import Progress
from iolaus.sweeps.run._returns import job_returns
from iolaus.sweeps.run._session import begin_session, join_study, opened_storage
from iolaus.sweeps.run._setup import Setup, set_up
from iolaus.sweeps.run._spawn import GUARD, is_importing_app
from iolaus.sweeps.run._workers import Workers
from iolaus.sweeps.run.devices import DeviceReader
from iolaus.sweeps.run.driver import Driver
from iolaus.sweeps.run.loggers import find_loggers, logged
from iolaus.sweeps.run.meter import machine_of
from iolaus.sweeps.run.placement import Placement
from iolaus.sweeps.run.settings import Settings
from iolaus.sweeps.secrets import without_password
from iolaus.sweeps.study.folder import locked, short
from iolaus.sweeps.study.preview import expected_share, paces_of, share_made
from iolaus.sweeps.study.record import n_over
from iolaus.sweeps.study.sweep_study import SweepStudy
from iolaus.sweeps.text import counted

__all__ = ["run_sweep"]

log = logging.getLogger("sweeps")


def run_sweep(
    settings: Settings,
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    arguments: list[str],
) -> list[list[JobReturn]]:
    """Run a sweep, show its summary, and return its trials in order, in rows of one per slot.

    config: the app's composed config, `hydra` node included. arguments: the overrides of the
    command line. Raises BadInputError before anything runs, SweepFailedError or StorageError after
    saving what there is, SweepStoppedError at the very end, if a signal has left trials unrun.
    """
    if is_importing_app():
        raise SweepFailedError(
            f"a worker that was spawned imports the app, which then starts its sweep again: {GUARD}"
        )
    find_loggers(settings.log_to, "hydra.sweeper.log_to=")
    setup = set_up(settings, context, task_function, config, arguments)
    console = make_console(is_shared=settings.n_jobs == 0)
    if settings.on_change == "new_study" and (other := beside(setup)) is not None:
        setup = set_up(other[0], context, task_function, other[1], arguments)
    if setup.launch is not None:
        run_launched(setup, setup.launch, console)
        return []
    with (
        logged(setup.settings.log_to, setup.folder) as start_logging,  # which ends after the lock
        locked(setup.folder, setup.held_for) as lock,
        _workers(setup, lock) as workers,
        opened_storage(setup) as storage,
    ):
        study = join_study(setup, storage)
        if study.n_to_ask == 0 and not study.of_others() and not study.paused:
            show_reached(console, study, setup)
            return []
        if is_spent(study, setup):
            show_spent(console, study, setup)
            return []
        start_logging()
        records, progress = begin_session(setup, study), _progress(console, setup, study)
        names = {spec.slot: spec.device for spec in setup.slots}
        placement = Placement(names, setup.gpus, settings.trials_per_gpu)
        devices = DeviceReader(setup.gpus)
        driver = Driver(
            *(study, workers, setup.rules, records, progress, time.monotonic),
            placement=placement,
            device_uses=devices.read,
        )
        if isinstance(workers, Foreground):
            workers.hear = driver.hear
        _log_begin(setup, study)
        if workers.started_how:
            log.info("%s", workers.started_how)
        started_s = time.monotonic()
        with closing(devices), progress.showing():
            failure = driver.run()
        elapsed_s = time.monotonic() - started_s
        try:
            storage.flush()
        except StorageError as error:  # memory has all that is needed to say where the sweep stands
            failure = failure or str(error)
        _log_lanes(driver)
        conclude(console, study, setup, elapsed_s, progress.announced)
        if failure is not None:
            raise SweepFailedError(failure)
        if driver.stopped_by is not None and study.n_to_ask > 0:
            raise SweepStoppedError(driver.stopped_by, study.n_to_ask)
        return job_returns(driver.trials, config, len(setup.slots))


@contextmanager
def _workers(setup: Setup, lock: int) -> Iterator[Workers | Foreground]:
    """Who runs the trials; lock: a descriptor that the driver keeps to itself."""
    settings = setup.settings
    if settings.n_jobs == 0:
        yield Foreground(setup.runner, settings.metric, setup.slots, setup.config)
        return
    with ForkServer(setup.serve, settings.metric, (lock,), settings.start_method) as fork_server:
        yield Workers(fork_server, setup.slots)


def _progress(console: Console, setup: Setup, study: SweepStudy) -> Progress:
    n_planned, n_to_ask = setup.plans.n_runs, study.n_to_ask
    n_judged, pruner = setup.plans.n_judged, study.study.pruner
    machine = machine_of(setup.slots, setup.settings.lanes, setup.settings.trials_per_gpu)
    paused = {trial.number: share_made(trial) for trial in study.paused}
    known = study.study.get_trials(deepcopy=False)
    n_before = n_over(known)
    return Progress(
        console,
        # More may be queued than n_trials asks for.
        n_total=max(n_planned, n_before + len(paused) + n_to_ask),
        n_before=n_before,
        paused=paused,
        n_slots=min(len(setup.slots), machine.n_places),
        sign=study.objective_sign,
        metric=setup.settings.metric,
        clock=time.monotonic,
        machine=machine,
        share=expected_share(
            [type(part).__name__ for part in parts(pruner)], n_judged, n_planned - n_judged
        ),
        paces=paces_of(known),
        best=_best_so_far(study),
    )


def _best_so_far(study: SweepStudy) -> tuple[float, int] | None:
    """The value and the number of the best trial that has completed; None of several objectives."""
    sign, done = study.objective_sign, study.study.get_trials(False, (TrialState.COMPLETE,))
    values = [(t.values[0], t.number) for t in done if len(t.values) == 1]
    values = [(value, number) for value, number in values if not math.isnan(value)]
    return min(values, key=lambda known: sign * known[0], default=None)


def _log_begin(setup: Setup, study: SweepStudy) -> None:
    storage = setup.settings.storage
    where = without_password(storage) if isinstance(storage, str) else short(setup.folder)
    slots = counted(len(setup.slots), "slot")
    log.info("study %s in %s, %s", study.study.study_name, where, slots)


def _log_lanes(driver: Driver) -> None:
    if driver.filled is not None:
        log.info("lanes were %.0f %% full", 100 * driver.filled)
