"""Long-lived worker processes, one per slot, that survive each other's deaths.

The driver forks one small *fork server* before it opens a database or starts a thread; the fork
server forks the workers. So a worker has the user's modules and task function in memory from its
first moment (closures too: nothing is pickled), a dead worker is replaced in milliseconds, and no
fork ever happens in a process with threads. Each worker is tied to the driver by one pipe. If the
driver dies, the pipes close, and fork server and workers end themselves.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from iolaus.sweeps.errors import SweepFailedError
from iolaus.sweeps.run._channel import EXIT_S
from iolaus.sweeps.run._messages import FromWorker, WorkerSpec
from iolaus.sweeps.run._worker import Server, worker_main

__all__ = ["ForkServer", "Worker", "drain", "wait"]

# Read from one worker before the others get their turn: one that never stops talking starves
# nobody.
MOST_MESSAGES = 1000
FOR_THE_DRIVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Worker:
    """The driver's end of a worker.

    Its pipe, and a descriptor that becomes readable when the process ends.
    """

    slot: int
    pid: int
    pipe: Connection
    pid_fd: int | None

    def close(self) -> None:
        """Let go of the worker; an idle one ends itself."""
        self.pipe.close()
        if self.pid_fd is not None:
            os.close(self.pid_fd)


class ForkServer:
    """Forks workers on request. Make it before any thread is started.

    Use it as a context manager. closing: descriptors that the driver keeps to itself.
    """

    def __init__(self, serve: Server, watched: str, closing: Sequence[int] = ()) -> None:
        _refuse_unforkable()
        self._let_go: list[int] = []  # workers that end themselves
        self._socket, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = _fork()
        if self._pid == 0:
            self._socket.close()
            for fd in closing:
                os.close(fd)
            _fork_server_main(child, serve, watched)
        child.close()

    def spawn(self, spec: WorkerSpec) -> Worker:
        """Start a worker. It sends Ready when it is up."""
        pid, fds = self._request(("spawn", spec))
        return Worker(spec.slot, pid, Connection(fds[0]), _open_pid_fd(pid))

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
        with contextlib.suppress(OSError):
            self._socket.sendall(pickle.dumps(("await", self._let_go)))
        self._socket.close()  # the fork server ends its workers, then itself
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


def _refuse_unforkable() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise SweepFailedError(
            "CUDA is already in use in this process, and a forked worker cannot use it again: "
            "move what touches the GPU (a tensor on cuda, torch.cuda.* calls) from module level "
            "into the task function"
        )


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads of numpy's BLAS, which set themselves up again after a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _open_pid_fd(pid: int) -> int | None:
    # Linux only. Without it a death is noticed when the pipe closes, which a surviving grandchild
    # can delay.
    with contextlib.suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None


def _fork_server_main(requests: socket.socket, serve: Server, watched: str) -> None:
    """Serve spawn and reap requests until the driver is gone, then end all workers.

    Never returns.
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
            kind, payload = pickle.loads(data)
            if kind == "spawn":
                ours, theirs = socket.socketpair()
                pid = _fork()
                with contextlib.suppress(
                    OSError
                ):  # in parent and child: neither waits for the other
                    os.setpgid(pid, pid)
                if pid == 0:
                    for number, handler in of_tasks.items():
                        signal.signal(number, handler)
                    requests.close()
                    ours.close()
                    worker_main(Connection(theirs.detach()), payload, serve, watched)
                children.add(pid)
                theirs.close()
                socket.send_fds(requests, [str(pid).encode()], [ours.fileno()])
                ours.close()
            elif kind == "await":
                children -= _ended(payload, EXIT_S)
            else:
                _, status = os.waitpid(payload, 0)
                _kill_group(payload)
                children.discard(payload)
                requests.sendall(str(status).encode())
    except OSError:
        pass  # the driver is gone
    finally:
        for pid in children:
            _kill_group(pid)
        os._exit(0)


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
