"""Learning-rate schedules: pure functions of the step.

A schedule is a frozen set of numbers that is called with a step and the learning rate at the top,
and gives the rate of that step. Step, rate and every setting may each be a number or a vector (of
steps, or of trials side by side), numpy or torch, which broadcast: there is one formula for all of
them. In float64 numpy a number and a vector agree to the last bit; torch vectors agree within
rounding, since torch takes another path through a vector's tail.

Every schedule has a linear warm-up from 0 and a floor, and everything that it counts is counted in
steps from the end of the warm-up (t in the formulas). Those made of phases are in phases.py, those
that look at the loss in plateau.py; conf/README.md lists all of them with their sources, next to a
picture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseTime",
    "MultiStep",
    "Polynomial",
    "Schedule",
    "Values",
    "corners",
    "is_positive",
    "is_share",
    "power_of",
    "progress_of",
]

Values: TypeAlias = Any  # a number, or a numpy or torch vector: float64, of steps or of trials


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A learning rate over the steps of a run.

    warmup_steps: before this step the rate is `lr * step / warmup_steps` (0 in
        step 0, as published), or, where a schedule does not begin at lr, the same share of the rate
        with which it begins. min_lr: the rate never falls below this once warm-up is over, even
        where lr itself is lower. decay_during_warmup: t counts from step 0, as in BERT's optimizer;
        the rate then jumps where the warm-up ends. Raises ValueError for a setting out of its
        range.
    """

    warmup_steps: Values = 0.0
    min_lr: Values = 0.0
    decay_during_warmup: bool = False

    def __post_init__(self) -> None:
        self._require(
            "from 0 up", lambda v: v >= 0, warmup_steps=self.warmup_steps, min_lr=self.min_lr
        )
        self._check()

    def __call__(self, step: Values, lr: Values) -> Values:
        """The rate at `step` (from 0 up) for the top rate `lr`.

        A float if all are numbers, else their vector.
        """
        own = (getattr(self, field.name) for field in fields(self))
        vectors = [v for v in (step, lr, *own) if isinstance(v, np.ndarray | torch.Tensor)]
        shape = np.broadcast_shapes(*(tuple(v.shape) for v in vectors))
        # numpy rounds otherwise where it takes its path for single numbers, so all go as vectors of
        # at least two.
        full = shape if math.prod(shape) > 1 else (2,)
        tensor = next((v for v in vectors if isinstance(v, torch.Tensor)), None)
        if tensor is None:
            rates = self._rate(np, np.zeros(full) + step, lr)
        else:
            rates = self._rate(
                torch, torch.zeros(full, dtype=torch.float64, device=tensor.device) + step, lr
            )
        if not vectors:
            return float(rates[0])
        return rates if full == shape else rates[:1].reshape(shape)

    def _rate(self, xp: ModuleType, step: Values, lr: Values) -> Values:
        start = 0.0 if self.decay_during_warmup else self.warmup_steps
        rate = xp.clip(self._decay(xp, xp.clip(step - start, 0, None), lr), self.min_lr, None)
        first = self._decay(xp, 0 * step, lr)
        warming = step < self.warmup_steps
        ramp = (
            first * step / xp.where(warming, self.warmup_steps + 0 * step, 1.0)
        )  # no division by a warm-up of 0
        return xp.where(warming, ramp, rate)

    @property
    def note(self) -> str:
        """What a reader of the run's log should know of the rates; "" for nothing."""
        return ""

    @abstractmethod
    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        """The rate t >= 0 steps after warm-up, without floor.

        t: vector of the module xp (numpy or torch).
        """

    @abstractmethod
    def _check(self) -> None:
        """Raise ValueError for a setting of the subclass that is out of its range."""

    def _require(self, what: str, holds: Any, **settings: Values) -> None:
        for name, value in settings.items():
            if not bool(np.all(holds(np.asarray(value, np.float64)))):
                raise ValueError(f"schedule.{name} must be {what}; got {value}")


def is_positive(value: Values) -> Values:
    """Whether each value is above 0 and finite."""
    return (value > 0) & np.isfinite(value)


def is_share(value: Values) -> Values:
    """Whether each value is in (0, 1]."""
    return (value > 0) & (value <= 1)


def power_of(xp: ModuleType, base: Values, exponent: Values) -> Values:
    """The power base ** exponent for vectors, the same whatever the shapes.

    numpy squares (or takes the root) where one exponent serves a whole vector, which rounds
    otherwise than its pow.
    """
    return xp.pow(base + 0 * exponent, exponent + 0 * base)


def progress_of(xp: ModuleType, t: Values, n_steps: Values) -> Values:
    """The share of n_steps that is over, 1 from then on."""
    return xp.clip(t / n_steps, None, 1.0)


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """`lr`."""

    def _check(self) -> None:
        pass

    def _decay(self, _xp: ModuleType, t: Values, lr: Values) -> Values:
        return lr + 0 * t


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """`lr * decay_rate ** (t / decay_steps)`; with staircase the exponent is rounded down.

    decay_rate in (0, 1]; decay_steps > 0. The staircase with decay_rate 0.5 is "halve every N".
    Source: TensorFlow's exponential_decay; torch's ExponentialLR and StepLR are its cases.
    """

    decay_rate: Values
    decay_steps: Values
    staircase: bool = False

    def _check(self) -> None:
        self._require("in (0, 1]", is_share, decay_rate=self.decay_rate)
        self._require("above 0", is_positive, decay_steps=self.decay_steps)

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        exponent = t / self.decay_steps
        return lr * power_of(
            xp, self.decay_rate, xp.floor(exponent) if self.staircase else exponent
        )


@dataclass(frozen=True, kw_only=True)
class MultiStep(Schedule):
    """`lr * decay_rate ** n`, where n of the milestones have been reached.

    milestone_steps: any number of steps, counted like t. Source: torch's MultiStepLR, where
    decay_rate is called gamma.
    """

    milestone_steps: tuple[Values, ...]
    decay_rate: Values = 0.1

    def _check(self) -> None:
        self._require("in (0, 1]", is_share, decay_rate=self.decay_rate)
        self._require("from 0 up", lambda v: v >= 0, milestone_steps=list(self.milestone_steps))

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        n_reached = 0 * t
        for milestone in self.milestone_steps:
            n_reached = n_reached + xp.where(t >= milestone, 1.0, 0.0)
        return lr * power_of(xp, self.decay_rate, n_reached)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """`(lr - end_lr) * (1 - min(t, decay_steps) / decay_steps) ** power + end_lr`.

    Power 1 is a line. After decay_steps the rate stays at end_lr: at the default of 0 training on
    does nothing.
    Source: TensorFlow's polynomial_decay, as in BERT's optimization.py; torch's PolynomialLR.
    """

    decay_steps: Values
    power: Values = 1.0
    end_lr: Values = 0.0

    def _check(self) -> None:
        self._require("above 0", is_positive, decay_steps=self.decay_steps, power=self.power)
        self._require("from 0 up", lambda v: v >= 0, end_lr=self.end_lr)

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        left = 1.0 - progress_of(xp, t, self.decay_steps)
        return (lr - self.end_lr) * power_of(xp, left, self.power) + self.end_lr


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """`end_lr + (lr - end_lr) * (1 + cos(pi * t / decay_steps)) / 2`, then end_lr or a restart.

    restarts: begin again at lr after decay_steps, each period period_factor (whole, a single
    number) times as long.
    Source: Loshchilov and Hutter, arXiv 1608.03983; torch's CosineAnnealingLR and
    CosineAnnealingWarmRestarts.
    """

    decay_steps: Values
    end_lr: Values = 0.0
    restarts: bool = False
    period_factor: int = 1

    def _check(self) -> None:
        self._require("above 0", is_positive, decay_steps=self.decay_steps)
        self._require("from 0 up", lambda v: v >= 0, end_lr=self.end_lr)
        self._require(
            "a whole number from 1 up",
            lambda v: (v >= 1) & (v % 1 == 0),
            period_factor=self.period_factor,
        )

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        progress = (
            self._since_restart(xp, t) if self.restarts else progress_of(xp, t, self.decay_steps)
        )
        return self.end_lr + (lr - self.end_lr) * (1.0 + xp.cos(math.pi * progress)) / 2.0

    def _since_restart(self, xp: ModuleType, t: Values) -> Values:
        period = self.decay_steps + 0 * t
        if self.period_factor == 1:
            return xp.remainder(t, period) / period
        t = t + 0 * period
        # By subtraction: a logarithm, as in torch, misses restarts by rounding.
        while bool((t >= period).any()):
            over = t >= period
            t = xp.where(over, t - period, t)
            period = xp.where(over, period * self.period_factor, period)
        return t / period


@dataclass(frozen=True, kw_only=True)
class InverseTime(Schedule):
    """`lr / (1 + decay_rate * t / decay_steps)`; in `lr / (1 + k t)` k is decay_rate / decay_steps.

    Source: TensorFlow's inverse_time_decay.
    """

    decay_steps: Values
    decay_rate: Values = 1.0

    def _check(self) -> None:
        self._require("above 0", is_positive, decay_steps=self.decay_steps)
        self._require("from 0 up", lambda v: v >= 0, decay_rate=self.decay_rate)

    def _decay(self, _xp: ModuleType, t: Values, lr: Values) -> Values:
        return lr / (1.0 + self.decay_rate * t / self.decay_steps)


def corners(
    rates: NDArray[np.float64], n_max: int = 64, tolerance: float = 1e-3
) -> list[tuple[int, float]]:
    """At most n_max (step, rate) points whose joining lines follow rates [n_steps].

    Step 0 and the last are among them. Points are added where the lines are furthest off, until
    nothing is by more than `tolerance` of the highest rate.
    """
    steps = np.arange(len(rates))
    chosen = sorted({0, len(rates) - 1})
    while len(chosen) < n_max:
        off = np.abs(np.interp(steps, chosen, rates[chosen]) - rates)
        worst = int(off.argmax())
        if off[worst] <= tolerance * rates.max():
            break
        chosen = sorted({*chosen, worst})
    return [(step, float(rates[step])) for step in chosen]
