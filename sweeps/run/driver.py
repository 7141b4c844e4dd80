"""The loop of a sweep: the world's news become events, the scheduler's actions are carried out."""

from __future__ import annotations

import functools
import logging
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Protocol

from optuna.trial import TrialState

from iolaus.sweeps.checkpoints import forget, keep_newest
from iolaus.sweeps.curves import CurveWriter
from iolaus.sweeps.errors import StorageError, SweepError
from iolaus.sweeps.pruners.compose import parts
from iolaus.sweeps.reporting import Continued, Kept, Row
from iolaus.sweeps.run import scheduler as s
from iolaus.sweeps.run._foreground import Foreground
from iolaus.sweeps.run._messages import (
    Assignment,
    Capped,
    Filled,
    Finished,
    FromWorker,
    Held,
    LogMessage,
    Measured,
    Offered,
    Quit,
    Ready,
    Reported,
    Save,
    Stopped,
    UserCodeReached,
)
from iolaus.sweeps.run._objective import Objective, with_objective
from iolaus.sweeps.run._outcomes import describe
from iolaus.sweeps.run._signals import handled
from iolaus.sweeps.run._workers import Gone, Workers
from iolaus.sweeps.run.devices import DeviceUse
from iolaus.sweeps.run.events import EventLog
from iolaus.sweeps.run.memory import after_out_of_memory, kills_by_kernel, machine_bytes
from iolaus.sweeps.run.meter import Meter
from iolaus.sweeps.run.placement import Placement, shape_of
from iolaus.sweeps.run.slots_log import SlotRow, SlotsLog, SlotState
from iolaus.sweeps.run.timeouts import AwakeClock, Timeouts
from iolaus.sweeps.search.space import Space
from iolaus.sweeps.study.budget import Budget
from iolaus.sweeps.study.kept import KeptCheckpoints
from iolaus.sweeps.study.record import Run, is_over, record_of
from iolaus.sweeps.study.sweep_study import Proposal, SweepStudy
from iolaus.sweeps.types import (
    OUTPUT_FILE,
    WAITS_RULE,
    Ending,
    Intervention,
    Memory,
    Outcome,
    Verdict,
)

__all__ = ["Driver", "Records", "Rules", "TrialRun", "Watcher"]

log = logging.getLogger("sweeps")

POLL_S = 0.2
# From one look for a request to stop to the next.
LOOK_S = 1.0
# Signals by which a job scheduler, or a terminal that closes, ends a sweep at once.
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# Sent to all processes of a job, such a signal may end a worker before it reaches the driver.
SIGNAL_LATENCY_S = 1.0
# A pause of the driver that is longer is no time that its trials have wasted.
MOST_GAP_S = 5.0
# How often the study is told what the session has cost: what a driver that is killed forgets.
NOTE_S = 10.0
# How often a driver with nothing to do looks what has become of the trials of others.
ASK_AGAIN_S = 1.0


class Watcher(Protocol):
    """Someone who shows a sweep to its user."""

    def started(self, trial: int, slot: int) -> None:
        """A trial was handed to a worker."""

    def planned(self, trial: int, n_steps: int) -> None:
        """A trial has planned how many steps it will make."""

    def reported(self, trial: int, step: int, value: float | None) -> None:
        """A trial reported; value is the watched metric, None if it was not among the metrics."""

    def ended(self, trial: int, outcome: Outcome) -> None:
        """A trial was recorded as over."""

    def draining(self, why: str) -> None:
        """No new trials will be started."""

    def sampled(self, rows: Sequence[SlotRow]) -> None:
        """What the busy slots hold and do was looked at."""

    def tick(self) -> None:
        """Some time has passed."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user has decided about the trials.

    space: turns the values of a proposal into overrides. seed_key: the config's key for the seeds
    of repeats. max_failure_rate: in [0, 1], above which no new trial is started. timeouts: after
    which a trial is ended. budget: of all sessions, None for no limit. paused_bytes: what the
    checkpoints of paused trials may take. keep_checkpoints: of how many of the best completed
    trials, and of those that stay paused.
    """

    space: Space
    seed_key: str
    objective: Objective
    max_failure_rate: float
    timeouts: Timeouts = field(default_factory=Timeouts)
    budget: Budget | None = None
    paused_bytes: int = 0
    keep_checkpoints: int = 4

    def assignment(self, proposal: Proposal) -> Assignment:
        """A proposed trial, ready for a worker to make its config."""
        outside = proposal.outside
        lines = [
            line
            for line in self.space.overrides(proposal.values)
            if line.lstrip("+~").partition("=")[0] not in outside
        ] + [f"{key}={value}" for key, value in outside.items()]
        seeds = () if proposal.seed is None else (f"{self.seed_key}={proposal.seed}",)
        overrides = (*lines, *seeds)
        return Assignment(
            *(proposal.trial, overrides, proposal.attempt),
            is_anew=proposal.is_anew,
            from_checkpoint=proposal.from_checkpoint,
            alone=proposal.alone,
        )


@dataclass(frozen=True, slots=True)
class Records:
    """Where a session leaves what happens, beside the study.

    folder: the sweep's. session: its number, from 0. kept: the checkpoints that stay. slots: what
    the slots hold and do, None for nothing of it.
    """

    folder: Path
    session: int
    curves: CurveWriter
    events: EventLog
    kept: KeptCheckpoints = field(default_factory=lambda: KeptCheckpoints(0, 1.0))
    slots: SlotsLog | None = None


@dataclass
class TrialRun:
    """What the driver knows of a trial that it runs or ran.

    others: metrics it reported beside the watched one. saves, has_saved: see
    `iolaus.sweeps.reporting.Batch`. kept: its newest checkpoint. outcome: the task's own, with no
    objective looked for, None while it runs. awake_s, heard_s: when it was started and last
    reported, by a clock that stands while the driver is held up. gpu_share: of its card that it may
    hold, None for all. is_held: it waits in its worker to run alone, and no timeout counts for it.
    step: the last one reported. memory: its peaks so far.
    """

    assignment: Assignment
    slot: int = -1
    started_s: float | None = None
    awake_s: float = 0.0
    heard_s: float = 0.0
    folder: Path | None = None
    others: set[str] = field(default_factory=set)
    is_stopping: bool = False
    saves: bool = False
    has_saved: bool = False
    kept: Kept | None = None
    outcome: Outcome | None = None
    gpu_share: float | None = None
    is_held: bool = False
    step: int | None = None
    memory: Memory = field(default_factory=Memory)


class Driver:
    """Runs the trials that a study still misses.

    clock: seconds, never going back. placement: where they may run; None: wherever a slot is free.
    device_uses: how the GPUs are used now, by name.
    """

    def __init__(
        self,
        study: SweepStudy,
        workers: Workers | Foreground,
        rules: Rules,
        records: Records,
        watcher: Watcher,
        clock: Callable[[], float],
        placement: Placement | None = None,
        device_uses: Callable[[], Mapping[str, DeviceUse]] = dict,
    ) -> None:
        self._study = study
        self._workers = workers
        self._rules = rules
        self._records = records
        self._watcher = watcher
        self._clock = clock
        self._awake_clock = AwakeClock(clock, MOST_GAP_S)
        self._meter = Meter(workers.specs, clock)
        self._cost_before = study.cost_before()
        self._scheduler = s.Scheduler(
            *(len(workers.specs), study.n_to_ask, rules.max_failure_rate),
            may_get_more=study.leases is not None or study.ends_bring_more,
            n_paused=len(study.paused) if study.may_thaw else 0,
        )
        slots = {spec.slot: spec.device for spec in workers.specs}
        self._placement = placement or Placement(slots, ())
        self._device_uses = device_uses
        self._over_limit: dict[int, Memory] = {}  # of workers that have left for it, by slot
        self._n_killed_by_kernel = kills_by_kernel()
        self._n_interrupts = 0
        self._is_saving = False
        self._looked_s = self._noted_s = clock()
        self._signals: list[int] = []  # that have come and are not handled yet
        self._n_recorded = 0
        # Slots that wait for what becomes of trials under way: others' may come here, and paused
        # ones may go on.
        self._postponed: list[int] = []
        self._n_recorded_then = 0
        self._taken_over_s = self._asked_again_s = clock()
        self._shown: set[str] = set()  # log messages; every worker finds out the same
        self._filled: dict[int, Filled] = {}  # of workers with lanes, by slot
        # Slots whose worker is on its way to the user's code, since when; inf: waits for a trial.
        self._unborn: dict[int, float] = {}
        self._n_unborn = Counter[int]()  # by slot: workers that did not come to the user's code
        self.trials: dict[int, TrialRun] = {}
        self.stopped_by: int | None = None  # the number of the last signal that was obeyed

    @property
    def filled(self) -> float | None:
        """The share of all lane-steps that trained a trial; None without lanes."""
        n_all = sum(filled.n_all for filled in self._filled.values())
        n_full = sum(filled.n_full for filled in self._filled.values())
        return n_full / max(n_all, 1) if self._filled else None

    def run(self) -> str | None:
        """Run until nothing is left to do, or until stopped; returns why it gave up, or None.

        Ctrl-C: the first lets running trials finish, the second ends them now. SIGTERM and SIGHUP
        are taken as the second. Where it cannot go on, because a pruner or a sampler raises or no
        worker can be started, what runs is put back, and why is returned.
        """
        with ExitStack() as stack:
            stack.enter_context(self._interruptible())
            stack.callback(self._close)
            if self._study.leases is not None:
                self._study.leases.start()
                stack.callback(self._study.leases.close)
            try:
                self._run()
                if not self._scheduler.draining and not self._study.of_others():
                    self._close_paused()
            except Exception as error:
                self._give_up(error)
        return self._scheduler.failure

    def _run(self) -> None:
        self._do(self._scheduler.start())
        while not self._scheduler.done:
            self._obey_signals()
            for slot, message in self._workers.listen(POLL_S):
                self._obey_signals()  # the death of a worker may be the work of the same one
                self._receive(slot, message)
            self._look_around()

    def hear(self, slot: int, message: FromWorker) -> None:
        """Take a message at once: of a trial that runs in this process, while it runs."""
        self._receive(slot, message)
        self._look_around()

    def _look_around(self) -> None:
        """Do what is due, whether or not a worker has sent something."""
        self._end_overdue()
        self._look_at_others()
        self._ask_again()
        self._obey_request()
        self._keep_budget()
        self._end_unborn()
        self._place()
        self._sample()
        self._watcher.tick()
        try:
            self._records.curves.flush_if_due()
            self._study.check_storage()
        except StorageError as error:
            self._halt(error)

    def _give_up(self, error: Exception) -> None:
        if isinstance(error, SweepError):
            reason = str(error)
        else:  # of the user's code, or of ours
            log.error("the sweep cannot go on", exc_info=error)
            reason = f"the sweep cannot go on: {describe(error)}"
        self._handle(s.Halted(reason))
        while self._n_interrupts < 2:
            self._interrupt()
        self._withdraw()

    def _handle(self, event: s.Event) -> None:
        self._records.events.add(event)
        was_draining = self._scheduler.draining
        self._do(self._scheduler.handle(event))
        if self._scheduler.failure is not None and not was_draining:
            self._watcher.draining(self._scheduler.failure)

    def _do(self, actions: Sequence[s.Action]) -> None:
        for action in actions:
            match action:
                case s.Spawn(slot):
                    self._workers.start(slot)
                    self._unborn[slot] = self._awake_clock()
                case s.Ask(slot):
                    self._ask(slot)
                case s.Start(slot, trial):
                    self._start(slot, trial)
                case s.Stop(slot, trial, verdict):
                    stopped = Stopped(trial, verdict, self._is_pause(verdict))
                    self._workers.send(slot, stopped)
                case s.Tell(trial, outcome):
                    self._record(trial, outcome)
                case s.Release(slot):
                    self._unborn.pop(slot, None)
                    self._workers.release(slot)
                    self._placement.let_go(slot)
                case s.Kill(slot):
                    self._unborn.pop(slot, None)
                    self._workers.kill(slot)
                    self._placement.let_go(slot)

    def _obey_signals(self) -> None:
        while self._signals and not self._is_saving:
            number = self._signals.pop(0)
            self.stopped_by = number
            if number in ENDING_SIGNALS:
                self._end_by(number, signal.Signals(number).name)
            elif self._n_interrupts:
                self._stop_running()
            else:
                self._interrupt()
                why = "interrupted: running trials finish; once more stops them now"
                self._watcher.draining(why)

    def _obey_request(self) -> None:
        """Do what `iolaus stop` has asked, from whatever machine: as by Ctrl-C, or SIGTERM."""
        if self._clock() - self._looked_s < LOOK_S or self._n_interrupts >= 2:
            return
        self._looked_s = self._clock()
        request = self._study.stop_request()
        if request is None:
            return
        if request.how == "now":
            self._end_by(signal.SIGTERM, "iolaus stop")
        elif not self._n_interrupts:
            self.stopped_by = signal.SIGINT
            self._watcher.draining("iolaus stop --finish: running trials finish")
            self._interrupt()

    def _end_by(self, number: int, name: str) -> None:
        """End the sweep now, as this signal does; name: of what has ended it."""
        self.stopped_by = number
        self._watcher.draining(f"{name}: running trials are stopped, to go on later")
        self._stop_running()

    def _keep_budget(self) -> None:
        """Read the meter; when the budget is spent, cut off what runs, to go on with a larger."""
        cost = self._meter.read(self._scheduler.running.values())
        if self._clock() - self._noted_s >= NOTE_S:
            self._noted_s = self._clock()
            self._study.note_cost(cost)
            self._cost_before = self._study.cost_before()
        budget = self._rules.budget
        if budget is None or self._n_interrupts >= 2:
            return
        if budget.is_spent(self._cost_before + cost):
            why = (
                f"the budget of {budget.text} is spent: running trials are stopped, to go on later"
            )
            self._watcher.draining(why)
            self._stop_running()

    def _stop_running(self) -> None:
        """Cut off what runs, after a last checkpoint of those that make some."""
        if not self._n_interrupts:
            self._interrupt()  # no trial is begun from here on
        if self._n_interrupts < 2:
            self._save_running()
            self._interrupt()

    def _save_running(self) -> None:
        """Have trials make a checkpoint, and wait for it as long as the user and a signal allow."""
        grace_s = self._rules.timeouts.checkpoint_s or 0.0
        for trial, slot in self._scheduler.running.items():
            if self.trials[trial].saves:
                self._workers.send(slot, Save(trial))
        deadline_s, self._is_saving = time.monotonic() + grace_s, True
        while time.monotonic() < deadline_s and not self._signals:
            running = [self.trials[trial] for trial in self._scheduler.running]
            if all(run.has_saved for run in running if run.saves):
                break
            for slot, message in self._workers.listen(POLL_S):
                self._receive(slot, message)
        self._is_saving = False

    def _interrupt(self) -> None:
        self._n_interrupts += 1
        self._handle(s.Interrupted())

    def _halt(self, error: StorageError) -> None:
        if self._scheduler.failure is None:  # a storage stays broken: once is enough
            self._handle(s.Halted(str(error)))

    def _ask(self, slot: int) -> None:
        if not self._placement.may_ask(slot):
            self._postponed.append(slot)
            return
        try:
            proposal = self._study.ask()
        except StorageError as error:  # what runs may still finish
            self._halt(error)
            proposal = None
        self._show_not_run()
        if proposal is None and not self._scheduler.draining and self._may_get_more():
            self._postponed.append(slot)
            return
        if proposal is None:
            if self._study.enough and "enough" not in self._shown:
                self._shown.add("enough")
                self._watcher.draining(self._study.enough)
            self._handle(s.Exhausted(slot))
            return
        self.trials[proposal.trial] = TrialRun(self._rules.assignment(proposal))
        shape = shape_of(proposal.values, (self._rules.seed_key,))
        self._placement.wait(proposal.trial, slot, shape, proposal.alone)
        self._admit()

    def _admit(self) -> None:
        """Begin the trials for which there is room."""
        for admitted in self._placement.admit(self._clock()):
            self.trials[admitted.trial].gpu_share = admitted.gpu_share
            for slot in admitted.renew:
                self._handle(s.Renewed(slot))
            self._handle(s.Proposed(admitted.slot, admitted.trial))

    def _place(self) -> None:
        """Begin what waits for room, and pass on what was learned of memory and speed."""
        self._admit()
        for slot, share in self._placement.take_caps().items():
            if slot in self._scheduler.running.values():
                self._workers.send(slot, Capped(share))
        for line in self._placement.take_news():
            log.info("%s", line)

    def _sample(self) -> None:
        """Record from time to time what the slots hold and do."""
        if self._records.slots is None or not self._records.slots.is_due:
            return
        states = [
            SlotState(
                *(slot, trial, self._workers.specs[slot].device, run.step),
                *(run.memory.gpu_bytes, run.memory.ram_bytes),
            )
            for trial, slot in sorted(self._scheduler.running.items(), key=lambda item: item[1])
            if (run := self.trials[trial]).started_s is not None
        ]
        uses = self._device_uses()
        for name, use in uses.items():
            self._placement.device_used(name, use.used_bytes, self._clock())
        self._watcher.sampled(self._records.slots.add(states, uses))

    def _withdraw(self) -> None:
        """Put back the trials that wait for room."""
        for trial in self._placement.waiting:
            slot = self._placement.withdraw(trial)
            assert slot is not None
            self._handle(s.Proposed(slot, trial))

    def _may_get_more(self) -> bool:
        """Whether the end of a trial under way may bring this driver another one."""
        is_awaited = self._study.ends_bring_more and self._scheduler.running
        return bool(is_awaited or self._study.of_others())

    def _look_at_others(self) -> None:
        """Drivers that share the study may have died, or have taken this one for dead."""
        leases, now_s = self._study.leases, self._clock()
        if leases is None:
            return
        for trial in self._study.take_lost():
            reason = "this driver was silent for longer than the grace period: another goes on"
            log.warning("trial %d is another driver's now, its result is not kept", trial)
            if (slot := self._placement.withdraw(trial)) is not None:  # it waited for room
                self._postponed.append(slot)
            self._placement.ended(trial, None, False, now_s)
            self._handle(s.Lost(trial, reason))
        try:
            if now_s - self._taken_over_s >= leases.beat_s:
                self._taken_over_s = now_s
                if numbers := self._study.take_over():
                    shown = ", ".join(map(str, numbers))
                    log.info("their driver died, they go on: trials %s", shown)
        except StorageError as error:
            self._halt(error)

    def _ask_again(self) -> None:
        """Ask for slots that wait: from time to time, and when a trial has ended here."""
        if self._scheduler.draining:
            self._withdraw()
        now_s, is_news = self._clock(), self._n_recorded != self._n_recorded_then
        if self._postponed and (
            self._scheduler.draining or is_news or now_s - self._asked_again_s >= ASK_AGAIN_S
        ):
            self._asked_again_s, self._n_recorded_then = now_s, self._n_recorded
            slots, self._postponed = self._postponed, []
            for slot in slots:
                self._ask_or_end(slot)
            self._show_waiting()

    def _ask_or_end(self, slot: int) -> None:
        if self._scheduler.draining:
            self._handle(s.Exhausted(slot))
        else:
            self._ask(slot)

    def _show_waiting(self) -> None:
        """Once, when this driver has nothing left to do but wait."""
        others = self._study.of_others()
        if not self._postponed or self._scheduler.running or not others:
            return
        numbers = ", ".join(map(str, others))
        text = f"waiting for trials of other drivers, which go on here if those die: {numbers}"
        if "waiting" not in self._shown:
            self._shown.add("waiting")
            log.info("%s; Ctrl-C ends the wait", text)

    def _show_not_run(self) -> None:
        for trial, outcome in self._study.take_not_run():
            self._watcher.ended(trial, outcome)

    def _start(self, slot: int, trial: int) -> None:
        run = self.trials[trial]
        run.slot, run.started_s = slot, self._clock()
        run.awake_s = run.heard_s = self._awake_clock()
        if slot in self._unborn:
            self._unborn[slot] = run.awake_s
        if run.gpu_share is not None:
            self._workers.send(slot, Capped(run.gpu_share))
        self._workers.send(slot, run.assignment)
        self._watcher.started(trial, slot)

    def _receive(self, slot: int, message: FromWorker | Gone) -> None:
        match message:
            case UserCodeReached():
                self._unborn.pop(slot, None)
            case Ready(n_lanes):
                if slot in self._unborn:
                    self._unborn[slot] = math.inf
                self._handle(s.Freed(slot, n_lanes))
            case Reported():
                self._take_reports(message)
            case Quit(number):
                self._end_by(number, signal.Signals(number).name)
            case LogMessage(text):
                if text not in self._shown:
                    self._shown.add(text)
                    log.info("%s", text)
            case Measured(memory):
                self._take_memory(slot, memory)
            case Filled():
                self._filled[slot] = message
            case Held(trial, is_held):
                run = self.trials[trial]
                run.is_held = is_held
                run.awake_s = run.heard_s = self._awake_clock()
            case Finished(trial, outcome, leaves):
                self._unborn.pop(slot, None)
                run = self.trials[trial]
                run.outcome = outcome
                curve, objective = self._study.watched(trial), self._rules.objective
                outcome = with_objective(outcome, objective, curve, run.others)
                if outcome.ending is Ending.PRUNED and self._is_pause(outcome.verdict):
                    outcome = replace(outcome, ending=Ending.PAUSED)
                outcome = self._after_memory(trial, outcome)
                self._handle(s.Ended(trial, outcome, leaves))
            case Gone(cause, number):
                if number in ENDING_SIGNALS:
                    if self._is_saving:
                        return  # the job is being ended, and its trial is about to be put back
                    self._wait_for_signal()
                self._unborn.pop(slot, None)
                self._died(slot, cause, number)

    def _died(self, slot: int, cause: str, number: int | None) -> None:
        """A worker is gone; trials that it had are run again if it was for want of memory."""
        self._placement.let_go(slot)
        memory, spec = self._over_limit.pop(slot, None), self._workers.specs[slot]
        if number == signal.SIGKILL and memory is None:
            n_killed, before = kills_by_kernel(), self._n_killed_by_kernel
            self._n_killed_by_kernel = n_killed
            if n_killed > before or spec.memory_bytes is not None:
                memory = Memory(ran_out="ram", capacity_bytes=spec.memory_bytes)
        running = [trial for trial, where in self._scheduler.running.items() if where == slot]
        outcome = None
        if memory is not None and running:
            failed = Outcome(Ending.FAILED, reason=cause, memory=memory)
            outcome = self._after_memory(running[0], failed)
        self._handle(s.Died(slot, cause, outcome))

    def _after_memory(self, trial: int, outcome: Outcome) -> Outcome:
        run = self.trials[trial]
        ran_out = "" if outcome.memory is None else outcome.memory.ran_out
        if not ran_out:
            return outcome
        gpu = self._placement.capacity_bytes(run.slot)
        capacity = gpu if ran_out == "gpu" else machine_bytes()
        return after_out_of_memory(outcome, bool(run.assignment.alone), capacity)

    def _take_memory(self, slot: int, memory: Memory) -> None:
        if memory.ran_out:
            self._over_limit[slot] = memory
        for trial, where in self._scheduler.running.items():
            if where == slot:
                self.trials[trial].memory = memory
                self._placement.measured(trial, memory.gpu_bytes)

    def _is_pause(self, verdict: Verdict | None) -> bool:
        """Whether a trial that ends by this verdict may go on later; without one it gave up."""
        return self._study.may_thaw and verdict is not None and "diverged" not in verdict.rules

    def _wait_for_signal(self) -> None:
        """Tell a signal to the whole job, which ends the sweep, from one to a worker alone."""
        deadline_s = time.monotonic() + SIGNAL_LATENCY_S
        while self._n_interrupts < 2 and not self._signals and time.monotonic() < deadline_s:
            time.sleep(0.01)
        self._obey_signals()

    def _take_reports(self, message: Reported) -> None:
        trial, batch = message.trial, message.batch
        if trial not in self._scheduler.running:
            return
        run = self.trials[trial]
        self._unborn.pop(run.slot, None)  # a trial has its folder: what follows is the user's
        run.saves, run.has_saved = run.saves or batch.saves, run.has_saved or batch.has_saved
        run.kept = batch.kept or run.kept
        if batch.folder is not None:
            run.folder = Path(batch.folder)
            if run.assignment.attempt:
                self._goes_on(trial, batch.continued)
        if batch.plan is not None:
            self._study.plan(trial, batch.plan)
            if batch.plan.n_steps is not None:
                self._watcher.planned(trial, batch.plan.n_steps)
        self._records.curves.add(trial, batch.rows, run.assignment.attempt)
        for row in batch.rows:
            self._judge(trial, row)
        if batch.rows:
            run.heard_s = self._awake_clock()
            last = batch.rows[-1]
            # Where steps begin again it counts on, as for the pruner.
            run.step = max(last.step, self._study.watched(trial).final_step)
            value = last.metrics.get(self._rules.objective.metric.name)
            self._placement.reported(trial, run.step, self._clock())
            self._watcher.reported(trial, run.step, value)

    def _goes_on(self, trial: int, continued: Continued | None) -> None:
        """Take again what a trial had reported just before the checkpoint that it goes on from."""
        is_on_disk = self._study.goes_on(trial, continued)
        rows = () if continued is None else continued.rows
        if not is_on_disk:
            self._records.curves.add(trial, rows, self.trials[trial].assignment.attempt)
        for row in rows:
            self._judge(trial, row)

    def _end_overdue(self) -> None:
        """One trial that hangs silences all that share its worker; it reported before they did."""
        if not self._rules.timeouts.are_set:
            return
        now_s = self._awake_clock()
        for trial in sorted(self._scheduler.running, key=lambda trial: self.trials[trial].heard_s):
            run = self.trials[trial]
            if run.is_held:
                continue
            reason = self._rules.timeouts.overdue(now_s - run.awake_s, now_s - run.heard_s)
            # One that shared its worker with another may have gone with that one.
            if reason is not None and trial in self._scheduler.running:
                self._handle(s.TimedOut(trial, reason))

    def _end_unborn(self) -> None:
        """End workers that do not come to the user's code, and have others started differently."""
        now_s = self._awake_clock()
        for slot, since_s in list(self._unborn.items()):
            # A fork that waits for lost threads waits for ever; a fresh interpreter may be slow.
            n_before = 0 if self._workers.is_forked(slot) else self._n_unborn[slot]
            why = self._rules.timeouts.unborn(now_s - since_s, n_before)
            if why is None:
                continue
            del self._unborn[slot]
            self._n_unborn[slot] += 1
            pid, advice = self._workers.pid(slot), self._workers.give_up_forking(slot)
            cause = f"its worker process {pid} {why}: {advice}"
            log.warning("slot %d: %s", slot, cause)
            running = [t for t, where in self._scheduler.running.items() if where == slot]
            if running:
                self._handle(s.TimedOut(running[0], cause))
            else:
                self._workers.kill(slot)
                self._handle(s.Died(slot, cause))

    def _judge(self, trial: int, row: Row) -> None:
        """Give the study a report; what its pruner makes of it goes back to the trial."""
        run = self.trials[trial]
        if row.is_intervention:
            self._study.intervened(trial, row.step)
            return
        value = row.metrics.get(self._rules.objective.metric.name)
        if value is None:
            run.others.update(row.metrics)
            return
        match self._study.report(trial, row.step, value):
            case Verdict() as verdict if not run.is_stopping:
                run.is_stopping = True
                self._handle(s.Judged(trial, verdict))
            case Intervention() as intervention:
                is_pause = self._is_pause(intervention.verdict)
                self._workers.send(run.slot, Offered(trial, intervention, is_pause))

    def _record(self, trial: int, outcome: Outcome) -> None:
        run, memory = self.trials[trial], outcome.memory or Memory()
        ran_out = memory.ran_out == "gpu"
        self._placement.ended(trial, memory.gpu_bytes, ran_out, self._clock())
        folder = run.folder or self._records.folder
        on_disk = self._records.curves.written_behind()
        about, output = self._about(run, folder), str(folder / OUTPUT_FILE)
        then = None
        if run.saves and run.folder is not None and outcome.ending is not Ending.INTERRUPTED:
            then = self._dropping(outcome, folder)
        self._study.tell(trial, outcome, about, log=output, after=on_disk, then=then, kept=run.kept)
        if outcome.ending is Ending.PAUSED:
            self._study.bound_checkpoints(self._rules.paused_bytes, self._forget)
        if self._n_recorded == 0 and outcome.ending is Ending.COMPLETED:
            self._warn_if_not_judged(trial)
        if self._n_recorded == 0:
            self._stop_if_in_vain(trial, outcome)
        self._n_recorded += 1
        run.outcome = run.outcome or outcome
        self._watcher.ended(trial, outcome)
        self._show_not_run()
        waits = outcome.verdict is not None and outcome.verdict.rule == WAITS_RULE
        if outcome.ending in (Ending.PRUNED, Ending.DIVERGED, Ending.PAUSED) and not waits:
            self._stop_siblings(trial, outcome)

    def _stop_if_in_vain(self, trial: int, outcome: Outcome) -> None:
        """Where the first trial returned and reported nothing at all, so would the others.

        Not where all trials may fail (max_failure_rate=1).
        """
        if self._scheduler.max_failure_rate >= 1:
            return
        run = self.trials[trial]
        own = run.outcome
        if own is None or own.ending is not Ending.COMPLETED or own.returned is not None:
            return
        has_reported = run.others or self._study.watched(trial).final_step >= 0
        if outcome.ending is not Ending.FAILED or has_reported or outcome.findings:
            return
        if not self._study.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            self._handle(s.Halted(f"trial {trial}: {outcome.reason}; no other trial is run"))
            self._stop_running()

    def _close_paused(self) -> None:
        """The sweep has all that it wanted: those that are still paused are pruned."""
        self._study.close_paused()
        for trial in self._study.study.get_trials(deepcopy=False):
            record = record_of(trial)
            if is_over(trial) and record.stayed_paused:
                _forget_all(self._records.kept.offer_over(trial, self._records.folder))
            elif is_over(trial) and record.pauses:  # another driver may have gone on with it
                self._forget(record.run.folder)

    def _dropping(self, outcome: Outcome, folder: Path) -> Callable[[], None]:
        """What deletes the checkpoints that nobody needs now that this trial has ended so."""
        if outcome.ending is Ending.PAUSED:
            return functools.partial(keep_newest, folder)
        is_done = outcome.ending is Ending.COMPLETED and outcome.values
        dropped = self._records.kept.offer(outcome.values[0], folder) if is_done else [folder]
        return functools.partial(_forget_all, dropped)

    def _forget(self, folder: str) -> None:
        """Delete a trial's checkpoints, unless it is one of the best that keep theirs.

        folder: as it is recorded, "" for none.
        """
        if folder and (place := self._records.folder / folder) not in self._records.kept:
            forget(place)

    def _about(self, run: TrialRun, folder: Path) -> Run:
        inside = folder.is_relative_to(self._records.folder)
        # A folder inside is kept relative: a copied sweep still finds its trials.
        shown = folder.relative_to(self._records.folder) if inside else folder
        seconds = 0.0 if run.started_s is None else self._clock() - run.started_s
        return Run(str(shown), run.slot, self._records.session, round(seconds, 3))

    def _warn_if_not_judged(self, trial: int) -> None:
        if self._study.can_prune(trial):
            return
        others, metric = self.trials[trial].others, self._rules.objective.metric.name
        log.warning(
            "the pruner %s has nothing to judge: trial %d never reported %r; "
            "add iolaus.report(step, %s=...) to the task, or set hydra.sweeper.metric "
            "to what it reports%s",
            "+".join(type(part).__name__ for part in parts(self._study.study.pruner)),
            trial,
            metric,
            metric,
            f" ({', '.join(sorted(others))})" if others else "",
        )

    def _stop_siblings(self, trial: int, outcome: Outcome) -> None:
        """A setting that one seed has ruled out needs no other seed."""
        why = f"another seed of its setting, trial {trial}, was {outcome.ending}: {outcome.reason}"
        for sibling in self._study.siblings(trial):
            step = max(self._study.watched(sibling).final_step, 0)
            self._handle(s.Judged(sibling, Verdict("repeats", step, why)))

    def _close(self) -> None:
        self._study.note_cost(self._meter.read(()))
        self._workers.close()
        self._records.events.close()
        try:
            self._records.curves.close()
        except StorageError as error:
            if self._scheduler.failure != str(error):  # the sweep did not end by it
                log.error("%s", error)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        def interrupt(number: int, _: FrameType | None) -> None:
            self._signals.append(number)
            if number == signal.SIGHUP:
                _leave_closed_terminal()

        with handled((signal.SIGINT, *ENDING_SIGNALS), interrupt):
            yield


def _leave_closed_terminal() -> None:
    """Print to nowhere what can no longer be printed: the end of a sweep is more than its words."""
    for fd in (1, 2):
        try:
            os.write(fd, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, fd)
            os.close(nowhere)


def _forget_all(folders: Sequence[Path]) -> None:
    for folder in folders:
        forget(folder)
