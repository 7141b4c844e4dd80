"""The messages between driver and workers: frozen, sent through one pipe per worker."""

from __future__ import annotations

from dataclasses import dataclass

from iolaus.sweeps.reporting import Batch
from iolaus.sweeps.run.devices import GPU_VARIABLE
from iolaus.sweeps.types import Intervention, Memory, Outcome, Verdict

__all__ = [
    "Assignment",
    "Capped",
    "Filled",
    "Finished",
    "FromWorker",
    "LogMessage",
    "Measured",
    "Offered",
    "Quit",
    "Ready",
    "Reported",
    "Save",
    "Stopped",
    "ToWorker",
    "UserCodeReached",
    "WorkerSpec",
]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A trial to run: its number, and the command-line overrides that make its config.

    attempt: how often it was cut off or paused before; from 1 on it goes on from its checkpoint, if
    it has one. is_anew: it begins again all the same: its checkpoint was deleted, or is being so.
    from_checkpoint: that of another trial, from which it goes on where it has none; "": none.
    alone: what it once got no more of, "gpu" or "ram", so that nothing runs beside it; else "".
    """

    trial: int
    overrides: tuple[str, ...]
    attempt: int = 0
    is_anew: bool = False
    from_checkpoint: str = ""
    alone: str = ""


@dataclass(frozen=True, slots=True)
class UserCodeReached:
    """Worker to driver: what comes next is the user's code, and may take as long as it likes."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to driver: up, with room for so many trials at a time.

    Sent again when that changes.
    """

    n_lanes: int = 1


@dataclass(frozen=True, slots=True)
class Reported:
    """Worker to driver: what a trial has reported since the last time."""

    trial: int
    batch: Batch


@dataclass(frozen=True, slots=True)
class Finished:
    """Worker to driver: a trial is over; every report of it has been sent before.

    leaves: this worker takes no more trials, and ends.
    """

    trial: int
    outcome: Outcome
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class Quit:
    """Foreground to driver: the user has ended a trial, and the sweep with it, by this signal."""

    signal_number: int


@dataclass(frozen=True, slots=True)
class LogMessage:
    """Worker to driver: a line for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Filled:
    """Worker to driver: the lane-steps made so far, and how many of them trained a trial."""

    n_full: int
    n_all: int


@dataclass(frozen=True, slots=True)
class Held:
    """Worker to driver: a trial waits to run alone, and is not late; or not is_held: it begins."""

    trial: int
    is_held: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """Worker to driver: the peaks of its memory since its trial began.

    Where it has just left for holding more than its slot may, `memory.ran_out` says so.
    """

    memory: Memory


@dataclass(frozen=True, slots=True)
class Capped:
    """Driver to worker: hold no more than this share of the GPU's memory from now on."""

    gpu_share: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """Driver to worker: end this trial at its next report; is_pause: for now."""

    trial: int
    verdict: Verdict
    is_pause: bool = False


@dataclass(frozen=True, slots=True)
class Offered:
    """Driver to worker: have this trial try an intervention instead of ending.

    is_pause: whether it may go on later if it does not.
    """

    trial: int
    intervention: Intervention
    is_pause: bool = False


@dataclass(frozen=True, slots=True)
class Save:
    """Driver to worker: this trial is about to be cut off, and should make a checkpoint."""

    trial: int


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is given at birth.

    Its slot, environment variables to set, threads it may use, and memory that it may hold
    resident (None: no limit).
    """

    slot: int
    environment: tuple[tuple[str, str], ...] = ()
    n_threads: int | None = None
    memory_bytes: int | None = None

    @property
    def device(self) -> str:
        """The name of the GPU that it sees, "" for none."""
        return dict(self.environment).get(GPU_VARIABLE, "")


FromWorker = (
    UserCodeReached | Ready | Reported | Finished | LogMessage | Filled | Held | Measured | Quit
)
ToWorker = Assignment | Stopped | Offered | Save | Capped
