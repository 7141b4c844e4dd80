"""The worker's end of its pipe to the driver."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from types import FrameType

from iolaus.sweeps.reporting import Reporter
from iolaus.sweeps.run._messages import (
    Assignment,
    Capped,
    Finished,
    FromWorker,
    LogMessage,
    Measured,
    Offered,
    Ready,
    Reported,
    Save,
    Stopped,
    WorkerSpec,
)
from iolaus.sweeps.run.memory import (
    begin_measuring,
    cap_gpu_share,
    free_unused,
    measure,
    resident_bytes,
)
from iolaus.sweeps.types import Memory, Outcome

__all__ = ["Channel", "ReleasedError"]

# How long a report may wait in the worker for company. Short enough to watch live, long enough to
# send in batches.
BATCH_S = 0.1
# How long a worker that is let go may take to end.
EXIT_S = 5.0
# How long a worker that a signal ends waits for its trials' checkpoints, and then for the driver to
# do it.
SAVE_S = 10.0
SIGNAL_ANSWER_S = 2.0
# From one look at the memory that a trial holds to the next one that the driver hears of.
MEASURE_S = 1.0
# The exit status of a worker that held more than it may: that of a shell whose child was killed.
OVER_LIMIT_STATUS = 137


class ReleasedError(Exception):
    """The driver has let go of this worker, or is gone: there are no more trials."""


class Channel:
    """The worker's end of its pipe: one thread talks to the driver while the main thread trains."""

    def __init__(self, pipe: Connection, watched: str, spec: WorkerSpec) -> None:
        self.spec = spec
        self._pipe = pipe
        self._watched = watched
        self._assignments: SimpleQueue[Assignment | None] = SimpleQueue()  # None: no more
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._reporters: dict[int, Reporter] = {}
        self._stopped: dict[int, Stopped] = {}  # trials that wait to be taken
        self._is_ending = False
        self._pid = os.getpid()
        self._gpu_share: float | None = None
        self._is_to_cap = False  # torch is not loaded yet
        self._limit_bytes: int | None = None  # of the trial that runs
        self._is_shared = False  # by trials side by side, of which none has its own peak
        self._measured_s = 0.0
        threading.Thread(target=self._talk, name="iolaus-channel", daemon=True).start()

    def open(self, n_lanes: int = 1) -> None:
        """Tell the driver that this worker is up, with room for so many trials.

        To be called again whenever that changes.
        """
        self.send(Ready(n_lanes))

    def take(self, wait_s: float | None = None) -> tuple[Assignment, Reporter] | None:
        """The next trial to run, with its reporter.

        None if none comes in time; wait_s=None waits for ever. Raises ReleasedError when there will
        be none.
        """
        try:
            assignment = (
                self._assignments.get(timeout=wait_s)
                if wait_s != 0
                else self._assignments.get_nowait()
            )
        except Empty:
            return None
        if assignment is None:
            raise ReleasedError
        reporter = Reporter(self._watched, time.monotonic, self.flush)
        self._cap()
        with self._lock:
            self._is_shared = bool(self._reporters)
            if not self._is_shared:
                begin_measuring()
                self._measured_s = time.monotonic()
            self._limit_bytes = None if assignment.alone else self.spec.memory_bytes
            self._reporters[assignment.trial] = reporter
            if (stopped := self._stopped.pop(assignment.trial, None)) is not None:
                reporter.stop(stopped.verdict, stopped.is_pause)
        return assignment, reporter

    def terminated(self, number: int, _frame: FrameType | None = None) -> None:
        """A handler of signals that end a process: trials that make checkpoints make one more.

        The driver, which has mostly got the same signal, waits for them and then ends this worker.
        Where it has not, or no trial here makes any, the worker ends by the signal.
        """
        reporters = list(self._reporters.values())  # no lock: the thread it interrupts may have it
        is_ours = os.getpid() == self._pid  # and not a process that a task has forked
        if self._is_ending or not is_ours or not any(r.saves for r in reporters):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._is_ending = True
        for reporter in reporters:
            reporter.save()

        def end() -> None:
            deadline_s = time.monotonic() + SAVE_S
            while time.monotonic() < deadline_s and any(r.is_to_save for r in reporters):
                time.sleep(0.05)
            time.sleep(SIGNAL_ANSWER_S)
            os.kill(os.getpid(), number)
            time.sleep(SIGNAL_ANSWER_S)
            os._exit(128 + number)  # the main thread is held up, and has not seen the signal

        threading.Thread(target=end, name="iolaus-signal", daemon=True).start()

    def finish(self, trial: int, outcome: Outcome, leaves: bool = False) -> None:
        """A trial is over; leaves: this worker takes no more."""
        with self._lock:
            reporter = self._reporters.pop(trial)
            is_idle, was_shared = not self._reporters, self._is_shared
        self._pass_on(trial, reporter)
        if not was_shared:
            seen, known = measure(), outcome.memory or Memory()
            known = replace(known, gpu_bytes=seen.gpu_bytes, ram_bytes=seen.ram_bytes)
            outcome = replace(outcome, memory=known)
        if is_idle and self._gpu_share is not None:
            free_unused()
        self.send(Finished(trial, outcome, leaves))

    def say(self, text: str) -> None:
        """Tell the user something."""
        self.send(LogMessage(text))

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
                        with self._lock:  # what came before was for an earlier attempt
                            self._stopped.pop(message.trial, None)
                        self._assignments.put(message)
                    elif isinstance(message, Capped):
                        self._gpu_share, self._is_to_cap = message.gpu_share, True
                        self._cap()
                    else:
                        self._deliver(message)
                self.flush()
                self._look_at_memory()
        except (EOFError, OSError, ReleasedError):
            # The driver is dead, and nobody is left to train for; or it has let go of this worker,
            # which runs nothing then and may end as programs do.
            with self._lock:
                is_busy = bool(self._reporters)
            if not is_busy:
                self._assignments.put(None)
                time.sleep(EXIT_S)
            os._exit(0)

    def _cap(self) -> None:
        """Hold the share of the GPU that the driver has named; again, until torch is loaded."""
        if self._is_to_cap and self._gpu_share is not None:
            self._is_to_cap = not cap_gpu_share(self._gpu_share)

    def _look_at_memory(self) -> None:
        """End this worker if it holds more than it may; tell the driver of its peaks at times."""
        self._cap()
        with self._lock:
            n_trials, limit = len(self._reporters), self._limit_bytes
        if not n_trials:
            return
        held = resident_bytes() if limit is not None else None
        if limit is not None and held is not None and held > limit:
            over = replace(measure(), ran_out="ram", capacity_bytes=limit)
            self.flush()
            self.send(Measured(over))
            os._exit(OVER_LIMIT_STATUS)
        if n_trials == 1 and time.monotonic() - self._measured_s >= MEASURE_S:
            self._measured_s = time.monotonic()
            self.send(Measured(measure()))

    def _deliver(self, message: Stopped | Offered | Save) -> None:
        with self._lock:
            reporter = self._reporters.get(message.trial)
            if reporter is None and isinstance(message, Stopped):
                # It has not begun, or was over before this came.
                self._stopped[message.trial] = message
        if reporter is None:
            return
        match message:
            case Stopped(_, verdict, is_pause):
                reporter.stop(verdict, is_pause)
            case Offered(_, intervention, is_pause):
                reporter.offer(intervention, is_pause)
            case Save():
                reporter.save()

    def _pass_on(self, trial: int, reporter: Reporter) -> None:
        batch = reporter.take()
        if batch is not None:
            self.send(Reported(trial, batch))

    def send(self, message: FromWorker) -> None:
        """Send a message, from any thread. Raises ReleasedError where nobody listens any more."""
        # Connection.send is not safe from two threads; the pipe itself keeps the order.
        data = pickle.dumps(message)
        with self._send_lock:
            try:
                self._pipe.send_bytes(data)
            except OSError as error:
                raise ReleasedError from error
