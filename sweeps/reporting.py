"""How a training function talks to the sweep it runs in.

`report`, `should_stop`, `intervention`, `plan`, `get_checkpoint`, `should_checkpoint`. All are
harmless outside a sweep, so the same script trains alone. A worker process runs one trial at a
time, and a report may come from any of its threads, so the current trial is a property of the
process: it is the one piece of module state in this package, set and cleared by `reporting_to`.
"""

from __future__ import annotations

import logging
import math
import operator
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

from iolaus.sweeps.checkpoints import Checkpoint, Watched, adopt
from iolaus.sweeps.child import ChildReporter
from iolaus.sweeps.types import Intervention, Plan, Verdict

__all__ = [
    "INTERVENTION_METRICS",
    "Batch",
    "Continued",
    "Kept",
    "Reporter",
    "Row",
    "get_checkpoint",
    "in_trial",
    "intervention",
    "plan",
    "report",
    "reporting_to",
    "should_checkpoint",
    "should_stop",
]

log = logging.getLogger("sweeps")

# Curves have the metric intervention/ACTION, with the factor as its value, where an intervention
# was taken. A user's metrics may begin the same way; they mean nothing to us.
INTERVENTION_METRICS = tuple(f"intervention/{action}" for action in Intervention.ACTIONS)


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


# What a trial reported in so many seconds before a checkpoint is kept with it: the driver may not
# have it on disk yet (`iolaus.sweeps.curves.FLUSH_S`, and what it is held up for). At most so many
# reports.
KEPT_S = 10.0
MOST_KEPT = 5_000
# How long a trial whose last checkpoint is made waits for its end.
HOLD_S = 30.0


@dataclass(frozen=True, slots=True)
class Continued:
    """Where a trial goes on that was cut off.

    step: of the checkpoint. first_step: of `rows`, its last reports before that, which count again;
    of what else it reported, what came before them counts. watched: of the watched metric until
    then.
    """

    step: int
    first_step: int
    watched: Watched
    rows: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """The newest checkpoint of a trial: its step, and the size of its files."""

    step: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a trial has passed on since the last time.

    Its reports, and what is new of the rest: its plan; its output folder, and with that where it
    goes on (None: from its beginning); whether it has made a checkpoint, and whether it has done so
    since it was asked to; its newest checkpoint, None before any.
    """

    rows: Sequence[Row]
    plan: Plan | None
    folder: str | None
    continued: Continued | None = None
    saves: bool = False
    has_saved: bool = False
    kept: Kept | None = None


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
        self._is_pause = False  # the verdict's: a last checkpoint is of use
        self._asks_to_save = False
        self._n_since_pause = 0  # reports without a checkpoint
        self._intervention: Intervention | None = None
        self._intervention_was_open = False
        self._else_pause = False
        self._last_step = 0
        self._trial_folder: Path | None = None
        self._setting: Sequence[str] = ()
        self._checkpoint: Checkpoint | None = None
        self._continued: Continued | None = None
        self._recent: deque[Row] = deque(maxlen=MOST_KEPT)
        self._watched_so_far = Watched()
        self._should_save = False
        self._saves = False  # the driver waits for a checkpoint of those alone that make some
        self._has_saved = False
        self._kept: Kept | None = None
        self._is_news = False
        self._older: frozenset[threading.Thread] = frozenset()

    @property
    def is_here(self) -> bool:
        """Whether it was made in this process, and not in the one that this was forked from."""
        return os.getpid() == self._pid

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

    def stop(self, verdict: Verdict, is_pause: bool = False) -> None:
        """End the trial at its next report. The first verdict stands, but for one that pauses.

        is_pause: the trial may go on later: one that asks `should_checkpoint` may make a last
        checkpoint after its next report.
        """
        with self._lock:
            if self._verdict is None or (self._is_pause and not is_pause):
                self._verdict, self._is_pause = verdict, is_pause

    def offer(self, intervention: Intervention, is_pause: bool = False) -> None:
        """Have the trial try something instead of ending.

        One that does not ask for it until its next report ends. is_pause: see `stop`.
        """
        with self._lock:
            self._intervention, self._intervention_was_open = intervention, False
            self._else_pause = is_pause

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

    def should_checkpoint(self) -> bool:
        """Whether the sweep is about to end the trial for now: a checkpoint would be of use."""
        self._save_was_seen()
        self._asks_to_save = True
        return self._should_save or self._awaits_last_checkpoint

    @property
    def _awaits_last_checkpoint(self) -> bool:
        """Whether the trial is to be paused, and may still save where it is."""
        may_save = self._asks_to_save and self._n_since_pause < 2
        return self._is_pause and may_save and not self._is_whole

    def get_checkpoint(self) -> Path | None:
        """The folder of the checkpoint that the trial goes on from; None if it begins."""
        self._save_was_seen()
        return self.goes_on_from

    @property
    def goes_on_from(self) -> Path | None:
        """As `get_checkpoint`, for others than the task."""
        return None if self._checkpoint is None else self._checkpoint.path

    @property
    def saves(self) -> bool:
        """Whether the task makes checkpoints, as far as is known."""
        return self._saves

    @property
    def is_to_save(self) -> bool:
        """Whether a checkpoint is awaited that has not come yet."""
        return self._saves and self._should_save and not self._has_saved

    def _save_was_seen(self) -> None:
        """A task that asks for checkpoints makes some: the driver may wait for one."""
        if self._saves:
            return
        with self._lock:
            self._is_news = self._saves = True
        self._placed()

    def save(self) -> None:
        """Have the trial make a checkpoint as soon as it can: it is about to be cut off."""
        self._should_save = True

    def report(
        self,
        step: SupportsIndex,
        metrics: Mapping[str, SupportsFloat],
        checkpoint: str | Path | None = None,
    ) -> None:
        """Take one report; raise TrialPruned if the trial must stop, or has just diverged.

        At its last planned step only divergence ends it: its result is there, and stopping would
        save nothing. A checkpoint holds what was reported until then, this report included; with
        one, there may be no metric.
        """
        if threading.current_thread() in self._older:
            raise RuntimeError(
                "iolaus.report: this thread was there before the trial began, so it may belong to "
                "one that is over: report from the task's own thread, or one that the task starts"
            )
        index = _checked_step(step)
        if numbers := _checked_metrics(step, metrics, checkpoint):
            self._take_row(index, numbers)
        if checkpoint is not None:
            self._keep(index, Path(checkpoint))
        if self._is_pause:
            self._n_since_pause += 1 if checkpoint is None else 2
        if self.should_stop() and self._verdict is not None:
            import optuna  # only now: a script that trains alone never pays for it

            raise optuna.TrialPruned(self._verdict.reason)

    def _take_row(self, step: int, metrics: Mapping[str, float]) -> None:
        row = Row(step, self._clock() - self._start_s, metrics)
        value = row.metrics.get(self._watched, 0.0)
        with self._lock:
            self._rows.append(row)
            if self._saves:
                self._recent.append(row)
            if self._watched in row.metrics:
                self._watched_so_far = self._watched_so_far.after(row.step, value)
            self._last_step = row.step
            self._first_step = row.step if self._first_step is None else self._first_step
            end = self._known_plan.from_step(self._first_step).n_steps
            self._is_whole = end is not None and row.step >= end - 1 and math.isfinite(value)
            ignored = self._intervention if self._intervention_was_open else None
            self._intervention_was_open = self._intervention is not None
        if ignored is not None:
            self.stop(ignored.verdict, self._else_pause)
        if not math.isfinite(value):
            reason = f"{self._watched} became {value} at step {row.step}"
            self.stop(Verdict("diverged", row.step, reason, {self._watched: value}))

    def _keep(self, step: int, folder: Path) -> None:
        """Take a checkpoint; one that cannot be written is no reason to end the trial."""
        if self._trial_folder is None:
            return
        seconds = self._clock() - self._start_s
        with self._lock:
            rows = [row for row in self._recent if row.seconds >= seconds - KEPT_S]
            self._recent = deque(rows, maxlen=MOST_KEPT)
            watched = self._watched_so_far
        kept = [(row.step, row.seconds, row.metrics) for row in rows]
        try:
            made = adopt(folder, self._trial_folder, step, seconds, kept, watched, self._setting)
        except NotADirectoryError:
            raise
        except OSError as error:
            log.warning(
                "the checkpoint at step %d cannot be written to %s: %s; the one before it stays",
                step,
                self._trial_folder,
                error,
            )
            return
        with self._lock:
            self._is_news = self._saves = True
            self._kept = Kept(made.step, made.n_bytes)
            self._has_saved = self._should_save
        if self._should_save:
            self._placed()

    def should_stop(self) -> bool:
        """Whether the trial must end.

        A task that has seen this and returns counts as stopped.
        """
        self._acknowledged = self._acknowledged or (
            self._verdict is not None and not self._is_whole and not self._awaits_last_checkpoint
        )
        return self._acknowledged

    def plan(self, plan: Plan) -> None:
        """Pass on what this trial will do if nobody stops it."""
        with self._lock:
            self._plan = self._known_plan = plan

    def disown(self, threads: Iterable[threading.Thread]) -> None:
        """Take no reports of these threads: an earlier trial may have left them behind."""
        self._older = frozenset(threads)

    def await_end(self) -> None:
        """Hold a trial that has made the checkpoint it was asked for: it is cut off now.

        What it did from here on would be done again. If nobody ends it after all, it goes on.
        """
        if self._has_saved:
            time.sleep(HOLD_S)

    def place(
        self, folder: str, checkpoint: Checkpoint | None = None, setting: Sequence[str] = ()
    ) -> None:
        """Pass on where this trial's files are, and where it goes on, if it does.

        setting: its overrides, which its checkpoints keep. Its seconds go on from those of the
        checkpoint, and its last reports before that are passed on again.
        """
        with self._lock:
            self._folder, self._trial_folder, self._setting = folder, Path(folder), setting
            if checkpoint is not None:
                rows = [Row(*row) for row in checkpoint.rows]
                first = rows[0].step if rows else checkpoint.step + 1
                self._checkpoint, self._saves, self._is_news = checkpoint, True, True
                self._kept = Kept(checkpoint.step, checkpoint.n_bytes)
                self._continued = Continued(checkpoint.step, first, checkpoint.watched, rows)
                self._start_s = self._clock() - checkpoint.seconds
                self._recent.extend(rows)
                self._watched_so_far = checkpoint.watched
                self._first_step = checkpoint.watched.first_step
                self._last_step = checkpoint.step
        self._placed()

    def take(self) -> Batch | None:
        """What has come in since the last call, or None if nothing has."""
        with self._lock:
            is_news, self._is_news = self._is_news, False
            batch = Batch(
                *(self._rows, self._plan, self._folder, self._continued, self._saves),
                *(self._has_saved, self._kept),
            )
            self._rows, self._plan, self._folder, self._continued = [], None, None, None
        return batch if batch.rows or batch.plan or batch.folder or is_news else None


_current: Reporter | ChildReporter | None = None


def _reporter() -> Reporter | ChildReporter | None:
    """That of this process: of the trial it runs, or of the one that started it."""
    global _current
    if _current is None or not _current.is_here:
        _current = ChildReporter.of(os.environ)
    return _current


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


def report(
    step: SupportsIndex, /, *, checkpoint: str | Path | None = None, **metrics: SupportsFloat
) -> None:
    """Report metrics after `step` optimizer updates, and a checkpoint of that moment.

    Ends the trial by raising if the sweep has decided so.
    step: a whole number, 0 or more. It need not be regular; a repeated step keeps both rows in the
    curve.
    metrics: numbers or one-element tensors; names with other characters go through
    `**{"grad_norm/W": 0.1}`. NaN and infinity are kept as they are, but in the watched metric
    (`hydra.sweeper.metric`) they end the trial.
    checkpoint: a folder with what the task needs to go on from here. What is in it is moved into
    the trial's own folder, where the newest two are kept until the trial ends; a trial that is cut
    off goes on from the newest one (`get_checkpoint`). With a checkpoint there may be no metrics.
    Raises optuna.TrialPruned when the trial is to stop: let it fly. Raises TypeError or ValueError
    for what is no step or no number, RuntimeError in a thread that was there before the trial
    began: it may belong to an earlier one. Outside a sweep, or when the trial is over, it does
    nothing at all. A child process of a trial (under torchrun, torch.multiprocessing) may report in
    its place, one of them: rank 0, else the first that does. What other ranks report is left out;
    they end here too once rank 0 has.

    >>> for step in range(100):
    ...     iolaus.report(step, loss=1 / (step + 1), lr=0.1)
    """
    reporter = _reporter()
    if reporter is None:
        return
    if isinstance(reporter, ChildReporter):
        numbers = _checked_metrics(step, metrics, checkpoint)
        reporter.report(_checked_step(step), numbers, checkpoint)
        return
    reporter.report(step, metrics, checkpoint)
    if checkpoint is not None:
        reporter.await_end()


def in_trial() -> bool:
    """Whether this process runs a trial of a sweep, or was started by one: a rank, a data loader.

    >>> from iolaus.sweeps.reporting import in_trial
    >>> in_trial()
    False
    """
    return _reporter() is not None


def get_checkpoint() -> Path | None:
    """The folder of the checkpoint that this trial goes on from; None if it begins.

    It holds what was reported as `checkpoint`, beside a `manifest.json` of ours, and is to be read
    only. A child process of the trial (a rank of distributed training) gets the same. None outside
    a sweep.

    >>> folder = iolaus.get_checkpoint()
    >>> step = 0 if folder is None else int((folder / "step").read_text())
    """
    reporter = _reporter()
    return None if reporter is None else reporter.get_checkpoint()


def should_checkpoint() -> bool:
    """Whether the sweep is about to end this trial for now: report a checkpoint, if you can.

    So it is after SIGTERM, or Ctrl-C twice, where a trial that reports one within the grace period
    (`hydra.sweeper.checkpoint_grace`) loses nothing; and when the pruner pauses the trial, which
    then ends at that report. Without one it goes on later from the last one that it has made. False
    outside a sweep.

    >>> iolaus.should_checkpoint()
    False
    """
    reporter = _reporter()
    return reporter is not None and reporter.should_checkpoint()


def should_stop() -> bool:
    """Whether the sweep wants this trial to end.

    A trial that returns after True counts as pruned. False outside.

    >>> iolaus.should_stop()
    False
    """
    reporter = _reporter()
    return reporter is not None and reporter.should_stop()


def intervention() -> Intervention | None:
    """What the sweep wants tried instead of ending this trial, or None; ask after a report.

    It wants to where `hydra.sweeper.on_stall` names an intervention. Each is given out once, and
    the task must act on it: lower its learning rate by the factor, after going back to its best
    checkpoint if the action is "rewind". A task that never asks is ended as usual. None outside a
    sweep.

    >>> wanted = iolaus.intervention()
    >>> lr = 0.1 if wanted is None else 0.1 * wanted.factor
    """
    reporter = _reporter()
    return None if reporter is None else reporter.intervention()


def plan(
    n_steps: SupportsIndex | None, lr: Sequence[tuple[SupportsIndex, SupportsFloat]] = ()
) -> None:
    """Tell the pruner how long this trial means to run and which learning rates lie ahead.

    See `iolaus.sweeps.types.Plan`. Does nothing outside a sweep.

    >>> iolaus.plan(n_steps=1000, lr=[(0, 0.1), (1000, 0.01)])  # linear in between
    """
    if (reporter := _reporter()) is not None:
        corners = tuple((operator.index(step), float(rate)) for step, rate in lr)
        reporter.plan(Plan(None if n_steps is None else operator.index(n_steps), corners))


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


def _checked_metrics(
    step: SupportsIndex, metrics: Mapping[str, SupportsFloat], checkpoint: str | Path | None
) -> dict[str, float]:
    if not metrics and checkpoint is None:
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
