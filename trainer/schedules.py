"""Learning-rate schedules: pure functions of the step.

A schedule is a frozen set of numbers that is called with a step and the learning rate at the top, and gives the rate
of that step. Step, rate and every setting may each be a number or a vector (of steps, or of trials side by side),
numpy or torch, which broadcast: there is one formula for all of them. In float64 numpy a number and a vector agree to
the last bit; torch vectors agree within rounding, since torch takes another path through a vector's tail.

Every schedule has a linear warm-up from 0 and a floor, and everything that it counts is counted in steps from the end
of the warm-up (t in the formulas). conf/README.md lists them all with their sources, next to a picture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Values: TypeAlias = Any  # a number, or a numpy or torch vector: float64, of steps or of trials


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A learning rate over the steps of a run.

    warmup_steps: before this step the rate is `lr * step / warmup_steps` (case 2's published form; 0 in step 0), or,
        where a schedule does not begin at lr, the same share of the rate with which it begins.
    min_lr: the rate never falls below this once warm-up is over, even where lr itself is lower.
    decay_during_warmup: t counts from step 0, as in BERT's optimizer; the rate then jumps where the warm-up ends.
    Raises ValueError for a setting out of its range.
    """

    warmup_steps: Values = 0.0
    min_lr: Values = 0.0
    decay_during_warmup: bool = False

    def __post_init__(self) -> None:
        self._require("from 0 up", lambda v: v >= 0, warmup_steps=self.warmup_steps, min_lr=self.min_lr)
        self._check()

    def __call__(self, step: Values, lr: Values) -> Values:
        """The rate at `step` (from 0 up) for the top rate `lr`: a float if all are numbers, else their vector."""
        own = (getattr(self, field.name) for field in fields(self))
        vectors = [v for v in (step, lr, *own) if isinstance(v, np.ndarray | torch.Tensor)]
        shape = np.broadcast_shapes(*(tuple(v.shape) for v in vectors))
        # numpy rounds otherwise where it takes its path for single numbers, so all go as vectors of at least two.
        full = shape if math.prod(shape) > 1 else (2,)
        tensor = next((v for v in vectors if isinstance(v, torch.Tensor)), None)
        if tensor is None:
            rates = self._rate(np, np.zeros(full) + step, lr)
        else:
            rates = self._rate(torch, torch.zeros(full, dtype=torch.float64, device=tensor.device) + step, lr)
        if not vectors:
            return float(rates[0])
        return rates if full == shape else rates[:1].reshape(shape)

    def _rate(self, xp: ModuleType, step: Values, lr: Values) -> Values:
        start = 0.0 if self.decay_during_warmup else self.warmup_steps
        rate = xp.clip(self._decay(xp, xp.clip(step - start, 0, None), lr), self.min_lr, None)
        first = self._decay(xp, 0 * step, lr)
        warming = step < self.warmup_steps
        ramp = first * step / xp.where(warming, self.warmup_steps + 0 * step, 1.0)  # no division by a warm-up of 0
        return xp.where(warming, ramp, rate)

    @abstractmethod
    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        """The rate t >= 0 steps after warm-up, without floor. t: vector of the module xp (numpy or torch)."""

    @abstractmethod
    def _check(self) -> None:
        """Raise ValueError for a setting of the subclass that is out of its range."""

    def _require(self, what: str, holds: Any, **settings: Values) -> None:
        for name, value in settings.items():
            if not bool(np.all(holds(np.asarray(value, np.float64)))):
                raise ValueError(f"schedule.{name} must be {what}; got {value}")


def _positive(value: Values) -> Values:
    return (value > 0) & np.isfinite(value)


def _share(value: Values) -> Values:
    return (value > 0) & (value <= 1)


def _power(xp: ModuleType, base: Values, exponent: Values) -> Values:
    """The power base ** exponent for vectors, the same whatever the shapes.

    numpy squares (or takes the root) where one exponent serves a whole vector, which rounds otherwise than its pow.
    """
    return xp.pow(base + 0 * exponent, exponent + 0 * base)


def _progress(xp: ModuleType, t: Values, n_steps: Values) -> Values:
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

    decay_rate in (0, 1]; decay_steps > 0. Case 1's schedule; the staircase with decay_rate 0.5 is "halve every N".
    Source: TensorFlow's exponential_decay; torch's ExponentialLR and StepLR are its cases.
    """

    decay_rate: Values
    decay_steps: Values
    staircase: bool = False

    def _check(self) -> None:
        self._require("in (0, 1]", _share, decay_rate=self.decay_rate)
        self._require("above 0", _positive, decay_steps=self.decay_steps)

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        exponent = t / self.decay_steps
        return lr * _power(xp, self.decay_rate, xp.floor(exponent) if self.staircase else exponent)


@dataclass(frozen=True, kw_only=True)
class MultiStep(Schedule):
    """`lr * decay_rate ** n`, where n of the milestones have been reached.

    milestone_steps: any number of steps, counted like t. Source: torch's MultiStepLR, where decay_rate is called gamma.
    """

    milestone_steps: tuple[Values, ...]
    decay_rate: Values = 0.1

    def _check(self) -> None:
        self._require("in (0, 1]", _share, decay_rate=self.decay_rate)
        self._require("from 0 up", lambda v: v >= 0, milestone_steps=list(self.milestone_steps))

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        n_reached = 0 * t
        for milestone in self.milestone_steps:
            n_reached = n_reached + xp.where(t >= milestone, 1.0, 0.0)
        return lr * _power(xp, self.decay_rate, n_reached)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """`(lr - end_lr) * (1 - min(t, decay_steps) / decay_steps) ** power + end_lr`.

    Power 1 is a line. After decay_steps the rate stays at end_lr: at the default of 0 training on does nothing.
    Source: TensorFlow's polynomial_decay, as in BERT's optimization.py; torch's PolynomialLR.
    """

    decay_steps: Values
    power: Values = 1.0
    end_lr: Values = 0.0

    def _check(self) -> None:
        self._require("above 0", _positive, decay_steps=self.decay_steps, power=self.power)
        self._require("from 0 up", lambda v: v >= 0, end_lr=self.end_lr)

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        left = 1.0 - _progress(xp, t, self.decay_steps)
        return (lr - self.end_lr) * _power(xp, left, self.power) + self.end_lr


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """`end_lr + (lr - end_lr) * (1 + cos(pi * t / decay_steps)) / 2`, then end_lr; or all over again.

    restarts: begin again at lr after decay_steps, each period period_factor (whole, a single number) times as long.
    Source: Loshchilov and Hutter, arXiv 1608.03983; torch's CosineAnnealingLR and CosineAnnealingWarmRestarts.
    """

    decay_steps: Values
    end_lr: Values = 0.0
    restarts: bool = False
    period_factor: int = 1

    def _check(self) -> None:
        self._require("above 0", _positive, decay_steps=self.decay_steps)
        self._require("from 0 up", lambda v: v >= 0, end_lr=self.end_lr)
        self._require("a whole number from 1 up", lambda v: (v >= 1) & (v % 1 == 0), period_factor=self.period_factor)

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        progress = self._since_restart(xp, t) if self.restarts else _progress(xp, t, self.decay_steps)
        return self.end_lr + (lr - self.end_lr) * (1.0 + xp.cos(math.pi * progress)) / 2.0

    def _since_restart(self, xp: ModuleType, t: Values) -> Values:
        period = self.decay_steps + 0 * t
        if self.period_factor == 1:
            return xp.remainder(t, period) / period
        t = t + 0 * period
        while bool((t >= period).any()):  # by subtraction: a logarithm, as in torch, misses restarts by rounding
            over = t >= period
            t = xp.where(over, t - period, t)
            period = xp.where(over, period * self.period_factor, period)
        return t / period


@dataclass(frozen=True, kw_only=True)
class InverseTime(Schedule):
    """`lr / (1 + decay_rate * t / decay_steps)`; case 4's `lr / (1 + k t)` has k = decay_rate / decay_steps.

    Source: TensorFlow's inverse_time_decay.
    """

    decay_steps: Values
    decay_rate: Values = 1.0

    def _check(self) -> None:
        self._require("above 0", _positive, decay_steps=self.decay_steps)
        self._require("from 0 up", lambda v: v >= 0, decay_rate=self.decay_rate)

    def _decay(self, _xp: ModuleType, t: Values, lr: Values) -> Values:
        return lr / (1.0 + self.decay_rate * t / self.decay_steps)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """Up from `lr / div_factor` to lr in the first rise_share of the cycle, then down to far below where it began.

    The end is `lr / div_factor / final_div_factor`; both ways go along a half cosine. cycle_steps: length of the
    cycle; its last step has the lowest rate, and so have all later ones.
    Source: Smith and Topin, arXiv 1708.07120; torch's OneCycleLR (rise_share is its pct_start).
    """

    cycle_steps: Values
    rise_share: Values = 0.3
    div_factor: Values = 25.0
    final_div_factor: Values = 1e4

    def _check(self) -> None:
        self._require("between 0 and 1", lambda v: (v > 0) & (v < 1), rise_share=self.rise_share)
        self._require("from 1 up", lambda v: v >= 1, div_factor=self.div_factor, final_div_factor=self.final_div_factor)
        product = np.asarray(self.rise_share, np.float64) * np.asarray(self.cycle_steps, np.float64)
        if not bool(np.all(product > 1)):
            raise ValueError(
                f"schedule.cycle_steps={self.cycle_steps} leaves no step to rise with rise_share={self.rise_share}; "
                f"their product must be above 1"
            )

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        low = lr / self.div_factor
        top = self.rise_share * self.cycle_steps - 1.0
        rise = _half_cosine(xp, low, lr, _progress(xp, t, top))
        fall = _half_cosine(xp, lr, low / self.final_div_factor, _progress(xp, t - top, self.cycle_steps - 1.0 - top))
        return xp.where(t <= top, rise, fall)


def _half_cosine(xp: ModuleType, start: Values, end: Values, progress: Values) -> Values:
    return end + (start - end) / 2.0 * (1.0 + xp.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Schedule):
    """lr for stable_steps, then `end_lr + (lr - end_lr) * (1 - x ** power)`, x the share of decay_steps that is over.

    Power 1 is a line, 0.5 the "1-sqrt" that Hägele et al. found best. Sources: Hu et al. (MiniCPM), arXiv 2404.06395;
    Hägele et al., arXiv 2405.18392.
    """

    stable_steps: Values
    decay_steps: Values
    power: Values = 1.0
    end_lr: Values = 0.0

    def _check(self) -> None:
        self._require("above 0", _positive, decay_steps=self.decay_steps, power=self.power)
        self._require("from 0 up", lambda v: v >= 0, stable_steps=self.stable_steps, end_lr=self.end_lr)

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        progress = _progress(xp, xp.clip(t - self.stable_steps, 0, None), self.decay_steps)
        return self.end_lr + (lr - self.end_lr) * (1.0 - _power(xp, progress, self.power))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of `Staged`: `lr * decay_rate ** (s / decay_steps)`, s steps after it began, for length_steps steps."""

    lr: Values
    decay_rate: Values
    decay_steps: Values
    length_steps: Values


@dataclass(frozen=True, kw_only=True)
class Staged(Schedule):
    """One exponential decay after the other, each from a rate of its own; the last one goes on for ever.

    stages: `Stage`s or mappings with their settings. The rates are the stages' own; the top rate is not used.
    Stages follow each other, so they cannot overlap. Source: case 1's table, where each
    stage was a restart from the last checkpoint.
    """

    stages: tuple[Stage | Mapping[str, Any], ...]

    def _check(self) -> None:
        if not self.stages:
            raise ValueError("schedule.stages is empty: give at least one stage")
        for i, stage in enumerate(self.filled):
            self._require("in (0, 1]", _share, **{f"stages[{i}].decay_rate": stage.decay_rate})
            for name in ("lr", "decay_steps", "length_steps"):
                self._require("above 0", _positive, **{f"stages[{i}].{name}": getattr(stage, name)})

    @property
    def filled(self) -> tuple[Stage, ...]:
        """The stages as `Stage`s."""
        return tuple(stage if isinstance(stage, Stage) else Stage(**stage) for stage in self.stages)

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        start: Values = 0.0
        rate = 0 * (lr + t)  # the vector that the stages fill
        for stage in self.filled:
            since = xp.clip(t - start, 0, None)
            rate = xp.where(t >= start, stage.lr * _power(xp, stage.decay_rate, since / stage.decay_steps), rate)
            start = start + stage.length_steps
        return rate


def corners(rates: NDArray[np.float64], n_max: int = 64, tolerance: float = 1e-3) -> list[tuple[int, float]]:
    """At most n_max (step, rate) points whose joining lines follow rates [n_steps], step 0 and the last among them.

    Points are added where the lines are furthest off, until nothing is by more than `tolerance` of the highest rate.
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
