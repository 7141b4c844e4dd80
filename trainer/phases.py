"""Schedules made of phases: one-cycle, warm-up-stable-decay, and stages, each a restart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from iolaus.trainer.schedules import Schedule, Values, is_positive, is_share, power_of, progress_of

__all__ = ["OneCycle", "Stage", "Staged", "WarmupStableDecay"]


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """Up to lr in the first rise_share of the cycle, then down to far below where it began.

    The beginning is `lr / div_factor`, the end `lr / div_factor / final_div_factor`; both ways go
    along a half cosine. cycle_steps: length of the cycle; its last step has the lowest rate, and so
    have all later ones. Source: Smith and Topin, arXiv 1708.07120; torch's OneCycleLR (rise_share
    is its pct_start).
    """

    cycle_steps: Values
    rise_share: Values = 0.3
    div_factor: Values = 25.0
    final_div_factor: Values = 1e4

    def _check(self) -> None:
        self._require("between 0 and 1", lambda v: (v > 0) & (v < 1), rise_share=self.rise_share)
        self._require(
            "from 1 up",
            lambda v: v >= 1,
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
        )
        product = np.asarray(self.rise_share, np.float64) * np.asarray(self.cycle_steps, np.float64)
        if not bool(np.all(product > 1)):
            raise ValueError(
                f"schedule.cycle_steps={self.cycle_steps} leaves no step to rise with "
                f"rise_share={self.rise_share}; their product must be above 1"
            )

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        low = lr / self.div_factor
        top = self.rise_share * self.cycle_steps - 1.0
        rise = _half_cosine(xp, low, lr, progress_of(xp, t, top))
        fall = _half_cosine(
            xp,
            lr,
            low / self.final_div_factor,
            progress_of(xp, t - top, self.cycle_steps - 1.0 - top),
        )
        return xp.where(t <= top, rise, fall)


def _half_cosine(xp: ModuleType, start: Values, end: Values, progress: Values) -> Values:
    return end + (start - end) / 2.0 * (1.0 + xp.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Schedule):
    """lr for stable_steps, then `end_lr + (lr - end_lr) * (1 - x ** power)`.

    x is the share of decay_steps that is over. Power 1 is a line, 0.5 the "1-sqrt" that Hägele et
    al. found best. Sources: Hu et al. (MiniCPM), arXiv 2404.06395; Hägele et al., arXiv 2405.18392.
    """

    stable_steps: Values
    decay_steps: Values
    power: Values = 1.0
    end_lr: Values = 0.0

    def _check(self) -> None:
        self._require("above 0", is_positive, decay_steps=self.decay_steps, power=self.power)
        self._require(
            "from 0 up", lambda v: v >= 0, stable_steps=self.stable_steps, end_lr=self.end_lr
        )

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        progress = progress_of(xp, xp.clip(t - self.stable_steps, 0, None), self.decay_steps)
        return self.end_lr + (lr - self.end_lr) * (1.0 - power_of(xp, progress, self.power))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of `Staged`: `lr * decay_rate ** (s / decay_steps)`, for length_steps steps.

    s counts the steps from where the stage, or the run, began.
    """

    lr: Values
    decay_rate: Values
    decay_steps: Values
    length_steps: Values


@dataclass(frozen=True, kw_only=True)
class Staged(Schedule):
    """One exponential decay after the other, each from its own rate; the last goes on for ever.

    stages: `Stage`s or mappings with their settings. The rates are the stages' own; the top rate is
    not used. Stages follow each other, so they cannot overlap. Published
    tables of this kind are restarts by hand, each stage from the last checkpoint.
    stage_steps: what the decays count, "local", steps since their stage began, or "global", steps
    since the end of the run's warm-up: so where a checkpoint brings its step along and the rate is
    computed from that, as in TensorFlow's `exponential_decay(lr, global_step, ...)`. A stage then
    begins below its lr.
    """

    stages: tuple[Stage | Mapping[str, Any], ...]
    stage_steps: str = "local"

    @property
    def note(self) -> str:
        """Which reading of the stages is used."""
        if self.stage_steps == "local":
            begin = "each stage begins at its own lr: its decay counts from where it begins"
        else:
            begin = "a stage begins below its lr: its decay counts from the beginning of the run"
        return f"schedule.stage_steps={self.stage_steps}: {begin}"

    def _check(self) -> None:
        if self.stage_steps not in ("local", "global"):
            raise ValueError(
                "schedule.stage_steps is local (decays count from their stage's beginning) or "
                f"global (from the run's); got {self.stage_steps!r}"
            )
        if not self.stages:
            raise ValueError("schedule.stages is empty: give at least one stage")
        for i, stage in enumerate(self.filled):
            self._require("in (0, 1]", is_share, **{f"stages[{i}].decay_rate": stage.decay_rate})
            for name in ("lr", "decay_steps", "length_steps"):
                self._require(
                    "above 0", is_positive, **{f"stages[{i}].{name}": getattr(stage, name)}
                )

    @property
    def filled(self) -> tuple[Stage, ...]:
        """The stages as `Stage`s."""
        return tuple(stage if isinstance(stage, Stage) else Stage(**stage) for stage in self.stages)

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        start: Values = 0.0
        rate = 0 * (lr + t)  # the vector that the stages fill
        for stage in self.filled:
            since = t if self.stage_steps == "global" else xp.clip(t - start, 0, None)
            rate = xp.where(
                t >= start,
                stage.lr * power_of(xp, stage.decay_rate, since / stage.decay_steps),
                rate,
            )
            start = start + stage.length_steps
        return rate
