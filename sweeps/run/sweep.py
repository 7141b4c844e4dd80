"""A sweep from a Hydra app's command line to its summary: read it top to bottom."""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from iolaus.sweeps.curves import CurveWriter
from iolaus.sweeps.errors import BadInputError, SweepFailedError
from iolaus.sweeps.run import provenance
from iolaus.sweeps.run.driver import Driver
from iolaus.sweeps.run.factories import function_named, make, make_plans, make_pruner, make_sampler
from iolaus.sweeps.run.fork_server import ForkServer
from iolaus.sweeps.run.job import FolderReturn, HydraRunner, changes_directory
from iolaus.sweeps.run.lanes import in_lanes
from iolaus.sweeps.run.progress import Progress, duration
from iolaus.sweeps.run.settings import Settings
from iolaus.sweeps.run.slots import physical_cores, plan_slots, visible_gpus
from iolaus.sweeps.run.worker import one_at_a_time
from iolaus.sweeps.search.branches import searched
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.study import summary
from iolaus.sweeps.study.backend import in_memory, open_backend
from iolaus.sweeps.study.folder import STUDY_FILE, SWEEP_FILE
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.recovery import take_over
from iolaus.sweeps.study.sweep_study import SweepStudy
from iolaus.sweeps.text import counted

log = logging.getLogger("sweeps")

# A trial of a shared study that nobody has signed for this long has lost its driver at birth.
ORPHAN_AGE_S = 60.0


def run_sweep(
    settings: Settings,
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    arguments: list[str],
) -> list[list[JobReturn]]:
    """Run a sweep to the end, show its summary, and return its trials in order, in rows of one per slot.

    config: the app's composed config, `hydra` node included. arguments: the overrides of the
    command line. Raises BadInputError before anything runs, SweepFailedError or StorageError after
    saving what there is.
    """
    composer = Composer(context.config_loader, config)
    space = searched(config.hydra.sweeper, arguments, composer)
    gpus = visible_gpus(os.environ)
    slots = plan_slots(settings.n_jobs, gpus, physical_cores())
    sampler = make_sampler(settings.sampler, space)
    pruner = make_pruner(settings.pruner, len(settings.directions), settings.holdout_fraction)
    plans = make_plans(settings, space, config)
    lint = function_named("lint", settings.lint) if settings.lint else None
    in_lanes_by = settings.lane_runner if settings.lanes != 1 else None
    lane_runner = function_named("lane_runner", in_lanes_by) if in_lanes_by else None
    if config.hydra.launcher._target_.rpartition(".")[2] != "BasicLauncher":
        log.warning(
            "hydra/launcher is not used: iolaus runs trials in its own worker processes (hydra.sweeper.n_jobs)"
        )

    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    runner = HydraRunner(context, task_function, composer, lint or (lambda _: ()))
    serve = one_at_a_time(runner)
    if lane_runner is not None:
        _refuse_job_settings(config)
        n_lanes = None if settings.lanes == "auto" else int(settings.lanes)
        serve = in_lanes(
            runner, lane_runner, n_lanes, _most_lanes(plans.n_trials, len(slots)), sweep_dir
        )
    with (
        _locked(sweep_dir),
        ForkServer(serve, settings.metric) as fork_server,
        _opened(settings, sweep_dir) as storage,
    ):
        name = settings.study_name or (None if settings.storage else config.hydra.job.name)
        optuna_study = open_study(storage, name, settings.directions, sampler, pruner, space)
        # The lock on the folder makes us the only driver of a study in it: whatever runs there is
        # an orphan.
        is_shared = settings.storage is not None
        orphan_age_s = ORPHAN_AGE_S if is_shared else 0.0
        if cut_off := list(take_over(optuna_study, _driver_is_alive, orphan_age_s=orphan_age_s)):
            numbers = ", ".join(map(str, cut_off))
            log.info(
                "cut off when the sweep died, their settings are queued again: trials %s", numbers
            )
        study = SweepStudy(
            optuna_study, storage, space, plans, _driver_name() if is_shared else None
        )
        console = _console()
        if study.n_to_ask == 0:
            _say_reached(console, optuna_study, settings, plans.n_trials)
            return []
        session = _record(optuna_study, settings, config, sweep_dir, gpus)
        progress = Progress(
            console,
            max(
                plans.n_trials * plans.n_repeats, study.n_to_ask
            ),  # more may be queued than n_trials asks for
            max(plans.n_trials * plans.n_repeats - study.n_to_ask, 0),
            len(slots),
            study.sign,
            settings.metric,
            time.monotonic,
        )
        curves = CurveWriter(
            sweep_dir / "curves",
            f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}",
            clock=time.monotonic,
        )
        driver = Driver(
            study,
            space,
            fork_server,
            slots,
            curves,
            progress,
            metric=settings.metric,
            objective=settings.objective,
            max_failure_rate=settings.max_failure_rate,
            seed_key=settings.seed_key,
            sweep_dir=sweep_dir,
            check_storage=storage.check,
            session=session,
            clock=time.monotonic,
        )
        log.info(
            "study %s in %s, %s",
            optuna_study.study_name,
            _where(settings, sweep_dir),
            counted(len(slots), "slot"),
        )
        started_s = time.monotonic()
        with progress.showing():
            failure = driver.run()
        elapsed_s = time.monotonic() - started_s
        storage.flush()
        if driver.filled:
            log.info("lanes were %.0f %% full", 100 * _filled(driver))
        _conclude(
            console, optuna_study, settings, sweep_dir, elapsed_s, is_short=study.n_to_ask > 0
        )
        if failure is not None:
            raise SweepFailedError(failure)
        return _returns(driver, config, len(slots))


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


def _filled(driver: Driver) -> float:
    n_all = sum(filled.n_all for filled in driver.filled.values())
    return sum(filled.n_full for filled in driver.filled.values()) / max(n_all, 1)


@contextmanager
def _locked(sweep_dir: Path) -> Iterator[None]:
    """Hold the sweep's folder, made if it is missing, for this process alone."""
    try:
        sweep_dir.mkdir(parents=True, exist_ok=True)
        file = (sweep_dir / ".lock").open("w")
    except OSError as error:
        raise BadInputError(
            f"cannot write to {sweep_dir}: {error.strerror}; choose another hydra.sweep.dir"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInputError(
                f"another sweep is running in {sweep_dir}; wait for it, or choose another"
            ) from error
        yield


@contextmanager
def _opened(settings: Settings, sweep_dir: Path) -> Iterator[LiveStorage]:
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if settings.storage is None or isinstance(settings.storage, str):
        backend = open_backend(settings.storage or f"sqlite:///{sweep_dir / STUDY_FILE}")
    else:
        backend = make(settings.storage, "storage")
    # A study in our own locked folder has no other driver; a shared one is looked at before every
    # trial.
    storage = LiveStorage(backend, refresh_s=1.0 if settings.storage is None else 0.0)
    try:
        yield storage
    finally:
        storage.close()


def _where(settings: Settings, sweep_dir: Path) -> str:
    return settings.storage if isinstance(settings.storage, str) else _short(sweep_dir)


def _driver_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _driver_is_alive(driver: str) -> bool:
    """Whether a driver may still run.

    One on another machine may, one here if its process is there and is not us.
    """
    host, _, pid = driver.rpartition(":")
    if host != socket.gethostname():
        return bool(host)
    return int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()


def _record(
    study: optuna.Study,
    settings: Settings,
    config: DictConfig,
    sweep_dir: Path,
    gpus: Sequence[str],
) -> int:
    """Write sweep.yaml, multirun.yaml and, into the study, this session's provenance.

    Returns the session's number.
    """
    OmegaConf.save(config, sweep_dir / "multirun.yaml")
    session = provenance.collect(
        sys.orig_argv, Path(config.hydra.runtime.cwd), gpus, datetime.now(UTC)
    )
    before = study.user_attrs.get("provenance", [])
    if before and before[-1]["code"] != session["code"]:
        log.warning(
            "the code has changed since this study was last run (%s, now %s): its trials may not be comparable",
            _code(before[-1]["code"]),
            _code(session["code"]),
        )
    study.set_user_attr("provenance", [*before, session])
    study.set_user_attr("config", OmegaConf.to_yaml(config))
    content = {
        "study_name": study.study_name,
        "storage": settings.storage if isinstance(settings.storage, str) else None,
        "directions": settings.directions,
        "metric": settings.metric,
        "objective": settings.objective,
        "n_trials": settings.n_trials,
        "sweeper": OmegaConf.to_container(config.hydra.sweeper),
        "sessions": [*before, session],
    }
    OmegaConf.save(OmegaConf.create(content), sweep_dir / SWEEP_FILE)
    return len(before)


def _code(version: Mapping[str, Any]) -> str:
    return f"{str(version['commit'])[:10]}{' with changes' if version['dirty'] else ''}"


def _console() -> Console:
    # Where nobody sees a terminal's edge, a table should not be cut at 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=200, soft_wrap=False)


def _say_reached(console: Console, study: optuna.Study, settings: Settings, n_trials: int) -> None:
    more = (
        ""
        if settings.n_trials > n_trials
        else f" For more, raise hydra.sweeper.n_trials above {settings.n_trials}."
    )
    grid = " The whole grid has been run." if settings.n_trials > n_trials else ""
    console.print(
        f"Study {study.study_name} has reached its {n_trials} trials; nothing was run.{grid}{more}"
    )
    console.print(summary.table(summary.rank(study), settings.metric, len(settings.directions)))


def _conclude(
    console: Console,
    study: optuna.Study,
    settings: Settings,
    sweep_dir: Path,
    elapsed_s: float,
    is_short: bool,
) -> None:
    """Print the ranking, save the results and the report, and name the next commands.

    is_short: whether n_trials was not reached, so that the same command goes on.
    """
    results = summary.rank(study)
    console.print(
        f"\n{counted(len(results), 'trial')} in study {study.study_name}, this session took {duration(elapsed_s)}:\n"
    )
    console.print(summary.table(results, settings.metric, len(settings.directions)))
    summary.save_results(study, sweep_dir / "optimization_results.yaml")
    console.print()
    for path in _made_report(settings, sweep_dir):
        console.print(f"saved {_short(Path(path))}", soft_wrap=True, highlight=False)
    console.print("next:")
    command = command_line(sys.orig_argv, _short(sweep_dir))
    n_trials = settings.n_trials if is_short else 2 * settings.n_trials
    summary.show_next(console, sys.orig_argv[0], _short(sweep_dir), command, n_trials)


def _made_report(settings: Settings, sweep_dir: Path) -> Sequence[Path]:
    kept = settings.storage is None or (
        isinstance(settings.storage, str) and not in_memory(settings.storage)
    )
    if settings.report is None or not kept:
        return ()
    module, _, function = settings.report.rpartition(".")
    try:
        made: Sequence[Path] = getattr(importlib.import_module(module), function)(sweep_dir)
    except ImportError as error:
        log.info("no report: %s; for figures: pip install 'hydra-iolaus[analysis]'", error)
        return ()
    except Exception:
        log.exception("the report could not be made; the sweep's results are not affected")
        return ()
    return made


def command_line(argv: Sequence[str], sweep_dir: str) -> str:
    """How this process was started, to be typed again for the same folder, with no n_trials.

    argv: sys.orig_argv.
    """
    given = [a for a in argv if not a.startswith("hydra.sweeper.n_trials=")]
    if not any(a.startswith("hydra.sweep.dir=") for a in argv):
        given.append(f"hydra.sweep.dir={sweep_dir}")  # it may be named after the time
    return shlex.join(given)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _returns(driver: Driver, config: DictConfig, n_slots: int) -> list[list[JobReturn]]:
    def one(trial: int) -> JobReturn:
        folder = driver.folders.get(trial, Path())
        working_dir = str(folder) if changes_directory(config) else str(Path.cwd())
        return FolderReturn(
            driver.assignments[trial].overrides, folder, working_dir, driver.outcomes[trial]
        )

    returns = [one(trial) for trial in sorted(driver.outcomes)]
    return [returns[i : i + n_slots] for i in range(0, len(returns), n_slots)]
