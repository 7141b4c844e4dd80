"""A sweep from a Hydra app's command line to its summary: read it top to bottom."""

from __future__ import annotations

import dataclasses
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
from typing import Any, cast

import optuna
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from sweeps import provenance, summary
from sweeps.branches import searched
from sweeps.curves import CurveWriter
from sweeps.driver import Driver
from sweeps.errors import BadInputError, SweepFailedError
from sweeps.jobs import Composer, FolderReturn, HydraRunner
from sweeps.progress import Progress, duration
from sweeps.pruners import Audit
from sweeps.slots import physical_cores, plan_slots, visible_gpus
from sweeps.space import Space, checked_setting
from sweeps.storage import LiveStorage, in_memory, open_backend
from sweeps.study import OnStall, Plans, SweepStudy, open_study, take_over
from sweeps.types import Remedy
from sweeps.workers import Nursery

log = logging.getLogger("sweeps")

STUDY_FILE = "study.db"
SWEEP_FILE = "sweep.yaml"
OBJECTIVES = (None, "best", "final", "return")


@dataclass(frozen=True)
class Settings:
    """The sweeper's options but for the search space (`params` and `when`, see `sweeps.branches.searched`).

    Names and meanings are those of the official Optuna sweeper where it has them.

    sampler, pruner: configs with `_target_`. direction: "minimize", "maximize", or a list of them.
    storage: an Optuna storage URL, or None for study.db in the sweep's folder. study_name: None for the job's name.
    n_trials: the total to reach. n_jobs: slots, or "auto". max_failure_rate: in [0, 1].
    custom_search_space: dotted name of a function (config, trial) that suggests more. enqueue: settings to run first.
    repeats: runs of each setting, with seeds counted up from the config's own at the key seed_key.
    audit: dotted name of a function (config) that returns `sweeps.types.Finding`s before a trial runs, or None.
    on_stall: "prune", or a remedy ("decay", "rewind": see `sweeps.types.Remedy`) to be tried n_remedies times before;
    stall_factor: for the learning rate each time.
    audit_fraction: share of the trials the pruner would end that run on, to count how often it is wrong.
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
    custom_search_space: str | None
    enqueue: Sequence[Mapping[str, Any]]
    repeats: int
    seed_key: str
    audit: str | None
    audit_fraction: float
    on_stall: str
    stall_factor: float
    n_remedies: int
    metric: str
    objective: str | None
    report: str | None

    def __post_init__(self) -> None:
        def refuse(option: str, value: Any, wanted: str) -> None:
            raise BadInputError(f"hydra.sweeper.{option}={value}: {wanted}")

        if isinstance(self.n_trials, bool) or not isinstance(self.n_trials, int) or self.n_trials < 1:
            refuse("n_trials", self.n_trials, "give the total number of trials to reach, 1 or more")
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 1:
            refuse("repeats", self.repeats, "give the number of seeds for each setting, 1 or more")
        if not (isinstance(self.max_failure_rate, int | float) and 0 <= self.max_failure_rate <= 1):
            refuse("max_failure_rate", self.max_failure_rate, "give a share from 0 (none may fail) to 1 (all may)")
        if not (isinstance(self.audit_fraction, int | float) and 0 <= self.audit_fraction <= 1):
            refuse("audit_fraction", self.audit_fraction, "give a share from 0 to 1, such as 0.05")
        if self.on_stall not in ("prune", *Remedy.ACTIONS):
            refuse("on_stall", self.on_stall, f"choose from prune, {', '.join(Remedy.ACTIONS)}")
        if not (isinstance(self.stall_factor, int | float) and 0 < self.stall_factor < 1):
            refuse("stall_factor", self.stall_factor, "give a factor between 0 and 1 for the learning rate")
        if isinstance(self.n_remedies, bool) or not isinstance(self.n_remedies, int) or self.n_remedies < 1:
            refuse("n_remedies", self.n_remedies, "give how often a remedy is tried, 1 or more")
        if self.objective not in OBJECTIVES:
            refuse("objective", self.objective, f"choose from {', '.join(map(str, OBJECTIVES[1:]))}, or leave it out")
        if not self.directions or not set(self.directions) <= {"minimize", "maximize"}:
            refuse("direction", self.direction, "give minimize or maximize, or a list of them")
        if len(self.directions) > 1 and self.objective in ("best", "final"):
            refuse("objective", self.objective, "with several directions the task must return the objectives")

    @property
    def directions(self) -> list[str]:
        """One direction per objective."""
        return [str(d) for d in self.direction] if isinstance(self.direction, list) else [str(self.direction)]


def read_settings(node: DictConfig) -> Settings:
    """The settings of a config's `hydra.sweeper` node."""
    try:
        options = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    except OmegaConfBaseException as error:
        raise BadInputError(f"hydra.sweeper: {_one_line(error)}") from error
    names = {field.name for field in dataclasses.fields(Settings)}
    unknown = sorted(set(options) - names - {"_target_", "_recursive_", "params", "when"})
    if unknown:
        raise BadInputError(f"hydra.sweeper has no option {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    given = {name: value for name, value in options.items() if name in names}
    given |= {name: node[name] for name in ("sampler", "pruner", "storage")}  # made from their configs later
    return Settings(**given | {"enqueue": options["enqueue"] or []})


def run_sweep(
    settings: Settings, context: HydraContext, task_function: TaskFunction, config: DictConfig, arguments: list[str]
) -> list[list[JobReturn]]:
    """Run a sweep to the end, show its summary, and return its trials in order, in rows of one per slot.

    config: the app's composed config, `hydra` node included. arguments: the overrides of the command line.
    Raises BadInputError before anything runs, SweepFailedError or StorageError after saving what there is.
    """
    composer = Composer(context.config_loader, config)
    space = searched(config.hydra.sweeper, arguments, composer)
    gpus = visible_gpus(os.environ)
    slots = plan_slots(settings.n_jobs, gpus, physical_cores())
    sampler = make_sampler(settings.sampler, space)
    pruner = make_pruner(settings.pruner, len(settings.directions), settings.audit_fraction)
    plans = make_plans(settings, space, config)
    audit = _function("audit", settings.audit) if settings.audit else None
    if config.hydra.launcher._target_.rpartition(".")[2] != "BasicLauncher":
        log.warning("hydra/launcher is not used: iolaus runs trials in its own worker processes (hydra.sweeper.n_jobs)")

    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    runner = HydraRunner(context, task_function, composer, audit or (lambda _: ()))
    with _locked(sweep_dir), Nursery(runner, settings.metric) as nursery, _opened(settings, sweep_dir) as storage:
        name = settings.study_name or (None if settings.storage else config.hydra.job.name)
        optuna_study = open_study(storage, name, settings.directions, sampler, pruner, space)
        for number in take_over(optuna_study, _driver_is_alive):
            log.info("trial %d was cut off when its sweep died; its setting is queued again", number)
        study = SweepStudy(optuna_study, storage, space, plans, _driver_name())
        console = _console()
        if study.n_to_ask == 0:
            _say_reached(console, optuna_study, settings, plans.n_trials)
            return []
        session = _record(optuna_study, settings, config, sweep_dir, gpus)
        progress = Progress(
            console,
            plans.n_trials * plans.n_repeats,
            plans.n_trials * plans.n_repeats - study.n_to_ask,
            len(slots),
            study.sign,
            settings.metric,
            time.monotonic,
        )
        curves = CurveWriter(
            sweep_dir / "curves", f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}", clock=time.monotonic
        )
        driver = Driver(
            study,
            space,
            nursery,
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


def make_sampler(config: Any, space: Space) -> optuna.samplers.BaseSampler:
    """The sampler of a config with `_target_`.

    A grid is a queue known in advance (`make_plans`), which leaves its sampler nothing to do. TPE is told to model a
    conditional space by groups of parameters that exist together, unless the config says otherwise.
    """
    if _is_grid(config):
        return optuna.samplers.RandomSampler()
    if _class_name(config) == "TPESampler" and space.conditional:
        chosen = {key for key in ("multivariate", "group") if not OmegaConf.is_missing(config, key) and key in config}
        sampler = _instantiate(config, "sampler", **({} if chosen else {"multivariate": True, "group": True}))
    else:
        sampler = _instantiate(config, "sampler")
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise BadInputError(
            f"hydra.sweeper.sampler: {config.get('_target_')} is no Optuna sampler; see its documentation"
        )
    return sampler


def make_plans(settings: Settings, space: Space, config: DictConfig) -> Plans:
    """What is to be run: settings known in advance first, then what the sampler proposes, each with its seeds."""
    known = [checked_setting(space, s, f"hydra.sweeper.enqueue[{i}]") for i, s in enumerate(settings.enqueue)]
    grid = space.grid() if _is_grid(settings.sampler) else []
    return Plans(
        n_trials=min(settings.n_trials, len(grid)) if grid else settings.n_trials,
        queue=[*known, *grid],
        n_repeats=settings.repeats,
        first_seed=_first_seed(settings, space, config) if settings.repeats > 1 else 0,
        extend=_extension(settings.custom_search_space, config),
        on_stall=OnStall(settings.on_stall, settings.stall_factor, settings.n_remedies),
    )


def _first_seed(settings: Settings, space: Space, config: DictConfig) -> int:
    key = settings.seed_key
    if key in space.parameters:
        raise BadInputError(f"{key} is searched and repeated: remove it from the search, or hydra.sweeper.repeats")
    seed = OmegaConf.select(config, key)
    if not isinstance(seed, int):
        raise BadInputError(
            f"hydra.sweeper.repeats={settings.repeats} counts seeds from the config's {key}, which is {seed}; give it "
            "a whole number, or name the app's own key in hydra.sweeper.seed_key"
        )
    return seed


def _is_grid(config: Any) -> bool:
    return _class_name(config) == "GridSampler"


def _class_name(config: Any) -> str:
    return str(config.get("_target_", "")).rpartition(".")[2]


def make_pruner(config: Any, n_directions: int, audit_fraction: float) -> optuna.pruners.BasePruner:
    """The pruner; none if the config is empty. Raises BadInputError if it cannot judge several objectives."""
    pruner = _instantiate(config, "pruner") if config else optuna.pruners.NopPruner()
    if isinstance(pruner, optuna.pruners.NopPruner):
        return pruner
    if n_directions > 1 and type(pruner).__module__.startswith("optuna."):
        raise BadInputError(
            f"{type(pruner).__name__} judges one objective and there are {n_directions}; "
            "use hydra/sweeper/pruner=stalled, which judges the watched metric, or none"
        )
    return Audit(pruner, audit_fraction) if audit_fraction > 0 else pruner


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
    return functools.partial(_function("custom_search_space", name), config) if name else None


def _function(option: str, name: str) -> Callable[..., Any]:
    try:
        return get_method(name)
    except Exception as error:
        raise BadInputError(f"hydra.sweeper.{option}={name}: {_one_line(error)}; give module.function") from error


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
