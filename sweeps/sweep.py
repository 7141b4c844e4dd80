"""A sweep from a Hydra app's command line to its summary: read it top to bottom."""

from __future__ import annotations

import difflib
import fcntl
import functools
import importlib
import logging
import os
import shlex
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from sweeps import provenance, summary
from sweeps.curves import CurveWriter
from sweeps.driver import Driver
from sweeps.errors import BadInputError, SweepFailedError
from sweeps.jobs import Composer, FolderReturn, HydraRunner
from sweeps.progress import Progress, duration
from sweeps.slots import physical_cores, plan_slots, visible_gpus
from sweeps.space import Parameter, Space, Value, parse_space
from sweeps.storage import LiveStorage, in_memory, open_backend
from sweeps.study import SweepStudy, open_study, take_over
from sweeps.workers import Nursery

log = logging.getLogger("sweeps")

STUDY_FILE = "study.db"
SWEEP_FILE = "sweep.yaml"
OBJECTIVES = (None, "best", "final", "return")
# Composing a branch takes some 40 ms. Beyond this many, each choice is tried once instead of each combination.
N_BRANCHES_TRIED = 64


@dataclass(frozen=True)
class Settings:
    """The sweeper's options; conf names and meanings are those of the official Optuna sweeper where it has them.

    sampler, pruner: configs with `_target_`. direction: "minimize", "maximize", or a list of them.
    storage: an Optuna storage URL, or None for study.db in the sweep's folder. study_name: None for the job's name.
    n_trials: the total to reach. n_jobs: slots, or "auto". max_failure_rate: in [0, 1].
    params: search space by key. custom_search_space: dotted name of a function (config, trial) that suggests more.
    metric: the watched metric. objective: see OBJECTIVES. report: dotted name of a function that is given the
    sweep's folder at the end and returns what it made (paths), or None for no report.
    """

    sampler: Any
    pruner: Any
    direction: Any
    storage: Any
    study_name: str | None
    n_trials: int
    n_jobs: int | str
    max_failure_rate: float
    params: Mapping[str, Any]
    custom_search_space: str | None
    metric: str
    objective: str | None
    report: str | None

    def __post_init__(self) -> None:
        def refuse(option: str, value: Any, wanted: str) -> None:
            raise BadInputError(f"hydra.sweeper.{option}={value}: {wanted}")

        if isinstance(self.n_trials, bool) or not isinstance(self.n_trials, int) or self.n_trials < 1:
            refuse("n_trials", self.n_trials, "give the total number of trials to reach, 1 or more")
        if not (isinstance(self.max_failure_rate, int | float) and 0 <= self.max_failure_rate <= 1):
            refuse("max_failure_rate", self.max_failure_rate, "give a share from 0 (none may fail) to 1 (all may)")
        if self.objective not in OBJECTIVES:
            refuse("objective", self.objective, f"choose from {', '.join(map(str, OBJECTIVES[1:]))}, or leave it out")
        if not self.directions or not set(self.directions) <= {"minimize", "maximize"}:
            refuse("direction", self.direction, "give minimize or maximize, or a list of them")
        if len(self.directions) > 1 and self.objective in ("best", "final"):
            refuse("objective", self.objective, "with several directions the task must return the objectives")

    @property
    def directions(self) -> list[str]:
        """One direction per objective."""
        several = OmegaConf.is_list(self.direction) or isinstance(self.direction, list | tuple)
        return [str(d) for d in self.direction] if several else [str(self.direction)]


def run_sweep(
    settings: Settings, context: HydraContext, task_function: TaskFunction, config: DictConfig, arguments: list[str]
) -> list[list[JobReturn]]:
    """Run a sweep to the end, show its summary, and return its trials in order, in rows of one per slot.

    config: the app's composed config, `hydra` node included. arguments: the overrides of the command line.
    Raises BadInputError before anything runs, SweepFailedError or StorageError after saving what there is.
    """
    composer = Composer(context.config_loader, config)
    space = parse_space(settings.params, arguments, composer.parse, composer.is_group)
    try_out(space, composer)
    gpus = visible_gpus(os.environ)
    slots = plan_slots(settings.n_jobs, gpus, physical_cores())
    sampler, queue = make_sampler(settings.sampler, space)
    pruner = make_pruner(settings.pruner, len(settings.directions))
    extend = _extension(settings.custom_search_space, config)
    n_trials = min(settings.n_trials, len(queue)) if queue else settings.n_trials
    if config.hydra.launcher._target_.rpartition(".")[2] != "BasicLauncher":
        log.warning("hydra/launcher is not used: iolaus runs trials in its own worker processes (hydra.sweeper.n_jobs)")

    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    runner = HydraRunner(context, task_function, composer)
    with _locked(sweep_dir), Nursery(runner, settings.metric) as nursery, _opened(settings, sweep_dir) as storage:
        name = settings.study_name or (None if settings.storage else config.hydra.job.name)
        optuna_study = open_study(storage, name, settings.directions, sampler, pruner, space)
        for number in take_over(optuna_study, _driver_is_alive):
            log.info("trial %d was cut off when its sweep died; its setting is queued again", number)
        study = SweepStudy(optuna_study, storage, space, n_trials, extend, queue, _driver_name())
        console = _console()
        if study.n_missing == 0:
            _say_reached(console, optuna_study, settings, n_trials)
            return []
        session = _record(optuna_study, settings, config, sweep_dir, gpus)
        progress = Progress(
            console, n_trials, n_trials - study.n_missing, len(slots), study.sign, settings.metric, time.monotonic
        )
        curves = CurveWriter(
            sweep_dir / "curves", f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}", clock=time.monotonic
        )
        driver = Driver(
            study,
            space,
            nursery,
            slots[: study.n_missing],
            curves,
            progress,
            metric=settings.metric,
            objective=settings.objective,
            max_failure_rate=settings.max_failure_rate,
            sweep_dir=sweep_dir,
            check_storage=storage.check,
            session=session,
            clock=time.monotonic,
        )
        log.info("study %s in %s, %d slots", optuna_study.study_name, _where(settings, sweep_dir), len(slots))
        started_s = time.monotonic()
        with progress.showing():
            failure = driver.run()
        elapsed_s = time.monotonic() - started_s
        storage.flush()
        _conclude(console, optuna_study, settings, sweep_dir, elapsed_s)
        if failure is not None:
            raise SweepFailedError(failure)
        return _returns(driver, config, len(slots))


def try_out(space: Space, composer: Composer) -> None:
    """Compose each branch of the space, and each example value in the first; raises BadInputError for what is refused.

    With more than `N_BRANCHES_TRIED` branches each group choice is tried once.
    """
    first = {key: p.examples()[0] for key, p in space.parameters.items()}
    branches = [{**first, **branch} for branch in _bounded(space.branches(), N_BRANCHES_TRIED)]
    if len(branches) == N_BRANCHES_TRIED:
        groups = [p for p in space.parameters.values() if p.is_group]
        branches = [first, *({**first, p.key: value} for p in groups for value in p.examples()[1:])]
    values = [p for p in space.parameters.values() if not p.is_group]
    settings = branches + [{**branches[0], p.key: value} for p in values for value in p.examples()[1:]]
    for setting in settings:
        try:
            composer.compose(space.overrides(setting))
        except (HydraException, OmegaConfBaseException) as error:
            raise BadInputError(_refusal(error, space, setting, composer)) from error


def _bounded(branches: Iterator[dict[str, Value]], n: int) -> Iterator[dict[str, Value]]:
    return (branch for _, branch in zip(range(n), branches, strict=False))


def _refusal(error: Exception, space: Space, setting: Mapping[str, Value], composer: Composer) -> str:
    """What is wrong with a setting that does not compose: the parameter, what was asked, what could be meant."""
    message = _one_line(error.__cause__ or error)
    culprit = _culprit(space, setting, composer)
    if culprit is None:
        return f"the config cannot be composed: {_one_line(error)}"
    known = _keys(composer.compose([]))
    if isinstance(culprit, str):
        key, text = culprit.partition("=")[0], culprit
    else:
        key, text = culprit.key, culprit.text
    bare = key.lstrip("+")
    if key == bare and bare not in known and not composer.is_group(bare):
        near = difflib.get_close_matches(bare, known, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"unknown parameter {bare} (in {text}): the config has no such key; {meant}To add one, write +{text}"
    return f"{text}: the config does not take it: {message}"


def _culprit(space: Space, setting: Mapping[str, Value], composer: Composer) -> Parameter | str | None:
    """The parameter or fixed override without which the setting composes; None if no single one is to blame."""
    lines = space.overrides(setting)
    for key, line in zip(space.order, lines, strict=False):
        try:
            composer.compose([other for other in lines if other != line])
            return space.parameters.get(key, line)
        except (HydraException, OmegaConfBaseException):
            continue
    return None


def _keys(config: DictConfig) -> list[str]:
    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return list(walk({key: value for key, value in plain.items() if key != "hydra"}, ""))


def make_sampler(config: Any, space: Space) -> tuple[optuna.samplers.BaseSampler | None, list[dict[str, Value]]]:
    """The sampler, and for a grid its settings in Hydra's order: a grid is a queue known in advance."""
    if str(config.get("_target_", "")).rpartition(".")[2] != "GridSampler":
        return _instantiate(config, "sampler"), []
    return optuna.samplers.RandomSampler(), space.grid()  # the queue leaves it nothing to sample


def make_pruner(config: Any, n_directions: int) -> optuna.pruners.BasePruner:
    """The pruner; none if the config is empty. Raises BadInputError if it cannot judge several objectives."""
    pruner = _instantiate(config, "pruner") if config else optuna.pruners.NopPruner()
    optunas = type(pruner).__module__.startswith("optuna.") and not isinstance(pruner, optuna.pruners.NopPruner)
    if n_directions > 1 and optunas:
        raise BadInputError(
            f"{type(pruner).__name__} judges one objective and there are {n_directions}; use hydra/sweeper/pruner=none"
        )
    return pruner


def _instantiate(config: Any, what: str, **extra: Any) -> Any:
    try:
        given = {key: config[key] for key in config if not OmegaConf.is_missing(config, key)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the user has chosen it by name
            return instantiate(given, **extra)
    except Exception as error:
        cause = error.__cause__ or error
        missing = isinstance(cause, ImportError)
        hint = "pip install 'hydra-iolaus[samplers]'" if missing else f"see optuna's documentation of the {what}"
        target = str(config.get("_target_", what)) if hasattr(config, "get") else what
        raise BadInputError(
            f"hydra/sweeper/{what}: cannot make {target}: {' '.join(str(cause).split())}; {hint}"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _extension(name: str | None, config: DictConfig) -> Callable[[optuna.Trial], None] | None:
    if name is None:
        return None
    try:
        method = get_method(name)
    except Exception as error:
        raise BadInputError(f"hydra.sweeper.custom_search_space={name}: {error}; give module.function") from error
    return functools.partial(method, config)


@contextmanager
def _locked(sweep_dir: Path) -> Iterator[None]:
    """Hold the sweep's folder, made if it is missing, for this process alone."""
    try:
        sweep_dir.mkdir(parents=True, exist_ok=True)
        file = (sweep_dir / ".lock").open("w")
    except OSError as error:
        raise BadInputError(f"cannot write to {sweep_dir}: {error.strerror}; choose another hydra.sweep.dir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInputError(f"another sweep is running in {sweep_dir}; wait for it, or choose another") from error
        yield


@contextmanager
def _opened(settings: Settings, sweep_dir: Path) -> Iterator[LiveStorage]:
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if settings.storage is None or isinstance(settings.storage, str):
        backend = open_backend(settings.storage or f"sqlite:///{sweep_dir / STUDY_FILE}")
    else:
        backend = _instantiate(settings.storage, "storage")
    storage = LiveStorage(backend)
    try:
        yield storage
    finally:
        storage.close()


def _where(settings: Settings, sweep_dir: Path) -> str:
    return settings.storage if isinstance(settings.storage, str) else _short(sweep_dir)


def _driver_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _driver_is_alive(driver: str) -> bool:
    """Whether a driver may still run: one on another machine may, one here if its process is there and is not us."""
    host, _, pid = driver.rpartition(":")
    if host != socket.gethostname():
        return bool(host)
    return int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()


def _record(study: optuna.Study, settings: Settings, config: DictConfig, sweep_dir: Path, gpus: Sequence[str]) -> int:
    """Write sweep.yaml, multirun.yaml and, into the study, this session's provenance; returns the session's number."""
    OmegaConf.save(config, sweep_dir / "multirun.yaml")
    session = provenance.collect(sys.orig_argv, Path(config.hydra.runtime.cwd), gpus, datetime.now(UTC))
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
    more = "" if settings.n_trials > n_trials else f" For more, raise hydra.sweeper.n_trials above {settings.n_trials}."
    grid = " The whole grid has been run." if settings.n_trials > n_trials else ""
    console.print(f"Study {study.study_name} has reached its {n_trials} trials; nothing was run.{grid}{more}")
    console.print(summary.table(summary.rank(study), settings.metric, len(settings.directions)))


def _conclude(console: Console, study: optuna.Study, settings: Settings, sweep_dir: Path, elapsed_s: float) -> None:
    """Print the ranking, save the results and the report, and name the next commands."""
    results = summary.rank(study)
    console.print(f"\n{len(results)} trials in study {study.study_name}, this session took {duration(elapsed_s)}:\n")
    console.print(summary.table(results, settings.metric, len(settings.directions)))
    summary.save_results(study, sweep_dir / "optimization_results.yaml")
    console.print()
    for path in _made_report(settings, sweep_dir):
        console.print(f"saved {_short(Path(path))}", soft_wrap=True, highlight=False)
    console.print("next:")
    command = command_line(sys.orig_argv, _short(sweep_dir))
    summary.show_next(console, sys.orig_argv[0], _short(sweep_dir), command, 2 * settings.n_trials)


def _made_report(settings: Settings, sweep_dir: Path) -> Sequence[Path]:
    kept = settings.storage is None or (isinstance(settings.storage, str) and not in_memory(settings.storage))
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
    """How this process was started, to be typed again for the same folder, with no n_trials. argv: sys.orig_argv."""
    given = [a for a in argv if not a.startswith("hydra.sweeper.n_trials=")]
    if not any(a.startswith("hydra.sweep.dir=") for a in argv):
        given.append(f"hydra.sweep.dir={sweep_dir}")  # it may be named after the time
    return shlex.join(given)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _returns(driver: Driver, config: DictConfig, n_slots: int) -> list[list[JobReturn]]:
    def one(trial: int) -> JobReturn:
        folder = driver.folders.get(trial, Path())
        chdir = OmegaConf.select(config, "hydra.job.chdir")
        if chdir is None:
            from hydra import version

            chdir = not version.base_at_least("1.2")
        working_dir = str(folder) if chdir else str(Path.cwd())
        return FolderReturn(driver.assignments[trial].overrides, folder, working_dir, driver.outcomes[trial])

    returns = [one(trial) for trial in sorted(driver.outcomes)]
    return [returns[i : i + n_slots] for i in range(0, len(returns), n_slots)]
