"""The shape of one trial's loss, with the numbers that decided it.

The rules are few and asked in order; the first that holds is the shape. All of them are about
`iolaus.sweeps.signals` of the training loss, measured by the *room*: the way from the loss before
training to the lowest level that any trial of the sweep reached (alone, to the trial's own best).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from iolaus.analysis.diagnosis._features import HARDLY, Features
from iolaus.sweeps.signals import N_TAIL, Signals, log_time, smooth
from iolaus.sweeps.types import SPENT_SHARE

__all__ = ["SHAPES", "STALLED_SHAPES", "WELL", "Diagnosis", "diagnose_curve", "shape_name"]

SHAPES = (
    "broken",
    "exploded",
    "died",
    "overfitting",
    "rebound",
    "oscillating",
    "underfitting",
    "fast_then_flat",
    "stalled",
    "converged",
    "slow",
    "improving",
)
WELL = ("converged", "improving")
STALLED_SHAPES = ("stalled", "fast_then_flat")
SHAPE_NAMES = {"fast_then_flat": "fast, then flat", "improving": "still improving"}

N_REPORTS = 3  # fewer finite reports are no curve
# Shares of the room:
ROSE = 0.25  # a rise above the start that is an explosion if the loss stays high
NEAR = 0.05  # what may be left above the lowest for a flat loss to have converged
GAIN = 0.05  # what another doubling of the steps must promise for a loss to be called falling
SLOW = 0.5  # what the best had fallen by this step that a falling loss must have, not to be slow
REBOUND = 0.1  # of its own fall, climbed back
GAP = 0.3  # of the fall of the training loss, between it and validation once both are stable
SWING = 0.04  # amplitude of an oscillation
EARLY = 1 / 3  # share of the run before which a loss that goes flat has fallen fast
# Slope of the last half over the mean slope, above which a curve falls slowly all the way.
STRAIGHT = 0.5


# What a maximised metric does while its loss, of the opposite sign, does this.
MIRRORED = {
    "falls": "rises",
    "rises": "falls",
    "fallen": "risen",
    "falling": "rising",
    "climbs": "falls",
    "above": "below",
    "lowest": "highest",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The shape of a curve, and why.

    shape: one of SHAPES. reason: a sentence with the numbers that decided, as they were reported.
    since: the step at which it began; NaN if from the start, or not at one step. parameter: whose
    gradient exploded first, or "".
    """

    shape: str
    reason: str
    since: float = math.nan
    parameter: str = ""


def shape_name(shape: str) -> str:
    """A shape for a reader, the same wherever one is named."""
    return SHAPE_NAMES.get(shape, shape)


def diagnose_curve(features: Features) -> Diagnosis:
    """The shape of one trial's curve.

    Costs about a millisecond; never raises for awkward curves.
    """
    s = features.signals
    if s is None or (s.n_reports < N_REPORTS and s.diverged_at is None):
        n = s.n_reports if s is not None else 0
        reports = f"only {n} finite report{'s' if n > 1 else ''}" if n else "no finite report"
        return Diagnosis("broken", f"{reports}: {features.ended or 'no curve to judge'}")
    for rule in (_diverged, _died, _exploded, _overfitting, _rebound, _oscillating, _flat):
        found = rule(features, s)
        if found is not None:
            return found
    return _falling(features, s)


def _way(word: str, sign: float) -> str:
    """A word of MIRRORED for the metric as it is reported."""
    return word if sign > 0 else MIRRORED[word]


def _diverged(features: Features, s: Signals) -> Diagnosis | None:
    """Not finite, or running away."""
    if s.diverged_at is None:
        return None
    whose, parameter = _first_gradient(features, s.diverged_at)
    return Diagnosis(
        "exploded",
        f"the {features.metric} diverges at step {s.diverged_at}{whose}",
        s.diverged_at,
        parameter,
    )


def _exploded(features: Features, s: Signals) -> Diagnosis | None:
    """Above the start by a good part of the room without ever coming back low."""
    finite = features.losses[: s.n_reports]
    peak_at = int(finite.argmax())
    rise = float(finite[peak_at]) - features.start - 4 * s.noise
    scale = max(features.room, 1e-9 * abs(features.start))
    if rise > ROSE * scale and s.level > features.start - HARDLY * scale:
        since = float(features.steps[peak_at])
        whose, parameter = _first_gradient(features, since)
        reason = (
            f"the {features.metric} {_way('rises', features.sign)} from "
            f"{features.own(features.start):.4g} to "
            f"{features.own(finite[peak_at]):.4g} at step {since:.0f} and ends at "
            f"{features.own(s.level):.4g}{whose}"
        )
        return Diagnosis("exploded", reason, since, parameter)
    return None


def _first_gradient(features: Features, step: float) -> tuple[str, str]:
    """(words, parameter) of the gradient that exploded before a loss did; empty if none did."""
    e = features.explosion
    if e is None or not e.parameter or e.step > step:
        return "", ""
    return f"; the gradient of {e.parameter} explodes first, at step {e.step}", e.parameter


def _died(features: Features, s: Signals) -> Diagnosis | None:
    """The gradient exploded and is about 0 from then on, while the loss is not low."""
    e = features.explosion
    if e is None or e.dead_since is None or features.fall > HARDLY * features.room:
        return None
    times = f" to {e.times:.3g} times its median" if e.times < 1e6 else ""
    whose = f" of {e.parameter}" if e.parameter else ""
    reason = (
        f"the gradient{whose} explodes{times} at step {e.step} and is about 0 from step "
        f"{e.dead_since} on"
    )
    return Diagnosis(
        "died", f"{reason}, at {features.metric} {features.own(s.level):.4g}", e.step, e.parameter
    )


def _overfitting(features: Features, s: Signals) -> Diagnosis | None:
    """Validation climbs while the training loss falls, or both are stable and far apart."""
    v = features.validation
    if v is None or v.n_reports < N_REPORTS or v.diverged_at is not None:
        return None
    validation_fall = features.validation_start - v.best
    best, level = features.validation_sign * v.best, features.validation_sign * v.level
    if (
        v.rebound > max(REBOUND * validation_fall, NEAR * features.room)
        and s.level < features.loss_then
    ):
        reason = (
            f"validation is best, {best:.4g}, at step {v.best_step} and "
            f"{_way('climbs', features.validation_sign)} to "
            f"{level:.4g}, while training {_way('falls', features.sign)} from "
            f"{features.own(features.loss_then):.4g} to "
            f"{features.own(s.level):.4g}"
        )
        return Diagnosis("overfitting", reason, v.best_step)
    gap = v.level - s.level
    is_stable = (
        not v.trend_high < 0 or -v.trend * log_time(v.step, 2 * v.step) < GAIN * validation_fall
    )
    if (
        is_stable
        and gap > GAP * features.fall > GAP * HARDLY * features.room
        and gap > 4 * (v.noise + s.noise)
    ):
        apart = f"{gap:.4g} {_way('above', features.sign)} training at {features.own(s.level):.4g}"
        return Diagnosis("overfitting", f"validation stays at {level:.4g}, {apart}", v.best_step)
    return None


def _rebound(features: Features, s: Signals) -> Diagnosis | None:
    """Low, then up again by a good part of its fall, and it is no swing of an oscillation."""
    fall = features.start - s.best
    if s.rebound_since is None or s.rebound <= REBOUND * fall or fall <= 0:
        return None
    if _swings(features, s) and s.rebound < 3 * s.amplitude:
        return None
    reason = (
        f"the {features.metric} {_way('falls', features.sign)} to {features.own(s.best):.4g} at "
        f"step {s.rebound_since} and "
        f"{_way('climbs', features.sign)} back by {s.rebound:.4g} to {features.own(s.level):.4g}"
    )
    return Diagnosis("rebound", reason, s.rebound_since)


def _swings(features: Features, s: Signals) -> bool:
    return s.period_steps is not None and s.amplitude > SWING * features.room


def _oscillating(features: Features, s: Signals) -> Diagnosis | None:
    """A period beyond chance whose swings are a good part of the room."""
    if not _swings(features, s):
        return None
    reason = (
        f"the {features.metric} swings by {s.amplitude:.3g} up and down with a period of "
        f"{s.period_steps:.0f} steps"
    )
    return Diagnosis("oscillating", f"{reason}, around {features.own(s.level):.4g} at the end")


def _flat(features: Features, s: Signals) -> Diagnosis | None:
    """No progress that matters at the end: high, early, late, or where the best of the sweep is.

    It began with the stall that the signals see; a tail that creeps on can put that late, so that
    early is also what came near its end early.
    """
    gain = max(-s.trend, 0.0) * log_time(s.step, 2 * s.step)
    is_falling = s.trend_high < 0 and gain > GAIN * features.room
    if is_falling and s.stalled_since is None:
        return None
    left = features.room - features.fall
    arrived = _arrived(features, s)
    since = s.stalled_since if s.stalled_since is not None else arrived
    at = (
        f"flat at {features.own(s.level):.4g} since step {since:.0f} of {features.n_steps}, noise "
        f"{s.noise:.2g}"
    )
    if features.fall <= HARDLY * features.room or features.room <= 4 * s.noise:
        hardly = "hardly" if features.fall > 0 else "not"
        hardly = (
            f"it has {hardly} {_way('fallen', features.sign)} from "
            f"{features.own(features.start):.4g}"
        )
        return Diagnosis("underfitting", f"{at}: {hardly}", since)
    share = features.rate_share(since)
    rate = "" if math.isnan(share) else f" with {share:.0%} of the highest rate"
    is_early = min(since, arrived) < EARLY * max(features.n_steps, s.step)
    if not math.isnan(features.lowest) and left <= max(NEAR * features.room, 2 * s.noise):
        place = (
            f"{left:.2g} {_way('above', features.sign)} the {_way('lowest', features.sign)} of the "
            "sweep"
        )
        return Diagnosis("converged", f"{at}, {place}", since)
    if is_early and not share < SPENT_SHARE:
        return Diagnosis("fast_then_flat", f"{at}{rate}", since)
    if math.isnan(features.lowest):
        return Diagnosis("converged", at, since)
    return Diagnosis(
        "stalled", f"{at}{rate}; another trial reached {features.own(features.lowest):.4g}", since
    )


def _arrived(features: Features, s: Signals) -> float:
    """The step at which the smoothed loss came to stay near its end.

    Near is within its noise, or a tenth of its fall.
    """
    steps, losses = smooth(features.steps[: s.n_reports], features.losses[: s.n_reports])
    above = np.flatnonzero(losses > s.level + max(3 * s.noise, 0.1 * features.fall))
    after = int(above[-1]) + 1 if len(above) else 0
    return float(steps[min(after, len(steps) - 1)])


def _falling(features: Features, s: Signals) -> Diagnosis:
    """Still falling: slowly, next to the best of the sweep by now or in a line, or as it should."""
    mean_slope = -features.fall / max(s.step - float(features.steps[0]), 1.0)
    slope = f"by {-s.trend * 1000:.3g} per 1,000 steps"
    still = f"still {_way('falling', features.sign)} at step {s.step}"
    at = f"{still} {slope}, from {features.own(features.start):.4g} to {features.own(s.level):.4g}"
    if not math.isnan(features.lowest_by_now):
        best_fall = features.start - features.lowest_by_now
        if features.fall < SLOW * best_fall:
            return Diagnosis(
                "slow",
                f"{at}; the best trial had {features.own(features.lowest_by_now):.4g} by then",
            )
    elif s.n_reports >= N_TAIL and s.trend < STRAIGHT * mean_slope:
        return Diagnosis("slow", f"{at}, hardly less than from the start")
    return Diagnosis("improving", at)
