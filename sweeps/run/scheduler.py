"""Which trial runs where: events in, actions out.

No clock, no I/O, no randomness: what the scheduler does is decided by the events it is given, so
every failure can be replayed (`iolaus.sweeps.run.events.replay_events`). The driver turns what
happens in the world into events and carries out the actions, in order.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from operator import countOf

from iolaus.sweeps.types import Ending, Outcome, Verdict

__all__ = [
    "Action",
    "Ask",
    "Died",
    "Ended",
    "Event",
    "Exhausted",
    "Freed",
    "Halted",
    "Interrupted",
    "Judged",
    "Kill",
    "Lost",
    "Proposed",
    "Release",
    "Renewed",
    "Scheduler",
    "Spawn",
    "Start",
    "Stop",
    "Tell",
    "TimedOut",
]

# A rate means little over a handful of trials: the failure limit is judged over at least this many.
N_TRIALS_TO_JUDGE_FAILURES = 10
# A worker that dies this often in a row without having run a trial will not come up at the next try
# either.
N_STARTS_BEFORE_GIVING_UP = 3


@dataclass(frozen=True, slots=True)
class Freed:
    """The worker in `slot` is up, with room for `n_lanes` trials at a time.

    Sent again when the room changes.
    """

    slot: int
    n_lanes: int = 1


@dataclass(frozen=True, slots=True)
class Proposed:
    """The study has given `slot` a trial to run."""

    slot: int
    trial: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The study has no setting left for `slot`, and will have none."""

    slot: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A rule has decided that `trial` should end now."""

    trial: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class TimedOut:
    """`trial` has run, or has been silent, for longer than it may; `reason` says how long."""

    trial: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Another driver has taken over `trial`, and runs it; `reason` says why."""

    trial: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """`trial` has come to an end in its worker, which has room again, or leaves: it ends too."""

    trial: int
    outcome: Outcome
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class Died:
    """The worker in `slot` is gone; `cause` says how.

    outcome: of its trials, where they have not failed by it: for want of memory.
    """

    slot: int
    cause: str
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Renewed:
    """The worker in `slot`, which is idle, is to make way for a fresh one: it holds memory."""

    slot: int


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The user wants to stop: the first time gently, the second time now."""


@dataclass(frozen=True, slots=True)
class Halted:
    """Something the sweep cannot go on without is broken: stop gently, and say `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker in `slot`."""

    slot: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the study for a trial for `slot`; answer with Proposed or Exhausted, now or later."""

    slot: int


@dataclass(frozen=True, slots=True)
class Start:
    """Have the worker in `slot` run `trial`."""

    slot: int
    trial: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Have the worker in `slot` end `trial` at its next report."""

    slot: int
    trial: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Tell:
    """Record the outcome of `trial`. Given once for every proposal that was not lost."""

    trial: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Release:
    """Let the worker in `slot` go: it runs nothing and will not be needed again."""

    slot: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End the worker in `slot` now."""

    slot: int


Event = (
    Freed | Proposed | Exhausted | Judged | TimedOut | Lost | Ended | Died | Renewed | Interrupted
    | Halted
)  # fmt: skip
Action = Spawn | Ask | Start | Stop | Tell | Release | Kill


@dataclass
class Scheduler:
    """Keeps `n_slots` workers full until `n_to_run` trials have been run, with no barrier between.

    A worker that dies takes a trial of its own with it, which has failed. Trials that shared it are
    cut off, to be run again: one of them was the cause at most. If the slot's next worker dies too
    before any of its trials has ended, they have failed.

    A trial that ends interrupted, for want of memory, is asked for again.

    A trial that has timed out has failed, and its worker is ended; trials that shared it are run
    again.

    n_to_run: trials to propose in this session, >= 0.
    max_failure_rate: share of failed trials, in [0, 1], above which no new trial is started. Judged
        over the trials that have ended, or over the first 10 (all, if there are fewer) while there
        are not so many.
    may_get_more: whether more trials may come than n_to_run, from drivers that share the study and
        die, or paused ones that go on: a free slot asks for one until the study is exhausted.
    n_paused: so many are paused when the session begins, and may go on side by side.
    """

    n_slots: int
    n_to_run: int
    max_failure_rate: float = 1.0
    may_get_more: bool = False
    n_paused: int = 0

    draining: bool = field(default=False, init=False)
    failure: str | None = field(default=None, init=False)
    _n_asked: int = field(default=0, init=False)
    _n_ended: int = field(default=0, init=False)
    _n_failed: int = field(default=0, init=False)
    _n_interrupts: int = field(default=0, init=False)
    _slots: set[int] = field(default_factory=set, init=False)  # alive, or being started
    _asking: Counter[int] = field(default_factory=Counter, init=False)  # trials asked for, by slot
    # Room of the workers that are up.
    _n_lanes: dict[int, int] = field(default_factory=dict, init=False)
    _running: dict[int, int] = field(default_factory=dict, init=False)  # trial -> slot
    _stopping: set[int] = field(default_factory=set, init=False)
    _fruitless_starts: dict[int, int] = field(default_factory=dict, init=False)
    # Slots whose last worker took several trials with it.
    _cut_off: set[int] = field(default_factory=set, init=False)

    def start(self) -> list[Action]:
        """The actions that begin the sweep."""
        n_trials = max(self.n_to_run + self.n_paused, int(self.may_get_more))
        slots = range(min(self.n_slots, n_trials))
        self._slots.update(slots)
        return [Spawn(slot) for slot in slots]

    @property
    def done(self) -> bool:
        """Whether every worker has been let go and nothing is asked: every trial is recorded."""
        return not self._slots and not self._asking.total()

    @property
    def running(self) -> dict[int, int]:
        """The trials under way, each with its slot."""
        return dict(self._running)

    def handle(self, event: Event) -> list[Action]:
        """What to do about `event`; nothing, if its trial or slot is already over."""
        match event:
            case Freed(slot, n_lanes) if slot in self._slots:
                self._n_lanes[slot] = n_lanes
                return self._refill(slot)
            case Proposed(slot, trial):
                return self._proposed(slot, trial)
            case Exhausted(slot) if self._asking[slot]:
                self._asking[slot] -= 1
                self.may_get_more = False
                self.n_to_run = self._n_asked = self._n_asked - 1
                return self._release(slot)
            case Judged(trial, verdict) if trial in self._running and trial not in self._stopping:
                self._stopping.add(trial)
                return [Stop(self._running[trial], trial, verdict)]
            case Ended(trial, outcome, leaves) if trial in self._running:
                slot = self._running[trial]
                self._fruitless_starts.pop(slot, None)
                self._cut_off.discard(slot)
                told = self._tell(trial, outcome)
                self._n_asked -= outcome.ending is Ending.INTERRUPTED  # it is asked for again
                if not leaves:
                    return [*told, *self._refill(slot)]
                del self._n_lanes[slot]
                return [*told, Release(slot), *self._replace(slot)]
            case TimedOut(trial, reason) if trial in self._running:
                return self._timed_out(trial, reason)
            case Lost(trial, reason) if trial in self._running:
                return self._lost(trial, reason)
            case Died(slot, cause, outcome) if slot in self._slots:
                return self._died(slot, cause, outcome)
            case Renewed(slot) if self._is_idle(slot):
                del self._n_lanes[slot]
                return [Release(slot), *self._replace(slot)]
            case Interrupted():
                return self._interrupted()
            case Halted(reason):
                self.draining, self.failure = True, self.failure or reason
        return []

    def _is_idle(self, slot: int) -> bool:
        """Whether a worker is up there, and has not been let go, that runs nothing."""
        is_up = slot in self._slots and slot in self._n_lanes
        return is_up and slot not in self._running.values()

    def _refill(self, slot: int) -> list[Action]:
        n = min(self._n_lanes.get(slot, 0) - self._load(slot), self._n_left())
        if n <= 0:
            return self._release(slot)
        self._n_asked += n
        self._asking[slot] += n
        return [Ask(slot)] * n

    def _n_left(self) -> int:
        """Trials that may still be asked for."""
        if self.draining:
            return 0
        return sys.maxsize if self.may_get_more else self.n_to_run - self._n_asked

    def _load(self, slot: int) -> int:
        """Trials that a worker has, or is about to get."""
        return self._asking[slot] + countOf(self._running.values(), slot)

    def _proposed(self, slot: int, trial: int) -> list[Action]:
        self._asking[slot] -= 1
        self._running[trial] = slot
        if not self.draining:
            return [Start(slot, trial)]
        interrupted = Outcome(Ending.INTERRUPTED, reason="the sweep was stopped before it began")
        return [*self._tell(trial, interrupted), *self._release(slot)]

    def _release(self, slot: int) -> list[Action]:
        # A slot may be gone: its worker died, or was killed, while the study was being asked. One
        # not yet up waits.
        if slot not in self._slots or self._load(slot) or slot not in self._n_lanes:
            return []
        self._slots.discard(slot)
        return [Release(slot)]

    def _tell(self, trial: int, outcome: Outcome) -> list[Action]:
        del self._running[trial]
        self._stopping.discard(trial)
        if outcome.ending not in (Ending.INTERRUPTED, Ending.PAUSED):
            self._n_ended += 1
            self._n_failed += outcome.ending is Ending.FAILED
            n_judged = max(self._n_ended, min(self.n_to_run, N_TRIALS_TO_JUDGE_FAILURES))
            if self._n_failed / n_judged > self.max_failure_rate and self.failure is None:
                self.draining = True
                self.failure = (
                    f"{self._n_failed} of {self._n_ended} trials failed, more than "
                    f"max_failure_rate={self.max_failure_rate:g} allows; "
                    f"the last one, trial {trial}: {outcome.reason}"
                )
        return [Tell(trial, outcome)]

    def _died(self, slot: int, cause: str, known: Outcome | None) -> list[Action]:
        self._n_lanes.pop(slot, None)
        trials = [trial for trial, where in self._running.items() if where == slot]
        are_cut_off = len(trials) > 1 and slot not in self._cut_off and known is None
        ending = Ending.INTERRUPTED if are_cut_off else Ending.FAILED
        outcome = known or Outcome(ending, reason=cause)
        actions = [action for trial in trials for action in self._tell(trial, outcome)]
        if are_cut_off:
            self._cut_off.add(slot)
        if outcome.ending is Ending.INTERRUPTED:
            self._n_asked -= len(trials)
        if trials:
            self._fruitless_starts.pop(slot, None)
        else:
            self._fruitless_starts[slot] = self._fruitless_starts.get(slot, 0) + 1
            if self._fruitless_starts[slot] >= N_STARTS_BEFORE_GIVING_UP:
                self.draining = True
                self.failure = (
                    self.failure or f"the worker of slot {slot} does not stay up: {cause}"
                )
        return [*actions, *self._replace(slot)]

    def _timed_out(self, trial: int, reason: str) -> list[Action]:
        """Only the whole worker of a trial that hangs can be ended; others in it are run again.

        Each timeout is the end of one trial, so this cannot go on for ever.
        """
        slot = self._running[trial]
        self._n_lanes.pop(slot, None)
        actions: list[Action] = [Kill(slot)]
        actions += self._tell(trial, Outcome(Ending.FAILED, reason=reason))
        return [*actions, *self._cut_off_neighbours(slot, trial, reason)]

    def _lost(self, trial: int, reason: str) -> list[Action]:
        """Nothing is told: the trial is another driver's, and so is its result."""
        slot = self._running.pop(trial)
        self._stopping.discard(trial)
        self._n_lanes.pop(slot, None)
        self._n_asked -= 1
        return [Kill(slot), *self._cut_off_neighbours(slot, trial, reason)]

    def _cut_off_neighbours(self, slot: int, trial: int, reason: str) -> list[Action]:
        actions: list[Action] = []
        neighbours = [other for other, where in self._running.items() if where == slot]
        cause = f"trial {trial}, which shared its worker, {reason}"
        for other in neighbours:
            actions += self._tell(other, Outcome(Ending.INTERRUPTED, reason=cause))
        self._n_asked -= len(neighbours)
        return [*actions, *self._replace(slot)]

    def _replace(self, slot: int) -> list[Action]:
        """Start another worker where one is gone, if there is anything left for it."""
        if self.draining or not (self._asking[slot] or self._n_left() > 0):
            self._slots.discard(slot)
            return []
        return [Spawn(slot)]

    def _interrupted(self) -> list[Action]:
        self._n_interrupts += 1
        self.draining = True
        if self._n_interrupts == 1:
            # A worker that is not up has nothing to finish, and may never be.
            useless = self._slots - self._n_lanes.keys() - set(self._running.values())
            self._slots -= useless
            return [Kill(slot) for slot in sorted(useless)]
        actions: list[Action] = [Kill(slot) for slot in sorted(self._slots)]
        self._slots.clear()
        self._n_lanes.clear()
        for trial in sorted(self._running):
            actions += self._tell(
                trial, Outcome(Ending.INTERRUPTED, reason="the sweep was stopped while it ran")
            )
        return actions
