"""Long-lived worker processes, one per slot, that survive each other's deaths.

The driver forks one small *fork server* before it opens a database or starts a thread; the fork
server starts the workers and waits for their ends. Mostly it forks them: a worker has the user's
modules and task function in memory from its first moment (closures too: nothing is pickled), and a
dead one is replaced in milliseconds. What workers alone need is loaded there once, while the driver
opens its study (`load` of a server). Where the driver had threads already, which a fork does not
copy, each is a fresh interpreter (`_start_method`, `_spawn`). Each worker is tied to the driver by
one pipe. If the driver dies, the pipes close, and fork server and workers end themselves.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import select
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, BinaryIO, cast

from iolaus.sweeps.errors import BadInputError, SweepFailedError
from iolaus.sweeps.run._channel import EXIT_S
from iolaus.sweeps.run._messages import FromWorker, WorkerSpec
from iolaus.sweeps.run._spawn import command, packed
from iolaus.sweeps.run._start_method import StartMethod, choose, look
from iolaus.sweeps.run._worker import Server, worker_main
from iolaus.sweeps.run.exit_handlers import forget_exit_handlers

__all__ = ["ForkServer", "Worker", "drain", "wait"]

log = logging.getLogger("sweeps")

# Read from one worker before the others get their turn: one that never stops talking starves
# nobody.
MOST_MESSAGES = 1000
FOR_THE_DRIVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Worker:
    """The driver's end of a worker.

    Its pipe, and a descriptor that becomes readable when the process ends. method: how it was
    started, "fork" or "spawn".
    """

    slot: int
    pid: int
    method: str
    pipe: Connection
    pid_fd: int | None

    def close(self) -> None:
        """Let go of the worker; an idle one ends itself."""
        self.pipe.close()
        if self.pid_fd is not None:
            os.close(self.pid_fd)


class ForkServer:
    """Starts workers on request. Make it before any thread of ours is started.

    Use it as a context manager. closing: descriptors that the driver keeps to itself.
    start_method: "fork", "spawn", or "auto" for what suits this process (`method` says which).
    Raises BadInputError where workers cannot be started so.
    """

    def __init__(
        self, serve: Server, watched: str, closing: Sequence[int] = (), start_method: str = "fork"
    ) -> None:
        self._serve, self._watched, self._asked = serve, watched, start_method
        self._let_go: list[int] = []  # workers that end themselves
        self._has_started = False
        self._payload = _memory_file()
        self._socket, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = _fork()
        if self._pid == 0:
            self._socket.close()
            for fd in closing:
                os.close(fd)
            _fork_server_main(child, serve, watched, self._payload.fileno())
        child.close()
        try:
            self.method = self._chosen()
        except BadInputError:
            self.__exit__()
            raise

    def _chosen(self) -> StartMethod:
        process = look()
        method = choose(self._asked, process)
        if method.name == "spawn":
            self._prepare_spawning(method.reason)
        elif process.has_cuda:
            raise BadInputError(
                "CUDA is already in use in this process, and a forked worker cannot use it again: "
                f"leave out {method.reason}, or move what touches the GPU (a tensor on cuda, "
                "torch.cuda.* calls) from module level into the task function"
            )
        elif process.threads:
            log.warning(
                "%s, and workers are forked all the same (%s): one may wait for such threads for "
                "ever; hydra.sweeper.start_method=auto spawns them",
                *(process, method.reason),
            )
        else:  # with threads even an import may wait for ever, which a worker does alone
            self._socket.sendall(pickle.dumps(("load", None)))
        return method

    def _prepare_spawning(self, reason: str) -> None:
        self._payload.write(packed(self._serve, self._watched, reason))
        self._payload.flush()

    def give_up_forking(self, worker: Worker) -> str:
        """Spawn workers from now on, where that is ours to choose.

        Returns what may have held up a worker that does not come up, and what was or can be done.
        """
        if worker.method == "spawn":
            return "it is a fresh interpreter, which a machine or disk in distress may hold up"
        cause = "perhaps it waits for threads that its parent had, of a library or of the app"
        if self._asked != "auto":
            return f"{cause}; try hydra.sweeper.start_method=spawn"
        if self.method.name == "spawn":  # since another one did not come up
            return f"{cause}; the next is spawned"
        reason = "a forked worker did not come to its first line of user code"
        try:
            self._prepare_spawning(reason)
        except BadInputError as error:
            return f"{cause}; {error}"
        self.method = StartMethod("spawn", reason)
        return f"{cause}; workers are spawned from now on (hydra.sweeper.start_method=spawn)"

    def start(self, spec: WorkerSpec) -> Worker:
        """Start a worker. It sends Ready when it is up."""
        self._has_started = True
        pid, fds = self._request((self.method.name, spec))
        return Worker(spec.slot, pid, self.method.name, Connection(fds[0]), _open_pid_fd(pid))

    def cause_of_death(self, worker: Worker) -> tuple[str, int | None]:
        """How a worker that is gone came to its end: in words, and the signal that killed it."""
        status, _ = self._request(("reap", worker.pid))
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            hint = " (often the system running out of memory)" if number == signal.SIGKILL else ""
            name = signal.Signals(number).name
            return f"its worker process {worker.pid} was killed by {name}{hint}", number
        code = os.waitstatus_to_exitcode(status)
        return f"its worker process {worker.pid} exited with status {code}", None

    def release(self, worker: Worker) -> None:
        """Let a worker go that runs nothing: it ends itself, when its exit handlers have run."""
        self._let_go.append(worker.pid)
        worker.close()

    def kill(self, worker: Worker) -> None:
        """End a worker now, in the middle of whatever it does, and what it has started."""
        _kill_group(worker.pid)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._has_started:  # it may still load what nobody will need
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._socket.sendall(pickle.dumps(("await", self._let_go)))
        self._socket.close()  # the fork server ends its workers, then itself
        self._payload.close()
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
            raise SweepFailedError(
                "the process that starts workers is gone; run the same command again to continue"
            )
        return int(data), fds


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads of numpy's BLAS, which set themselves up again after a fork,
        # and JAX of its own, for whose sake workers are spawned.
        for kind in (DeprecationWarning, RuntimeWarning):
            warnings.simplefilter("ignore", kind)
        return os.fork()


def _memory_file() -> BinaryIO:
    """A file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("iolaus-worker"), "wb")
    return cast(BinaryIO, tempfile.TemporaryFile())


def _open_pid_fd(pid: int) -> int | None:
    # Linux only. Without it a death is noticed when the pipe closes, which a surviving grandchild
    # can delay.
    with contextlib.suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None


def _fork_server_main(requests: socket.socket, serve: Server, watched: str, payload: int) -> None:
    """Serve requests to start and to reap until the driver is gone, then end all workers.

    payload: a file of what spawned workers are sent (`_spawn.packed`). Never returns. It may be the
    fork of a process with threads, and does nothing that could wait for them.
    """
    # Ctrl-C in the terminal, and the signals by which a scheduler ends a job, are for the driver
    # alone, which decides what becomes of the workers. Those keep the signals as a task knows
    # them: what is ignored here would be ignored by every program that a task starts.
    of_tasks = {number: signal.signal(number, signal.SIG_IGN) for number in FOR_THE_DRIVER}
    os.setsid()
    # What is loaded by now lives as long as a worker; to look through torch for garbage takes
    # 0.4 s.
    gc.freeze()
    children: set[int] = set()
    try:
        while data := requests.recv(65536):
            kind, about = pickle.loads(data)
            if kind in ("fork", "spawn"):
                ours, theirs = socket.socketpair()
                pid = (
                    _fork()
                    if kind == "fork"
                    else _spawn(about, ours, theirs.fileno(), payload, of_tasks)
                )
                with contextlib.suppress(
                    OSError
                ):  # in parent and child: neither waits for the other
                    os.setpgid(pid, pid)
                if pid == 0:
                    for number, handler in of_tasks.items():
                        signal.signal(number, handler)
                    requests.close()
                    ours.close()
                    os.close(payload)
                    forget_exit_handlers()
                    worker_main(Connection(theirs.detach()), about, serve, watched)
                children.add(pid)
                theirs.close()
                socket.send_fds(requests, [str(pid).encode()], [ours.fileno()])
                ours.close()
            elif kind == "load":
                _load(serve)
                gc.freeze()
            elif kind == "await":
                children -= _ended(about, EXIT_S)
            else:
                _, status = os.waitpid(about, 0)
                _kill_group(about)
                children.discard(about)
                requests.sendall(str(status).encode())
    except OSError:
        pass  # the driver is gone
    finally:
        for pid in children:
            _kill_group(pid)
        os._exit(0)


def _load(serve: Server) -> None:
    """Have what a server needs in memory before its workers are forked."""
    load = getattr(serve, "load", None)
    if load is not None:
        with contextlib.suppress(Exception):  # each worker will meet it again, and say so
            load()


def _spawn(
    spec: WorkerSpec,
    ours: socket.socket,
    pipe: int,
    payload: int,
    of_tasks: Mapping[signal.Signals, Any],
) -> int:
    """Start a fresh interpreter that inherits two descriptors; returns its process.

    Unlike a fork, this runs none of the handlers that libraries have registered for forks.
    """
    words = command(pipe, payload)
    with Connection(os.dup(ours.fileno())) as beginning:
        beginning.send((spec, time.monotonic()))
    defaults = [number for number, handler in of_tasks.items() if handler != signal.SIG_IGN]
    for fd in (pipe, payload):
        os.set_inheritable(fd, True)
    try:
        return os.posix_spawn(words[0], words, os.environ, setpgroup=0, setsigdef=defaults)
    finally:
        os.set_inheritable(payload, False)


def _kill_group(pid: int) -> None:
    """End a worker, and the children that its trials have left; one may be gone already.

    A child that is to outlive its trial begins a session of its own (`start_new_session=True`).
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _ended(pids: Sequence[int], timeout_s: float) -> set[int]:
    """Those of our workers that end in time, what they have left behind included."""
    left, deadline_s = set(pids), time.monotonic() + timeout_s
    while left and time.monotonic() < deadline_s:
        for pid in list(left):
            if os.waitpid(pid, os.WNOHANG)[0]:
                _kill_group(pid)
                left.remove(pid)
        time.sleep(0.002)
    return set(pids) - left


def wait(workers: Sequence[Worker], timeout_s: float) -> list[Worker]:
    """The workers that have sent something or have ended, after at most `timeout_s`."""
    owners = {w.pipe.fileno(): w for w in workers} | {
        w.pid_fd: w for w in workers if w.pid_fd is not None
    }
    poll = select.poll()
    for fd in owners:
        poll.register(fd, select.POLLIN)
    ready = {owners[fd].slot: owners[fd] for fd, _ in poll.poll(timeout_s * 1000)}
    return list(ready.values())


def drain(worker: Worker) -> tuple[list[FromWorker], bool]:
    """What a worker has sent, and whether it has ended.

    Whether it has is looked at before the pipe is read, so nothing is missed.
    """
    ended = worker.pid_fd is not None and bool(select.select([worker.pid_fd], [], [], 0)[0])
    messages: list[FromWorker] = []
    try:
        while (ended or len(messages) < MOST_MESSAGES) and worker.pipe.poll():
            messages.append(worker.pipe.recv())
    except (EOFError, OSError):
        ended = True
    return messages, ended
