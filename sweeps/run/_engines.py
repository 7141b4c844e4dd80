"""Starts drivers on nodes: by submitit (Slurm, or this machine), by Ray, or as processes here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.utils import env_override

from iolaus.sweeps.errors import BadInputError, SweepFailedError, one_line
from iolaus.sweeps.run._launcher import Launch
from iolaus.sweeps.run._signals import handled
from iolaus.sweeps.study.folder import DRIVER_VARIABLE

__all__ = ["DriverCommand", "Ended", "Job", "start_drivers"]

N_LAST_LINES = 20
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a driver ended. code: of its process. why: where it has printed, and the last of that."""

    code: int
    why: str

    @property
    def stopped_by(self) -> int | None:
        """The number of the signal that has stopped its sweep, None if none has."""
        number = self.code - 128
        return number if number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM) else None

    @property
    def has_failed(self) -> bool:
        """Whether it ended otherwise than by its sweep's end, or a stop."""
        return self.code != 0 and self.stopped_by is None


class DriverCommand:
    """A driver of a study, as a function that an engine runs on a node, and may run again.

    command: the sweep's own, run in working_dir. log: where the driver prints, in a folder that is
    made where it is missing.
    """

    def __init__(self, command: Sequence[str], working_dir: Path, log: Path) -> None:
        self._command, self._working_dir, self._log = tuple(command), working_dir, log
        self._pid: int | None = None  # of the driver, while it runs
        self._is_ending = False

    def __call__(self, environment: Mapping[str, str] | None = None) -> Ended:
        """Run the driver to its end. environment: variables beside those of this process."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        variables = {**os.environ, **(environment or {}), DRIVER_VARIABLE: "1"}
        # Slurm sends its warnings to all processes of a job; here they are for submitit alone.
        with _blocked(signal.SIGUSR1, signal.SIGUSR2), self._log.open("ab") as output:
            driver = subprocess.Popen(
                self._command,
                cwd=self._working_dir,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the process that waits
            )
        self._pid = driver.pid
        try:
            with self._passing_on_sigterm():
                _wait_for(driver.pid)
        finally:
            self.end()
            code = driver.wait()
        if self._is_ending and _is_slurm_job():
            # No result, which would look like the end of a job that Slurm is to begin again.
            sys.exit(code)
        last = self._log.read_text(errors="replace").splitlines()[-N_LAST_LINES:]
        return Ended(code, "\n".join([f"ended with code {code}, see {self._log}:", *last]))

    def checkpoint(self, environment: Mapping[str, str] | None = None) -> Any:
        """What submitit is to run when the job begins again; the driver has ended, trials saved.

        Called by its handler of signals, amid `__call__`.
        """
        from submitit.helpers import DelayedSubmission

        self.end()
        again = DriverCommand(self._command, self._working_dir, self._log)
        return DelayedSubmission(again, environment)

    def end(self) -> None:
        """Have the driver end now, if it runs: its trials make their checkpoints first."""
        if self._pid is None:
            return
        if not self._is_ending and not _has_ended(self._pid):
            self._is_ending = True
            os.kill(self._pid, signal.SIGTERM)
        _wait_for(self._pid)

    @contextmanager
    def _passing_on_sigterm(self) -> Iterator[None]:
        """A driver ends by a SIGTERM to this process; in Slurm's jobs it gets one of its own."""

        def end(_: int, __: FrameType | None) -> None:
            is_first, self._is_ending = not self._is_ending, True
            if is_first and self._pid is not None and not _is_slurm_job():
                os.kill(self._pid, signal.SIGTERM)

        with handled((signal.SIGTERM,), end):
            yield


def _is_slurm_job() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def _has_ended(child: int) -> bool:
    """Whether a child has ended; it is left to be waited for.

    Without the lock of `Popen`, which a handler of signals may have interrupted.
    """
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:  # it has been waited for
        return True


def _wait_for(child: int) -> None:
    while not _has_ended(child):
        time.sleep(POLL_S)


@contextmanager
def _blocked(*signals: int) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, slots=True)
class Job:
    """A driver that an engine has been asked to run.

    name: the engine's. is_over: whether it has ended, or never will begin. cancel: end it, or do
    not begin it. ended: how it ended, when it is over.
    """

    name: str
    is_over: Callable[[], bool]
    cancel: Callable[[], None]
    ended: Callable[[], Ended]


def start_drivers(
    launch: Launch, drivers: Sequence[DriverCommand], environment: Mapping[str, str]
) -> list[Job]:
    """Have an engine start these drivers.

    environment: variables for them beside those of this process. Raises BadInputError where the
    engine is not installed, or does not take its options, SweepFailedError where it starts nothing.
    """
    start = {
        "submitit_slurm": _with_submitit,
        "submitit_local": _with_submitit,
        "ray": _with_ray,
        "joblib": _as_processes,
    }[launch.engine]
    try:
        return start(launch, drivers, environment)
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"hydra/launcher={launch.engine} needs {error.name}, which is not installed"
        ) from error
    except (TypeError, ValueError) as error:
        raise BadInputError(f"hydra/launcher={launch.engine}: {one_line(error)}") from error
    except Exception as error:
        raise SweepFailedError(
            f"hydra/launcher={launch.engine} has started no driver: {one_line(error)}"
        ) from error


def _with_submitit(
    launch: Launch, drivers: Sequence[DriverCommand], environment: Mapping[str, str]
) -> list[Job]:
    """A job, or a job array. The options are those of hydra-submitit-launcher."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    cluster = launch.engine.removeprefix("submitit_")
    options = {key: value for key, value in launch.options.items() if key != "_target_"}
    folder, n_timeouts = options.pop("submitit_folder"), options.pop("max_num_timeout", None)
    of_cluster = {} if n_timeouts is None else {f"{cluster}_max_num_timeout": n_timeouts}
    executor = submitit.AutoExecutor(folder, cluster=cluster, **of_cluster)
    common = {field.name for field in fields(BaseQueueConf)}
    executor.update_parameters(
        **{key if key in common else f"{cluster}_{key}": value for key, value in options.items()}
    )
    # By what the job inherits when it is submitted: arguments would be kept in a file.
    with env_override(dict(environment)), executor.batch():
        jobs = [executor.submit(driver) for driver in drivers]
    return [
        Job(f"job {job.job_id}", job.done, job.cancel, partial(_ended, job.results)) for job in jobs
    ]


def _with_ray(
    launch: Launch, drivers: Sequence[DriverCommand], environment: Mapping[str, str]
) -> list[Job]:
    """A task each, spread over the nodes. The options are those of hydra-ray-launcher."""
    import ray

    options = launch.options["ray"]
    if not ray.is_initialized():
        ray.init(**options["init"])
    run = ray.remote(**{"scheduling_strategy": "SPREAD", **options["remote"]})(_call)
    tasks = [run.remote(driver, environment) for driver in drivers]

    def is_over(task: Any) -> bool:
        return bool(ray.wait([task], timeout=0)[0])

    return [
        Job(
            f"task {task.hex()[:8]}",
            partial(is_over, task),
            partial(ray.cancel, task),
            partial(_ended, partial(ray.get, [task])),
        )
        for task in tasks
    ]


def _call(driver: DriverCommand, environment: Mapping[str, str]) -> Ended:
    return driver(environment)


def _ended(results: Callable[[], Sequence[Ended]]) -> Ended:
    """How a job's drivers ended; of several, one that has failed."""
    try:
        return max(results(), key=lambda ended: ended.has_failed)
    except Exception as error:  # of the engine, or of what it ran: a node is gone, out of time, ...
        return Ended(1, str(error))


def _as_processes(
    _: Launch, drivers: Sequence[DriverCommand], environment: Mapping[str, str]
) -> list[Job]:
    """Processes of this machine, which is what joblib's launcher stands for.

    Of its options none means anything here: its n_jobs counts jobs, ours the slots of a driver.
    """

    def job(number: int, driver: DriverCommand) -> Job:
        ended: list[Ended] = []
        thread = threading.Thread(
            target=lambda: ended.append(driver(environment)), name="iolaus-driver", daemon=True
        )
        thread.start()
        return Job(
            f"driver {number}",
            lambda: not thread.is_alive(),
            driver.end,
            partial(_ended, lambda: ended),
        )

    return [job(number, driver) for number, driver in enumerate(drivers)]
