"""The schedules that look at the loss, reduce-on-plateau and Newbob, as pure transitions.

They are schedules too:
between two measurements the rate is `state.lr`, with warm-up and floor. Each measurement of the
watched metric makes the next state. State and measurement may be numbers or
vectors of trials.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Generic, TypeVar

import numpy as np

from iolaus.sweeps.metric import infer_goal
from iolaus.trainer.schedules import Schedule, Values

__all__ = ["LossDriven", "Newbob", "NewbobState", "PlateauState", "ReduceOnPlateau", "watched_sign"]

S = TypeVar("S")


def watched_sign(section: str, watch: str, mode: str) -> float:
    """What a watched metric is multiplied by, so that lower is better: 1 or -1.

    mode: "min" if lower is better, "max" if higher is, "auto" where its name says it. Raises
    ValueError, naming the config's section, for another mode or a name that does not say it.
    """
    if mode not in ("auto", "min", "max"):
        raise ValueError(f'{section}.mode is "auto", "min" or "max"; got {mode!r}')
    goal = infer_goal(watch) if mode == "auto" else f"{mode}imize"
    if goal is None:
        raise ValueError(
            f"{section}.mode=auto: is {watch} better when it is lower or higher? say "
            f"{section}.mode=min or max"
        )
    return -1.0 if goal == "maximize" else 1.0


@dataclass(frozen=True, kw_only=True)
class LossDriven(Schedule, ABC, Generic[S]):
    """A rate that falls by `factor` when the watched metric no longer improves.

    watch: name of a metric measured at each evaluation, such as "val_loss". mode: "min" if lower is
    better, "max" if higher is, "auto" where its name says it. factor in (0, 1).
    """

    watch: str = "val_loss"
    mode: str = "auto"
    factor: Values = 0.1

    def _check(self) -> None:
        self._require("between 0 and 1", lambda v: (v > 0) & (v < 1), factor=self.factor)
        watched_sign("schedule", self.watch, self.mode)

    @property
    def sign(self) -> float:
        """What the watched metric is multiplied by, so that lower is better: 1 or -1."""
        return watched_sign("schedule", self.watch, self.mode)

    def _decay(self, _xp: ModuleType, t: Values, lr: Values) -> Values:
        return lr + 0 * t

    @abstractmethod
    def start(self, lr: Values) -> S:
        """The state before any measurement; lr is the top rate."""

    @abstractmethod
    def next(self, state: S, measured: Values) -> S:
        """The state after one more measurement."""


@dataclass(frozen=True)
class PlateauState:
    """Where `ReduceOnPlateau` is after some measurements.

    lr: the rate now. best: of the metric so far, times the schedule's sign. n_bad: measurements
    since then. n_cooldown: of those to come, how many are not to be counted.
    """

    lr: Values
    best: Values
    n_bad: Values
    n_cooldown: Values


@dataclass(frozen=True, kw_only=True)
class ReduceOnPlateau(LossDriven[PlateauState]):
    """The rate times `factor` after more than `patience` measurements without a new best.

    Where lower is better, a new best is below `best * (1 - threshold)` with threshold_mode "rel"
    (which needs a metric above 0) or below `best - threshold` with "abs"; where higher is, above
    `best * (1 + threshold)` or `best + threshold`. For `cooldown` measurements after a drop
    nothing is counted. A NaN is never a new best. Source:
    torch.optim.lr_scheduler.ReduceLROnPlateau, where a drop below 1e-8 is left out too.
    """

    patience: Values = 10
    threshold: Values = 1e-4
    threshold_mode: str = "rel"
    cooldown: Values = 0

    def _check(self) -> None:
        super()._check()
        if self.threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f'schedule.threshold_mode is "rel" or "abs"; got {self.threshold_mode!r}'
            )
        self._require("from 0 up", lambda v: v >= 0, patience=self.patience, cooldown=self.cooldown)

    def start(self, lr: Values) -> PlateauState:
        """Nothing measured yet: best is infinite."""
        return PlateauState(lr, np.inf + 0 * lr, 0 * lr, 0 * lr)

    def next(self, state: PlateauState, measured: Values) -> PlateauState:
        """Count the measurement, and drop the rate if that makes too many bad ones."""
        measured = self.sign * measured
        relative = self.threshold_mode == "rel"
        target = np.where(np.isinf(state.best), state.best, 0.0)  # inf - inf would be NaN
        finite_best = np.where(np.isinf(state.best), 0.0, state.best)
        share = self.sign * self.threshold
        target = target + (
            finite_best * (1.0 - share) if relative else finite_best - self.threshold
        )
        better = measured < target
        n_bad = np.where(better, 0, state.n_bad + 1)
        cooling = state.n_cooldown > 0
        n_cooldown = np.where(cooling, state.n_cooldown - 1, state.n_cooldown)
        n_bad = np.where(cooling, 0, n_bad)
        drop = n_bad > self.patience
        lower = np.maximum(state.lr * self.factor, self.min_lr)
        return PlateauState(
            lr=_number(np.where(drop & (state.lr - lower > 1e-8), lower, state.lr)),
            best=_number(np.where(better, measured, state.best)),
            n_bad=_number(np.where(drop, 0, n_bad)),
            n_cooldown=_number(np.where(drop, self.cooldown, n_cooldown)),
        )


@dataclass(frozen=True)
class NewbobState:
    """Where `Newbob` is after some measurements.

    lr: the rate now. recent: the last measurements, times the schedule's sign, newest last, at most
    n_measurements + 1.
    n_seen: all so far.
    """

    lr: Values
    recent: tuple[Values, ...] = ()
    n_seen: int = 0


@dataclass(frozen=True, kw_only=True)
class Newbob(LossDriven[NewbobState]):
    """The rate times `factor` when the mean relative error of late is above a threshold.

    The relative error of two neighbours is `(new - old) / abs(new)`: below 0 is an improvement.
    Looked at are the last n_measurements of them, every update_interval measurements; after the
    second one for the first time.
    relative_error_threshold: 0 asks for any improvement, -0.01 for one of 1 %. growth_factor: what
    the rate is multiplied by where the mean is below relative_error_grow_threshold (None: the other
    threshold). A NaN counts as neither.
    Source: RETURNN, learning_rate_control.py, NewbobMultiEpoch, where update_interval is
    n_measurements (num_epochs) if it is left out; with n_measurements = update_interval = 1 its
    NewbobRelative.
    """

    factor: Values = 0.5
    growth_factor: Values = 1.0
    relative_error_threshold: Values = -0.01
    relative_error_grow_threshold: Values | None = None
    n_measurements: int = 1
    update_interval: int = 1

    def _check(self) -> None:
        super()._check()
        for name in ("n_measurements", "update_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name} must be from 1 up; got {getattr(self, name)}")
        self._require("from 1 up", lambda v: v >= 1, growth_factor=self.growth_factor)
        grow, threshold = self._grow_threshold, self.relative_error_threshold
        if np.any(np.asarray(grow) > np.asarray(threshold)):
            raise ValueError(
                "schedule.relative_error_grow_threshold is above relative_error_threshold: in "
                f"between the rate would fall and grow; got {grow} and {threshold}"
            )

    @property
    def _grow_threshold(self) -> Values:
        own = self.relative_error_grow_threshold
        return self.relative_error_threshold if own is None else own

    def start(self, lr: Values) -> NewbobState:
        """Nothing measured yet."""
        return NewbobState(lr)

    def next(self, state: NewbobState, measured: Values) -> NewbobState:
        """Keep the measurement, and drop the rate if it is time to look and the mean says so."""
        recent = (*state.recent, self.sign * measured)[-(self.n_measurements + 1) :]
        seen = replace(state, recent=recent, n_seen=state.n_seen + 1)
        if len(recent) < 2 or (
            self.update_interval > 1 and seen.n_seen % self.update_interval != 0
        ):
            return seen
        pairs = itertools.pairwise(recent)
        mean = np.mean(
            [(new - old) / np.maximum(np.abs(new), 1e-300) for old, new in pairs], axis=0
        )
        lower = np.maximum(state.lr * self.factor, self.min_lr)
        drop = (mean > self.relative_error_threshold) & (lower < state.lr)
        grow = mean < self._grow_threshold
        lr = np.where(drop, lower, np.where(grow, state.lr * self.growth_factor, state.lr))
        return replace(seen, lr=_number(lr))


def _number(value: Values) -> Values:
    """A plain number where there is only one."""
    return value.item() if np.ndim(value) == 0 else value
