"""A worker process: set up once, then it serves trials until the driver lets it go."""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from iolaus.sweeps.reporting import Reporter, reporting_to
from iolaus.sweeps.run._channel import EXIT_S, Channel, ReleasedError
from iolaus.sweeps.run._messages import Assignment, Measured, WorkerSpec
from iolaus.sweeps.run._outcomes import NO_TERMINAL
from iolaus.sweeps.run.exit_handlers import run_exit_handlers
from iolaus.sweeps.run.memory import memory_error
from iolaus.sweeps.types import Outcome

__all__ = ["OneAtATime", "Server", "set_environment", "worker_main"]

# What a worker does for as long as it lives: takes assignments from its channel and finishes
# each. It need not return.
Server = Callable[["Channel"], None]
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def worker_main(pipe: Connection, spec: WorkerSpec, serve: Server, watched: str) -> None:
    """Serve until the driver closes the pipe, then run the task's exit handlers. Never returns."""
    status, channel = 1, None
    try:
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), 0)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(
                stream, io.TextIOWrapper
            ):  # what was printed before a sudden death is what one wants to read
                stream.reconfigure(line_buffering=True)
        if sys.breakpointhook is sys.__breakpointhook__:  # no debugger that waits elsewhere
            sys.breakpointhook = _refuse_breakpoint
        set_environment(spec)
        limits = _limit_threads(spec.n_threads)  # kept: the limit ends with the object
        _reseed()
        channel = Channel(pipe, watched, spec)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup, or the app's own
                signal.signal(number, channel.terminated)
        with suppress(ReleasedError):
            serve(channel)
        del limits
        status = 0
    except BaseException as error:
        logging.getLogger(__name__).exception("worker %d broke down", spec.slot)
        if channel is not None and (memory := memory_error(error)) is not None:
            with suppress(ReleasedError):
                channel.send(Measured(memory))
    finally:
        try:
            run_exit_handlers(EXIT_S, status)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


@dataclass(frozen=True, slots=True)
class OneAtATime:
    """A server that runs one trial after the other.

    run: reports through `iolaus.report` and must not raise.
    """

    run: Callable[[Assignment, Reporter], Outcome]

    def load(self) -> None:
        """Have `run` make what trials have in common, where it can (its `load`).

        Called once, before workers are forked, while the driver opens its study.
        """
        getattr(self.run, "load", lambda: None)()

    def __call__(self, channel: Channel) -> None:
        """Serve until the driver lets this worker go, or a trial has left it unfit for others."""
        channel.open()
        while (taken := channel.take()) is not None:
            assignment, reporter = taken
            with reporting_to(reporter):
                outcome = self.run(assignment, reporter)
            leaves = _is_used_up() or (outcome.memory is not None and bool(outcome.memory.ran_out))
            channel.finish(assignment.trial, outcome, leaves)
            if leaves:
                return


def _is_used_up() -> bool:
    """Whether a trial has left this process in a state that the next one would trip over.

    Distributed training has: its process group and its environment variables are of ranks that are
    gone.
    """
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def set_environment(spec: WorkerSpec) -> None:
    """Set the slot's variables, those for its threads included; a user's own number wins."""
    os.environ.update(dict(spec.environment))
    if spec.n_threads is not None:
        for variable in THREAD_VARIABLES:
            os.environ.setdefault(variable, str(spec.n_threads))


def _refuse_breakpoint(*args: Any, **options: Any) -> Any:
    """In place of a debugger whose prompt nobody could answer.

    PYTHONBREAKPOINT names another, or none.
    """
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **options)
    raise RuntimeError(f"{NO_TERMINAL}, or PYTHONBREAKPOINT=0, and breakpoint() does nothing")


def _limit_threads(n_threads: int | None) -> object:
    """Keep this process to `n_threads` in every library loaded now or later.

    A user's own setting wins.
    """
    if n_threads is None:
        return None
    own = os.environ["OMP_NUM_THREADS"].partition(",")[0]  # "4,2" is four, and two within each
    n_threads = int(own) if own.isdecimal() and int(own) else n_threads
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(n_threads)
    from threadpoolctl import threadpool_limits

    return threadpool_limits(n_threads)


def _reseed() -> None:
    """Draw fresh random states: unseeded trials of forked workers must not be copies."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.seed()
