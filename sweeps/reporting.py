"""How a training function talks to the sweep it runs in.

`report`, `should_stop`, `intervention`, `plan`. All are harmless outside a sweep, so the same
script trains alone. A worker process runs one trial at a time, and a report may come from any of
its threads, so the current trial is a property of the process: it is the one piece of module state
in this package, set and cleared by `reporting_to`.
"""

from __future__ import annotations

import math
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

from iolaus.sweeps.types import Intervention, Plan, Verdict

__all__ = [
    "CHILD_REPORTS_VARIABLE",
    "INTERVENTION_METRICS",
    "Batch",
    "Reporter",
    "Row",
    "intervention",
    "plan",
    "report",
    "reporting_to",
    "should_stop",
]

# Curves have the metric intervention/ACTION, with the factor as its value, where an intervention
# was taken. A user's metrics may begin the same way; they mean nothing to us.
INTERVENTION_METRICS = tuple(f"intervention/{action}" for action in Intervention.ACTIONS)

# In the environment of a trial: the file that a child process of it makes when it reports. Such
# reports are not taken, for the driver listens to the trial's own process.
CHILD_REPORTS_VARIABLE = "IOLAUS_CHILD_REPORTS"


@dataclass(frozen=True, slots=True)
class Row:
    """One report: its step, seconds since the trial began, and the metrics' values.

    step: optimizer updates made, from 0. is_intervention: whether it is no report of the task's but
    notes that an intervention was taken; its one metric is intervention/ACTION.
    """

    step: int
    seconds: float
    metrics: Mapping[str, float]
    is_intervention: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """What a trial has passed on since the last time.

    Its reports, and its plan and output folder if they are new.
    """

    rows: Sequence[Row]
    plan: Plan | None
    folder: str | None


class Reporter:
    """Collects one trial's reports and carries the order to stop back to it.

    Safe to use from several threads.
    watched: the metric the pruner looks at; a non-finite value of it ends the trial at once.
    clock: seconds, any origin, never going back.
    placed: called when the trial's folder is known, to pass it on at once: the trial may not live
    to the next batch.
    """

    def __init__(
        self, watched: str, clock: Callable[[], float], placed: Callable[[], None] = lambda: None
    ) -> None:
        self._watched = watched
        self._clock = clock
        self._placed = placed
        self._start_s = clock()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._plan: Plan | None = None
        self._known_plan = Plan()
        self._first_step: int | None = None
        self._is_whole = False
        self._folder: str | None = None
        self._verdict: Verdict | None = None
        self._acknowledged = False
        self._intervention: Intervention | None = None
        self._intervention_was_open = False
        self._last_step = 0
        self._older: frozenset[threading.Thread] = frozenset()

    @property
    def has_reported(self) -> bool:
        """Whether any report was taken."""
        return self._first_step is not None

    @property
    def acknowledged(self) -> bool:
        """Whether the task knows that it must stop.

        A task that ended before it could notice has simply completed.
        """
        return self._acknowledged

    @property
    def verdict(self) -> Verdict | None:
        """Why this trial must stop, or None while it may go on."""
        return self._verdict

    def stop(self, verdict: Verdict) -> None:
        """End the trial at its next report. The first verdict stands."""
        with self._lock:
            self._verdict = self._verdict or verdict

    def offer(self, intervention: Intervention) -> None:
        """Have the trial try something instead of ending.

        One that does not ask for it until its next report ends.
        """
        with self._lock:
            self._intervention, self._intervention_was_open = intervention, False

    def intervention(self) -> Intervention | None:
        """What to try now, given out once.

        That it was taken goes into the curve, at the last reported step.
        """
        with self._lock:
            intervention, self._intervention = self._intervention, None
            if intervention is not None:
                metrics = {f"intervention/{intervention.action}": intervention.factor}
                seconds = self._clock() - self._start_s
                self._rows.append(Row(self._last_step, seconds, metrics, is_intervention=True))
        return intervention

    def report(self, step: SupportsIndex, metrics: Mapping[str, SupportsFloat]) -> None:
        """Take one report; raise TrialPruned if the trial must stop, or has just diverged.

        At its last planned step only divergence ends it: its result is there, and stopping would
        save nothing.
        """
        if os.getpid() != self._pid:
            _leave_mark()  # a child process of the trial has no channel to the driver
            return
        if threading.current_thread() in self._older:
            raise RuntimeError(
                "iolaus.report: this thread was there before the trial began, so it may belong to "
                "one that is over: report from the task's own thread, or one that the task starts"
            )
        row = Row(
            _checked_step(step), self._clock() - self._start_s, _checked_metrics(step, metrics)
        )
        value = row.metrics.get(self._watched, 0.0)
        with self._lock:
            self._rows.append(row)
            self._last_step = row.step
            self._first_step = row.step if self._first_step is None else self._first_step
            end = self._known_plan.from_step(self._first_step).n_steps
            self._is_whole = end is not None and row.step >= end - 1 and math.isfinite(value)
            ignored = self._intervention if self._intervention_was_open else None
            self._intervention_was_open = self._intervention is not None
        if ignored is not None:
            self.stop(ignored.verdict)
        if not math.isfinite(value):
            reason = f"{self._watched} became {value} at step {row.step}"
            self.stop(Verdict("diverged", row.step, reason, {self._watched: value}))
        if self.should_stop() and self._verdict is not None:
            import optuna  # only now: a script that trains alone never pays for it

            raise optuna.TrialPruned(self._verdict.reason)

    def should_stop(self) -> bool:
        """Whether the trial must end.

        A task that has seen this and returns counts as stopped.
        """
        self._acknowledged = self._acknowledged or (
            self._verdict is not None and not self._is_whole
        )
        return self._acknowledged

    def plan(self, plan: Plan) -> None:
        """Pass on what this trial will do if nobody stops it."""
        if os.getpid() == self._pid:
            with self._lock:
                self._plan = self._known_plan = plan

    def disown(self, threads: Iterable[threading.Thread]) -> None:
        """Take no reports of these threads: an earlier trial may have left them behind."""
        self._older = frozenset(threads)

    def place(self, folder: str) -> None:
        """Pass on where this trial's files are."""
        with self._lock:
            self._folder = folder
        self._placed()

    def take(self) -> Batch | None:
        """What has come in since the last call, or None if nothing has."""
        with self._lock:
            batch = Batch(self._rows, self._plan, self._folder)
            self._rows, self._plan, self._folder = [], None, None
        return batch if batch.rows or batch.plan or batch.folder else None


_current: Reporter | None = None


@contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Make `reporter` the one that `report` and its companions speak to in this process."""
    global _current
    reporter.disown(t for t in threading.enumerate() if t is not threading.current_thread())
    _current = reporter
    try:
        yield
    finally:
        _current = None


def report(step: SupportsIndex, /, **metrics: SupportsFloat) -> None:
    """Report metrics after `step` optimizer updates.

    Ends the trial by raising if the sweep has decided so.
    step: a whole number, 0 or more. It need not be regular; a repeated step keeps both rows in the
    curve.
    metrics: numbers or one-element tensors; names with other characters go through
    `**{"grad_norm/W": 0.1}`. NaN and infinity are kept as they are, but in the watched metric
    (`hydra.sweeper.metric`) they end the trial. Raises optuna.TrialPruned when the trial is to
    stop: let it fly. Raises TypeError or ValueError for what is no step or no number, RuntimeError
    in a thread that was there before the trial began: it may belong to an earlier one. Outside a
    sweep, or when the trial is over, it does nothing at all. In a child process of a trial (a rank
    of distributed training) it is not taken; a trial that reports only there says so at its end.

    >>> for step in range(100):
    ...     iolaus.report(step, loss=1 / (step + 1), lr=0.1)
    """
    if _current is not None:
        _current.report(step, metrics)
    else:
        _leave_mark()  # a spawned child of a trial, or no sweep at all


def should_stop() -> bool:
    """Whether the sweep wants this trial to end.

    A trial that returns after True counts as pruned. False outside.

    >>> iolaus.should_stop()
    False
    """
    return _current is not None and _current.should_stop()


def intervention() -> Intervention | None:
    """What the sweep wants tried instead of ending this trial, or None; ask after a report.

    It wants to where `hydra.sweeper.on_stall` names an intervention. Each is given out once, and
    the task must act on it: lower its learning rate by the factor, after going back to its best
    checkpoint if the action is "rewind". A task that never asks is ended as usual. None outside a
    sweep.

    >>> wanted = iolaus.intervention()
    >>> lr = 0.1 if wanted is None else 0.1 * wanted.factor
    """
    return None if _current is None else _current.intervention()


def plan(
    n_steps: SupportsIndex | None, lr: Sequence[tuple[SupportsIndex, SupportsFloat]] = ()
) -> None:
    """Tell the pruner how long this trial means to run and which learning rates lie ahead.

    See `iolaus.sweeps.types.Plan`. Does nothing outside a sweep.

    >>> iolaus.plan(n_steps=1000, lr=[(0, 0.1), (1000, 0.01)])  # linear in between
    """
    if _current is not None:
        corners = tuple((operator.index(step), float(rate)) for step, rate in lr)
        _current.plan(Plan(None if n_steps is None else operator.index(n_steps), corners))


def _leave_mark() -> None:
    """In a child process of a trial: have the trial know that its child reported."""
    if (mark := os.environ.get(CHILD_REPORTS_VARIABLE)) is not None:
        with suppress(OSError):
            Path(mark).touch()


def _checked_step(step: SupportsIndex) -> int:
    try:
        index = operator.index(step)
    except TypeError:
        raise TypeError(
            "iolaus.report: step is a whole number of optimizer updates, "
            f"got {step!r} ({type(step).__name__})"
        ) from None
    if not 0 <= index < 2**63:  # what a curve's file can hold
        raise ValueError(f"iolaus.report: step counts from 0, got {index}")
    return index


def _checked_metrics(step: SupportsIndex, metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    if not metrics:
        raise TypeError(
            f"iolaus.report: no metric at step {step}; write iolaus.report(step, loss=loss)"
        )
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            numbers[name] = _number(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            got = {name: type(value).__name__}
            raise TypeError(
                f"iolaus.report: metrics are single numbers; at step {step} got {got}"
            ) from None
    return numbers


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError("text is no number, whatever it says")
    # A loss that still holds its graph would make torch warn.
    return float(value.detach() if hasattr(value, "detach") else value)
