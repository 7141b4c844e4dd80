"""Long-lived worker processes, one per slot, that survive each other's deaths.

The driver forks one small *nursery* before it opens a database or starts a thread; the nursery forks the workers. So a
worker has the user's modules and task function in memory from its first moment (closures too: nothing is pickled), a
dead worker is replaced in milliseconds, and no fork ever happens in a process with threads. Each worker is tied to the
driver by one pipe. If the driver dies, the pipes close and nursery and workers end themselves.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import pickle
import random
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

from sweeps.errors import SweepFailedError
from sweeps.reporting import Batch, Reporter, reporting_to
from sweeps.types import Outcome, Remedy, Verdict

# How long a report may wait in the worker for company. Short enough to watch live, long enough to send in batches.
BATCH_S = 0.1
# Read from one worker before the others get their turn: one that never stops talking starves nobody.
MOST_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class Assignment:
    """A trial to run: its number, and the command-line overrides that make its config."""

    trial: int
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to driver: up, with room for so many trials at a time; said again when that changes."""

    n_lanes: int = 1


@dataclass(frozen=True, slots=True)
class Reported:
    """Worker to driver: what a trial has reported since the last time."""

    trial: int
    batch: Batch


@dataclass(frozen=True, slots=True)
class Finished:
    """Worker to driver: a trial is over; every report of it has been sent before."""

    trial: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Said:
    """Worker to driver: a line for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Filled:
    """Worker to driver: the lane-steps it has made so far, and for how many of them there was a trial."""

    n_full: int
    n_all: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Driver to worker: end this trial at its next report."""

    trial: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Offered:
    """Driver to worker: have this trial try a remedy instead of ending."""

    trial: int
    remedy: Remedy


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is given at birth: its slot, environment variables to set, and threads it may use."""

    slot: int
    environment: tuple[tuple[str, str], ...] = ()
    n_threads: int | None = None


FromWorker = Ready | Reported | Finished | Said | Filled
# What a worker does for as long as it lives: takes assignments from its line and finishes each. It need not return.
Server = Callable[["Line"], None]


@dataclass(frozen=True, slots=True)
class Worker:
    """The driver's end of a worker: its pipe, and a descriptor that becomes readable when the process ends."""

    slot: int
    pid: int
    pipe: Connection
    pid_fd: int | None

    def close(self) -> None:
        """Let go of the worker; an idle one ends itself."""
        self.pipe.close()
        if self.pid_fd is not None:
            os.close(self.pid_fd)


class Nursery:
    """Forks workers on request. Make it before any thread is started; use it as a context manager."""

    def __init__(self, serve: Server, watched: str) -> None:
        _refuse_unforkable()
        self._socket, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = _fork()
        if self._pid == 0:
            self._socket.close()
            _nursery_main(child, serve, watched)
        child.close()

    def spawn(self, spec: WorkerSpec) -> Worker:
        """Start a worker. It sends Ready when it is up."""
        pid, fds = self._request(("spawn", spec))
        return Worker(spec.slot, pid, Connection(fds[0]), _open_pid_fd(pid))

    def cause_of_death(self, worker: Worker) -> str:
        """How a worker that is gone came to its end, in words."""
        status, _ = self._request(("reap", worker.pid))
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            hint = " (often the system running out of memory)" if number == signal.SIGKILL else ""
            return f"its worker process {worker.pid} was killed by {signal.Signals(number).name}{hint}"
        return f"its worker process {worker.pid} exited with status {os.waitstatus_to_exitcode(status)}"

    def kill(self, worker: Worker) -> None:
        """End a worker now, in the middle of whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()  # the nursery ends its workers, then itself
        os.waitpid(self._pid, 0)

    def _request(self, message: tuple[str, Any]) -> tuple[int, list[int]]:
        try:
            self._socket.sendall(pickle.dumps(message))
            data, fds, _, _ = socket.recv_fds(self._socket, 4096, 1)
        except OSError as error:
            raise SweepFailedError(
                f"the process that starts workers is gone ({error}); run the same command"
            ) from error
        if not data:
            raise SweepFailedError("the process that starts workers is gone; run the same command again to continue")
        return int(data), fds


def _refuse_unforkable() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise SweepFailedError(
            "CUDA is already in use in this process, and a forked worker cannot use it again: move what touches the "
            "GPU (a tensor on cuda, torch.cuda.* calls) from module level into the task function"
        )


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads of numpy's BLAS, which set themselves up again after a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _open_pid_fd(pid: int) -> int | None:
    # Linux only. Without it a death is noticed when the pipe closes, which a surviving grandchild can delay.
    with contextlib.suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None


def _nursery_main(requests: socket.socket, serve: Server, watched: str) -> None:
    """Serve spawn and reap requests until the driver is gone, then end all workers. Never returns."""
    os.setsid()  # Ctrl-C in the terminal reaches the driver alone, which decides what becomes of the workers
    gc.freeze()  # what is loaded by now lives as long as a worker; to look through torch for garbage takes it 0.4 s
    children: set[int] = set()
    try:
        while data := requests.recv(65536):
            kind, payload = pickle.loads(data)
            if kind == "spawn":
                ours, theirs = socket.socketpair()
                pid = _fork()
                if pid == 0:
                    requests.close()
                    ours.close()
                    _worker_main(Connection(theirs.detach()), payload, serve, watched)
                children.add(pid)
                theirs.close()
                socket.send_fds(requests, [str(pid).encode()], [ours.fileno()])
                ours.close()
            else:
                _, status = os.waitpid(payload, 0)
                children.discard(payload)
                requests.sendall(str(status).encode())
    except OSError:
        pass  # the driver is gone
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os._exit(0)


def _worker_main(pipe: Connection, spec: WorkerSpec, serve: Server, watched: str) -> None:
    """Serve until the driver closes the pipe. Never returns."""
    status = 1
    try:
        with open(os.devnull) as nothing:  # noqa: PTH123 (a descriptor, not a file to read)
            os.dup2(nothing.fileno(), 0)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what was printed before a sudden death is what one wants to read
                stream.reconfigure(line_buffering=True)
        os.environ.update(dict(spec.environment))
        limits = _limit_threads(spec.n_threads)  # kept: the limit ends with the object
        _reseed()
        serve(Line(pipe, watched, spec))
        del limits
        status = 0
    except BaseException:
        logging.getLogger(__name__).exception("worker %d broke down", spec.slot)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Line:
    """The worker's end of its pipe: one thread talks to the driver while the main thread trains."""

    def __init__(self, pipe: Connection, watched: str, spec: WorkerSpec) -> None:
        self.spec = spec
        self._pipe = pipe
        self._watched = watched
        self._assignments: SimpleQueue[Assignment] = SimpleQueue()
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._reporters: dict[int, Reporter] = {}
        self._stopped: dict[int, Verdict] = {}  # trials that wait to be taken
        threading.Thread(target=self._talk, name="sweeps-line", daemon=True).start()

    def open(self, n_lanes: int = 1) -> None:
        """Say that this worker is up, with room for so many trials; again whenever that changes."""
        self.send(Ready(n_lanes))

    def take(self, wait_s: float | None = None) -> tuple[Assignment, Reporter] | None:
        """The next trial to run, with its line to the driver; None if none comes in time (None: wait for ever)."""
        try:
            assignment = self._assignments.get(timeout=wait_s) if wait_s != 0 else self._assignments.get_nowait()
        except Empty:
            return None
        reporter = Reporter(self._watched, time.monotonic, self.flush)
        with self._lock:
            self._reporters[assignment.trial] = reporter
            if (verdict := self._stopped.pop(assignment.trial, None)) is not None:
                reporter.stop(verdict)
        return assignment, reporter

    def finish(self, trial: int, outcome: Outcome) -> None:
        """A trial is over."""
        with self._lock:
            reporter = self._reporters.pop(trial)
        self._pass_on(trial, reporter)
        self.send(Finished(trial, outcome))

    def say(self, text: str) -> None:
        """Tell the user something."""
        self.send(Said(text))

    def flush(self) -> None:
        """Send what has been reported now, and not when BATCH_S is over."""
        with self._lock:
            for trial, reporter in self._reporters.items():
                self._pass_on(trial, reporter)

    def _talk(self) -> None:
        try:
            while True:
                if self._pipe.poll(BATCH_S):
                    message = self._pipe.recv()
                    if isinstance(message, Assignment):
                        self._assignments.put(message)
                    else:
                        self._deliver(message)
                self.flush()
        except (EOFError, OSError):
            # The driver has let go of this worker, or is dead: nobody is left to train for.
            os._exit(0)

    def _deliver(self, message: Stopped | Offered) -> None:
        with self._lock:
            reporter = self._reporters.get(message.trial)
            if reporter is None and isinstance(message, Stopped):
                self._stopped[message.trial] = message.verdict  # it has not begun, or was over before this came
        if reporter is None:
            return
        if isinstance(message, Stopped):
            reporter.stop(message.verdict)
        else:
            reporter.offer(message.remedy)

    def _pass_on(self, trial: int, reporter: Reporter) -> None:
        batch = reporter.take()
        if batch is not None:
            self.send(Reported(trial, batch))

    def send(self, message: FromWorker) -> None:
        """Send a message, from any thread."""
        # Connection.send is not safe from two threads; the pipe itself keeps the order.
        data = pickle.dumps(message)
        with self._send_lock:
            self._pipe.send_bytes(data)


def one_at_a_time(run: Callable[[Assignment, Reporter], Outcome]) -> Server:
    """A server that runs one trial after the other. run: reports through `sweeps.report` and must not raise."""

    def serve(line: Line) -> None:
        line.open()
        while (taken := line.take()) is not None:
            assignment, reporter = taken
            with reporting_to(reporter):
                outcome = run(assignment, reporter)
            line.finish(assignment.trial, outcome)

    return serve


def _limit_threads(n_threads: int | None) -> object:
    """Keep this process to `n_threads` in every library loaded now or later; a user's own setting wins."""
    if n_threads is None:
        return None
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ.setdefault(variable, str(n_threads))
    own = os.environ["OMP_NUM_THREADS"].partition(",")[0]  # "4,2" is four, and two within each
    n_threads = int(own) if own.isdecimal() and int(own) else n_threads
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(n_threads)
    from threadpoolctl import threadpool_limits

    return threadpool_limits(n_threads)


def _reseed() -> None:
    """Draw fresh random states: a fork copies them, and unseeded trials must not be copies of each other."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.seed()


def wait(workers: Sequence[Worker], timeout_s: float) -> list[Worker]:
    """The workers that have something to say or have ended, after at most `timeout_s`."""
    owners = {w.pipe.fileno(): w for w in workers} | {w.pid_fd: w for w in workers if w.pid_fd is not None}
    poll = select.poll()
    for fd in owners:
        poll.register(fd, select.POLLIN)
    ready = {owners[fd].slot: owners[fd] for fd, _ in poll.poll(timeout_s * 1000)}
    return list(ready.values())


def drain(worker: Worker) -> tuple[list[FromWorker], bool]:
    """What a worker has sent, and whether it has ended (judged before the pipe is read, so nothing is missed)."""
    ended = worker.pid_fd is not None and bool(select.select([worker.pid_fd], [], [], 0)[0])
    messages: list[FromWorker] = []
    try:
        while (ended or len(messages) < MOST_MESSAGES) and worker.pipe.poll():
            messages.append(worker.pipe.recv())
    except (EOFError, OSError):
        ended = True
    return messages, ended
