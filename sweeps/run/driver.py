"""The loop of a sweep: turns what happens in the world into events and carries out what the scheduler decides."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from iolaus.sweeps.curves import CurveWriter
from iolaus.sweeps.errors import StorageError
from iolaus.sweeps.run import scheduler as s
from iolaus.sweeps.run.fork_server import ForkServer, Worker, drain, wait
from iolaus.sweeps.run.job import OUTPUT_FILE
from iolaus.sweeps.run.messages import (
    Assignment,
    Filled,
    Finished,
    LogMessage,
    Offered,
    Ready,
    Reported,
    Stopped,
    WorkerSpec,
)
from iolaus.sweeps.search.space import Space
from iolaus.sweeps.study.record import Run
from iolaus.sweeps.study.sweep_study import Proposal, SweepStudy
from iolaus.sweeps.types import Ending, Intervention, Outcome, Verdict

log = logging.getLogger("sweeps")

POLL_S = 0.2


class Watcher(Protocol):
    """Someone who shows a sweep to its user."""

    def started(self, trial: int, slot: int) -> None:
        """A trial was handed to a worker."""

    def planned(self, trial: int, n_steps: int) -> None:
        """A trial said how many steps it will make."""

    def reported(self, trial: int, step: int, value: float | None) -> None:
        """A trial reported; value is the watched metric, None if it was not among the metrics."""

    def ended(self, trial: int, outcome: Outcome) -> None:
        """A trial was recorded as over."""

    def draining(self, why: str) -> None:
        """No new trials will be started."""

    def tick(self) -> None:
        """Some time has passed."""


class Driver:
    """Runs the trials that a study still misses, in the workers of a fork server.

    objective: "return", "best", "final" of the watched metric, or None for the return value if
    there is one, else best.
    seed_key: the config's key for the seeds of repeats. clock: seconds, never going back.
    """

    def __init__(
        self,
        study: SweepStudy,
        space: Space,
        fork_server: ForkServer,
        slots: Sequence[WorkerSpec],
        curves: CurveWriter,
        watcher: Watcher,
        *,
        metric: str,
        objective: str | None,
        max_failure_rate: float,
        seed_key: str,
        sweep_dir: Path,
        check_storage: Callable[[], None],
        session: int,
        clock: Callable[[], float],
    ) -> None:
        self._study = study
        self._space = space
        self._fork_server = fork_server
        self._specs = slots
        self._curves = curves
        self._watcher = watcher
        self._metric = metric
        self._objective = objective
        self._seed_key = seed_key
        self._sweep_dir = sweep_dir
        self._check_storage = check_storage
        self._session = session
        self._clock = clock
        self._scheduler = s.Scheduler(len(slots), study.n_to_ask, max_failure_rate)
        self._workers: dict[int, Worker] = {}
        self._started: dict[int, tuple[int, float]] = {}  # trial -> slot, when
        self._others: dict[int, set[str]] = {}  # trial -> metrics it reported that are not watched
        self._n_interrupts = 0
        self._n_told = 0
        self._said: set[str] = set()
        self.filled: dict[
            int, Filled
        ] = {}  # what workers with lanes have last said of them, by slot
        # What the caller of a sweep may want of each trial. The outcome is the task's own, with no
        # objective judged.
        self.outcomes: dict[int, Outcome] = {}
        self.assignments: dict[int, Assignment] = {}
        self.folders: dict[int, Path] = {}

    def run(self) -> str | None:
        """Run until nothing is left to do, or until stopped; returns why it gave up, or None.

        Ctrl-C: the first lets running trials finish, the second ends them now. SIGTERM is taken as
        the second.
        """
        with ExitStack() as stack:
            stack.enter_context(self._interruptible())
            stack.callback(self._close)
            self._do(self._scheduler.start())
            n_handled = 0
            while not self._scheduler.done:
                while n_handled < self._n_interrupts:
                    n_handled += 1
                    self._handle(s.Interrupted())
                    if n_handled == 1:
                        self._watcher.draining(
                            "interrupted: running trials finish; once more stops them now"
                        )
                for worker in wait(list(self._workers.values()), POLL_S):
                    self._listen(worker)
                self._curves.flush_if_due()
                self._watcher.tick()
                try:
                    self._check_storage()
                except StorageError as error:
                    self._handle(s.Halted(str(error)))
        return self._scheduler.failure

    def _handle(self, event: s.Event) -> None:
        was_draining = self._scheduler.draining
        self._do(self._scheduler.handle(event))
        if self._scheduler.failure is not None and not was_draining:
            self._watcher.draining(self._scheduler.failure)

    def _do(self, actions: Sequence[s.Action]) -> None:
        for action in actions:
            match action:
                case s.Spawn(slot):
                    self._workers[slot] = self._fork_server.spawn(self._specs[slot])
                case s.Ask(slot):
                    self._ask(slot)
                case s.Start(slot, trial):
                    self._started[trial] = (slot, self._clock())
                    self._send(slot, self.assignments[trial])
                    self._watcher.started(trial, slot)
                case s.Stop(slot, trial, verdict):
                    self._send(slot, Stopped(trial, verdict))
                case s.Tell(trial, outcome):
                    self._tell(trial, outcome)
                case s.Release(slot):
                    self._workers.pop(slot).close()
                case s.Kill(slot):
                    worker = self._workers.pop(slot)
                    self._fork_server.kill(worker)
                    worker.close()

    def _ask(self, slot: int) -> None:
        try:
            proposal = self._study.ask()
        except StorageError as error:  # what runs may still finish
            self._handle(s.Halted(str(error)))
            proposal = None
        for trial, before in self._study.take_duplicates():
            self._watcher.ended(
                trial,
                Outcome(Ending.DUPLICATE, reason=f"the setting of trial {before}, not run again"),
            )
        if proposal is None:
            self._handle(s.Exhausted(slot))
            return
        self.assignments[proposal.trial] = Assignment(proposal.trial, self._overrides(proposal))
        self._handle(s.Proposed(slot, proposal.trial))

    def _show_duplicates(self) -> None:
        for trial, before in self._study.take_duplicates():
            reason = f"the setting of trial {before}, not run again"
            self._watcher.ended(trial, Outcome(Ending.DUPLICATE, reason=reason))

    def _overrides(self, proposal: Proposal) -> tuple[str, ...]:
        lines = self._space.overrides(proposal.values)
        return lines if proposal.seed is None else (*lines, f"{self._seed_key}={proposal.seed}")

    def _send(self, slot: int, message: Assignment | Stopped | Offered) -> None:
        try:
            self._workers[slot].pipe.send(message)
        except OSError:
            log.debug(
                "the worker of slot %d is gone; its death is dealt with when it is noticed", slot
            )

    def _listen(self, worker: Worker) -> None:
        messages, ended = drain(worker)
        for message in messages:
            match message:
                case Ready(n_lanes):
                    self._handle(s.Freed(worker.slot, n_lanes))
                case Reported():
                    self._report(message)
                case LogMessage(text):
                    if text not in self._said:  # every worker finds out the same
                        self._said.add(text)
                        log.info("%s", text)
                case Filled():
                    self.filled[worker.slot] = message
                case Finished(trial, outcome):
                    self.outcomes[trial] = outcome
                    self._handle(s.Ended(trial, self._with_objective(trial, outcome)))
        if ended and self._workers.get(worker.slot) is worker:
            cause = self._fork_server.cause_of_death(worker)
            del self._workers[worker.slot]
            worker.close()
            self._handle(s.Died(worker.slot, cause))

    def _report(self, message: Reported) -> None:
        trial, batch = message.trial, message.batch
        if trial not in self._scheduler.running:
            return
        if batch.folder is not None:
            self.folders[trial] = Path(batch.folder)
        if batch.plan is not None:
            self._study.plan(trial, batch.plan)
            if batch.plan.n_steps is not None:
                self._watcher.planned(trial, batch.plan.n_steps)
        self._curves.add(trial, batch.rows)
        for row in batch.rows:
            if row.is_intervention:
                self._study.intervened(trial, row.step)
                continue
            value = row.metrics.get(self._metric)
            if value is None:
                self._others.setdefault(trial, set()).update(row.metrics)
            else:
                match self._study.report(trial, row.step, value):
                    case Verdict() as verdict:
                        self._handle(s.Judged(trial, verdict))
                    case Intervention() as intervention:
                        self._send(self._scheduler.running[trial], Offered(trial, intervention))
        if batch.rows:
            last = batch.rows[-1]
            self._watcher.reported(trial, last.step, last.metrics.get(self._metric))

    def _with_objective(self, trial: int, outcome: Outcome) -> Outcome:
        """The outcome with the objective's value, or a failure that says why there is none."""
        if outcome.ending is not Ending.COMPLETED:
            return outcome
        n = len(self._study.study.directions)
        curve = self._study.watched(trial)
        if self._objective in ("best", "final") or (
            self._objective is None and not outcome.values and n == 1
        ):
            value = curve.final if self._objective == "final" else curve.best
            values = [value] if curve.final_step >= 0 and not self._opposed() else []
        else:
            values = list(outcome.values)
        if len(values) == n:
            return replace(outcome, values=tuple(values))
        return Outcome(
            Ending.FAILED, reason=self._no_objective(trial, outcome, n), returned=outcome.returned
        )

    def _opposed(self) -> bool:
        """Whether the one objective goes another way than the watched metric."""
        is_single = len(self._study.study.directions) == 1
        return is_single and self._study.objective_sign != self._study.metric.sign

    def _no_objective(self, trial: int, outcome: Outcome, n: int) -> str:
        reported = sorted(self._others.get(trial, ()))
        hint = (
            f"; it reported {', '.join(reported)}: set hydra.sweeper.metric to one of them"
            if reported
            else ""
        )
        if self._opposed() and not outcome.values and self._study.watched(trial).final_step >= 0:
            metric, direction = self._study.metric, self._study.study.direction.name.lower()
            return (
                f"the task returned {outcome.returned!r}, and the best {metric.name} cannot be the "
                f"objective: it is better when it is {metric.way}, and hydra.sweeper.direction="
                f"{direction}; return what is to be {direction}d, or set the direction or "
                "hydra.sweeper.metric_goal"
            )
        if self._objective in ("best", "final"):
            return f"the task never reported {self._metric!r}, whose {self._objective} value is the objective{hint}"
        returned = (
            f"{len(outcome.values)} numbers" if len(outcome.values) > 1 else repr(outcome.returned)
        )
        wanted = "a number" if n == 1 else f"{n} numbers, one per direction"
        return (
            f"the task returned {returned} and reported no {self._metric!r}; return {wanted}{hint}"
        )

    def _tell(self, trial: int, outcome: Outcome) -> None:
        slot, started_s = self._started.pop(trial, (-1, self._clock()))
        folder = self.folders.get(trial, self._sweep_dir)
        inside = folder.is_relative_to(
            self._sweep_dir
        )  # kept relative: a copied sweep still finds its trials
        run = Run(
            folder=str(folder.relative_to(self._sweep_dir) if inside else folder),
            slot=slot,
            session=self._session,
            seconds=round(self._clock() - started_s, 3),
        )
        self._study.tell(trial, outcome, run, log=str(folder / OUTPUT_FILE))
        if (
            self._n_told == 0
            and outcome.ending is Ending.COMPLETED
            and not self._study.can_prune(trial)
        ):
            log.warning(
                "the pruner %s has nothing to judge: trial %d never reported %r; add iolaus.report(step, %s=...) to "
                "the task, or set hydra.sweeper.metric to what it reports%s",
                type(self._study.study.pruner).__name__,
                trial,
                self._metric,
                self._metric,
                f" ({', '.join(sorted(self._others[trial]))})" if trial in self._others else "",
            )
        self._n_told += 1
        self.outcomes.setdefault(trial, outcome)
        self._watcher.ended(trial, outcome)
        self._show_duplicates()
        if outcome.ending in (Ending.PRUNED, Ending.DIVERGED):
            for sibling in self._study.siblings(trial):
                reason = f"another seed of its setting, trial {trial}, was {outcome.ending}: {outcome.reason}"
                step = max(self._study.watched(sibling).final_step, 0)
                self._handle(s.Judged(sibling, Verdict("repeats", step, reason)))

    def _close(self) -> None:
        for worker in self._workers.values():
            self._fork_server.kill(worker)
            worker.close()
        self._workers.clear()
        self._curves.close()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        def interrupt(number: int, _: FrameType | None) -> None:
            self._n_interrupts += 2 if number == signal.SIGTERM else 1

        before: dict[int, Any] = {}
        try:
            for which in (signal.SIGINT, signal.SIGTERM):
                before[which] = signal.signal(which, interrupt)
        except ValueError:  # not the main thread: signals are someone else's business
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
