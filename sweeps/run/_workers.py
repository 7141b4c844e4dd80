"""The workers of a sweep, one per slot: started, spoken to, listened to, let go."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iolaus.sweeps.run._fork_server import ForkServer, Worker, drain, wait
from iolaus.sweeps.run._messages import FromWorker, ToWorker, WorkerSpec

__all__ = ["Gone", "Workers"]

log = logging.getLogger("sweeps")


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker has ended by itself; `cause` says how.

    signal_number: of the signal that killed it, None if it exited.
    """

    cause: str
    signal_number: int | None = None


class Workers:
    """The driver's workers by slot.

    specs: one per slot; a worker is started for it on request only.
    """

    def __init__(self, fork_server: ForkServer, specs: Sequence[WorkerSpec]) -> None:
        self.specs = specs
        self._fork_server = fork_server
        self._up: dict[int, Worker] = {}

    @property
    def started_how(self) -> str:
        """How trials run, where that is not as usual; else nothing."""
        method = self._fork_server.method
        is_usual = method.name == "fork"
        return (
            "" if is_usual else f"workers are spawned, each imports the app again: {method.reason}"
        )

    def start(self, slot: int) -> None:
        """Start a worker; it sends Ready when it is up."""
        self._up[slot] = self._fork_server.start(self.specs[slot])

    def pid(self, slot: int) -> int:
        """The process of a slot's worker."""
        return self._up[slot].pid

    def is_forked(self, slot: int) -> bool:
        """Whether a slot's worker is a copy of the driver, not a fresh interpreter."""
        return self._up[slot].method == "fork"

    def give_up_forking(self, slot: int) -> str:
        """Spawn workers from now on; see ForkServer.give_up_forking."""
        return self._fork_server.give_up_forking(self._up[slot])

    def send(self, slot: int, message: ToWorker) -> None:
        """Send a message; one to a worker that has just died is lost."""
        try:
            self._up[slot].pipe.send(message)
        except OSError:
            log.debug("the worker of slot %d is gone; its death is noticed by listening", slot)

    def release(self, slot: int) -> None:
        """Let a worker go; it ends itself."""
        self._fork_server.release(self._up.pop(slot))

    def kill(self, slot: int) -> None:
        """End a worker now, in the middle of whatever it does."""
        worker = self._up.pop(slot, None)
        if worker is None:  # it has just died, and nobody has heard of it yet
            return
        self._fork_server.kill(worker)
        worker.close()

    def listen(self, timeout_s: float) -> Iterator[tuple[int, FromWorker | Gone]]:
        """What the workers have sent, each message with its slot, after at most `timeout_s`.

        A worker's last message is followed by Gone, unless it was let go meanwhile.
        """
        for worker in wait(list(self._up.values()), timeout_s):
            if self._up.get(worker.slot) is not worker:
                continue
            messages, ended = drain(worker)
            for message in messages:
                yield worker.slot, message
            if ended and self._up.get(worker.slot) is worker:
                cause, number = self._fork_server.cause_of_death(worker)
                self._up.pop(worker.slot).close()
                yield worker.slot, Gone(cause, number)

    def close(self) -> None:
        """End all workers now."""
        for slot in list(self._up):
            self.kill(slot)
