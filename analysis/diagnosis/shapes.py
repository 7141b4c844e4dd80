"""The shape of one trial's loss, with the numbers that decided it.

The rules are few and asked in order; the first that holds is the shape. All of them are about
`iolaus.sweeps.signals` of the training loss, measured by the *room*: the way from the loss before
training to the lowest level that any trial of the sweep reached (alone, to the trial's own best).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from iolaus.analysis.diagnosis._features import HARDLY, Features
from iolaus.sweeps.signals import N_TAIL, Signals, log_time, smooth

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
LEARNED = 0.8  # of the reports before a collapse that are below the start
NEAR = 0.05  # what may be left above the lowest for a flat loss to have converged
GAIN = 0.05  # what another doubling of the steps must promise for a loss to be called falling
SLOW = 0.5  # what the best had fallen by this step that a falling loss must have, not to be slow
REBOUND = 0.1  # of its own fall, climbed back
GAP = 0.15  # of the fall of the training loss, between it and validation once both are stable
CLIMB = 0.25  # of that gap, by which validation has climbed since its best
SWING = 0.04  # amplitude of an oscillation
# Fewer may be a bend, such as that of a batch that changes in the middle.
LEAST_PERIODS = 3.5
SWING_NOISES = 1.0  # the same, of the noise between neighbouring reports
# How near its end a loss is to have arrived there: roughly, and to be called flat.
EARLY_NEAR, FLAT_NEAR = 0.1, 0.03
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
    rules = (_diverged, _died, _exploded, _collapsed, _overfitting, _rebound, _oscillating, _flat)
    found = next(filter(None, (rule(features, s) for rule in rules)), None)
    return _with_remark(found or _falling(features, s), features, s)


def _with_remark(found: Diagnosis, features: Features, s: Signals) -> Diagnosis:
    """The diagnosis, saying so where training ends worse than validation."""
    v = features.validation
    is_said = features.has_a_floor and found.shape in WELL
    if v is None or is_said or found.shape in ("exploded", "died") or not features.trains_worse:
        return found
    return replace(
        found,
        reason=f"{found.reason}; training ends at {features.own(s.level):.4g}, worse than "
        f"validation at {features.validation_sign * v.level:.4g}: dropout, augmentation or wrong "
        "labels in training, or the two are not measured alike",
    )


def _way(word: str, sign: float) -> str:
    """A word of MIRRORED for the metric as it is reported."""
    return word if sign > 0 else MIRRORED[word]


def _diverged(features: Features, s: Signals) -> Diagnosis | None:
    """Not finite, or running away, or ended by a gradient that is not finite."""
    if s.diverged_at is None:
        return _without_update(features)
    whose, parameter = _first_gradient(features, s.diverged_at)
    return Diagnosis(
        "exploded",
        f"the {features.metric} diverges at step {s.diverged_at}{whose}",
        s.diverged_at,
        parameter,
    )


def _without_update(features: Features) -> Diagnosis | None:
    """The gradient of a loss term is not finite, and the loss is, since a scaler left it out."""
    n = features.not_finite
    if n is None or (features.steps > n.step).sum() > 1:
        return None
    reason = (
        f"no update is made any more: the gradient of the loss term {n.term} is not finite at step "
        f"{n.step}, first that of {n.parameter} in the backward pass"
    )
    return Diagnosis("exploded", reason, float(n.step), n.parameter)


def _exploded(features: Features, s: Signals) -> Diagnosis | None:
    """Above the start by a good part of the room without ever coming back low.

    A loss that begins high, above where the others do, and falls steadily is not one, nor is one
    that only wanders about its start.
    """
    finite = features.losses[: s.n_reports]
    peak_at = int(finite.argmax())
    rise = float(finite[peak_at]) - features.start - 4 * features.noise
    scale = max(features.room, 1e-9 * abs(features.start))
    if (peak_at == 0 and _falls_steadily(finite, s.level)) or features.wanders(rise):
        return None
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


def _falls_steadily(losses: NDArray[np.float64], level: float) -> bool:
    """Whether a loss that is highest at first is, half-way, still on its way down."""
    middle = float(np.median(losses[len(losses) // 2 :][: N_REPORTS + 1]))
    return middle - level > GAIN * (float(losses[0]) - level)


def _collapsed(features: Features, s: Signals) -> Diagnosis | None:
    """Low for a while, then up in a jump: back to the start for good, or far above it for a time.

    That is an explosion whose gradients came to rest.
    """
    losses = features.losses[: s.n_reports]
    steps = features.steps[: s.n_reports]
    if s.n_reports < N_TAIL or not features.room > 0:
        return None
    lowest = np.minimum.accumulate(_medians_of_three(losses))
    had_learned = lowest < features.start - HARDLY * features.room
    jump = max(ROSE * features.room, 6 * features.noise)
    # As far above what it had reached, in two reports in a row at least.
    up = had_learned & (losses > lowest + jump)
    up[:-1] &= up[1:]
    far_up = up & (losses > features.start + ROSE * features.room)
    ends_up = bool(up[-1]) and features.fall <= HARDLY * features.room
    if not (far_up.any() or ends_up):
        return None
    down = np.flatnonzero(~up)
    at = int(np.flatnonzero(far_up)[0]) if far_up.any() else int(down[-1]) + 1
    while at > 0 and up[at - 1]:
        at -= 1
    if not far_up.any() and not _is_sudden(losses, lowest, at):
        return None
    before = losses[at // 2 : at]
    if len(before) and np.mean(before < features.start - HARDLY * features.room) < LEARNED:
        return None  # it only wandered about its start
    peak = float(losses[at:].max())
    since = float(steps[at])
    whose, parameter = _first_gradient(features, since)
    return Diagnosis(
        "exploded",
        f"the {features.metric} had {_way('fallen', features.sign)} from "
        f"{features.own(features.start):.4g} to {features.own(float(lowest[at])):.4g}, "
        f"jumps to {features.own(peak):.4g} from step {since:.0f} on and ends at "
        f"{features.own(s.level):.4g}{whose}",
        since,
        parameter,
    )


def _medians_of_three(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    padded = np.concatenate([losses[:1], losses, losses[-1:]])
    return np.asarray(np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0))


def _is_sudden(losses: NDArray[np.float64], lowest: NDArray[np.float64], at: int) -> bool:
    """Whether most of the way up was made within two reports."""
    climb = float(np.median(losses[at:]) - lowest[at])
    return float(losses[at : at + 2].mean() - lowest[at]) > 0.7 * climb


def _first_gradient(features: Features, step: float) -> tuple[str, str]:
    """(words, parameter) of the gradient that exploded before a loss did; empty if none did."""
    if (n := features.not_finite) is not None and n.step <= step:
        words = (
            f"; the gradient of the loss term {n.term} is not finite at step {n.step}, first that "
            f"of {n.parameter} in the backward pass"
        )
        return words, n.parameter
    e = features.explosion
    if e is None or not e.parameter or e.step > step:
        return "", ""
    return f"; the gradient of {e.parameter} explodes first, at step {e.step}", e.parameter


def _died(features: Features, s: Signals) -> Diagnosis | None:
    """The gradient is about 0 from an explosion on, or always was, while the loss is not low."""
    e = features.explosion
    if features.never_alive and not features.fall > HARDLY * features.room:
        reason = (
            f"the gradient of {features.never_alive} is about 0 from the first step on, at "
            f"{features.metric} {features.own(s.level):.4g}"
        )
        return Diagnosis("died", reason, float(features.steps[0]), features.never_alive)
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
    if features.fall <= 4 * features.noise:  # nothing was learned
        return None
    validation_fall = features.validation_start - v.best
    best, level = features.validation_sign * v.best, features.validation_sign * v.level
    gap = v.level - s.level if features.is_alike else math.nan  # of a loss and an accuracy: none
    least = NEAR * features.room if features.is_alike else 6 * v.noise
    is_large = v.rebound > max(REBOUND * validation_fall, least)
    is_much_of_gap = gap > NEAR * features.room and v.rebound > max(CLIMB * gap, 6 * v.noise)
    if (is_large or is_much_of_gap) and s.level < features.loss_then:
        reason = (
            f"validation is best, {best:.4g}, at step {v.best_step} and "
            f"{_way('climbs', features.validation_sign)} to "
            f"{level:.4g}, while training {_way('falls', features.sign)} from "
            f"{features.own(features.loss_then):.4g} to "
            f"{features.own(s.level):.4g}"
        )
        return Diagnosis("overfitting", reason, v.best_step)
    is_stable = (
        not v.trend_high < 0 or -v.trend * _next_doubling(features, v) < GAIN * validation_fall
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
    if s.period_steps is None or s.period_steps * LEAST_PERIODS > features.elapsed(s.step):
        return False
    return s.amplitude > max(SWING * features.room, SWING_NOISES * features.late_noise)


def _oscillating(features: Features, s: Signals) -> Diagnosis | None:
    """A period beyond chance whose swings are a good part of the room."""
    if not _swings(features, s):
        return None
    reason = (
        f"the {features.metric} swings by {s.amplitude:.3g} up and down with a period of "
        f"{s.period_steps:.0f} steps"
    )
    if features.swings_with_epochs:
        reason += f", which is one epoch ({features.epoch_steps:.0f} steps): the examples' order"
    return Diagnosis("oscillating", f"{reason}, around {features.own(s.level):.4g} at the end")


def _flat(features: Features, s: Signals) -> Diagnosis | None:
    """No progress that matters at the end: high, early, late, or where the best of the sweep is.

    It began with the stall that the signals see; a tail that creeps on can put that late, so that
    early is also what came near its end early.
    """
    gain = max(-s.trend, 0.0) * _next_doubling(features, s)
    is_falling = s.trend_high < 0 and gain > GAIN * features.room
    if is_falling and s.stalled_since is None:
        return None
    left = features.room - features.fall
    arrived = _arrived(features, s, EARLY_NEAR)
    since = s.stalled_since if s.stalled_since is not None else arrived
    # A stall that was seen while the loss was still well above its end began later.
    since = max(since, _arrived(features, s, FLAT_NEAR))
    at = (
        f"flat at {features.own(s.level):.4g} since step {since:.0f} of {features.n_steps}, noise "
        f"{features.noise:.2g}"
    )
    is_high = features.fall <= HARDLY * features.room or features.room <= 4 * features.noise
    if is_high and not features.has_a_floor:
        return Diagnosis("underfitting", f"{at}: {_hardly(features)}", since)
    share = features.rate_share(since)
    rate = "" if math.isnan(share) else f" with {share:.0%} of the highest rate"
    whole = features.elapsed(max(features.n_steps, s.step))
    is_early = features.elapsed(min(since, arrived)) < EARLY * whole
    if features.has_a_floor and features.validation is not None:
        val = features.validation_sign * features.validation.level
        return Diagnosis(
            "converged",
            f"{at}, above validation at {val:.4g}: what is left is in its examples",
            since,
        )
    if not math.isnan(features.lowest) and left <= max(NEAR * features.room, 2 * features.noise):
        place = (
            f"{left:.2g} {_way('above', features.sign)} the {_way('lowest', features.sign)} of the "
            "sweep"
        )
        return Diagnosis("converged", f"{at}, {place}", since)
    if is_early and (not features.spent_at(since) or features.is_spent):
        return Diagnosis("fast_then_flat", f"{at}{rate}", since)
    if math.isnan(features.lowest) and not features.is_spent:
        return Diagnosis("converged", at, since)
    other = (
        ""
        if math.isnan(features.lowest)
        else f"; another trial reached {features.own(features.lowest):.4g}"
    )
    return Diagnosis("stalled", f"{at}{rate}{other}", since)


def _next_doubling(features: Features, s: Signals) -> float:
    """Steps at the present slope worth those of another doubling of the run."""
    elapsed = int(features.elapsed(s.step))
    return log_time(elapsed, 2 * elapsed)


def _hardly(features: Features) -> str:
    """How little a loss has fallen, of what there was to fall."""
    start = features.own(features.start)
    if features.fall <= 0:
        return f"it has not {_way('fallen', features.sign)} from {start:.4g}"
    if math.isnan(features.lowest) or features.fall > features.room:
        return f"it has hardly {_way('fallen', features.sign)} from {start:.4g}"
    return (
        f"it has {_way('fallen', features.sign)} only {features.fall / features.room:.0%} of the "
        f"way from {start:.4g} to the {_way('lowest', features.sign)} of the sweep, "
        f"{features.own(features.start - features.room):.4g}"
    )


def _arrived(features: Features, s: Signals, near: float) -> float:
    """The step at which the smoothed loss came to stay near its end.

    near: within this share of its fall, or its noise.
    """
    steps, losses = smooth(features.steps[: s.n_reports], features.losses[: s.n_reports])
    near = max(3 * features.noise, near * features.fall, 1e-9 * abs(s.level))  # means are rounded
    above = np.flatnonzero(losses > s.level + near)
    after = int(above[-1]) + 1 if len(above) else 0
    return float(steps[min(after, len(steps) - 1)])


def _falling(features: Features, s: Signals) -> Diagnosis:
    """Still falling: slowly, next to the best of the sweep by now or in a line, or as it should."""
    mean_slope = -features.fall / max(s.step - float(features.steps[0]), 1.0)
    n = 10 ** min(int(math.log10(max(features.n_steps, 1))), 3)  # no more than it has
    slope = f"by {-s.trend * n:.3g} per {'step' if n == 1 else f'{n:,} steps'}"
    still = f"still {_way('falling', features.sign)} at step {s.step}"
    at = f"{still} {slope}, from {features.own(features.start):.4g} to {features.own(s.level):.4g}"
    if features.has_a_floor and features.validation is not None:
        val = features.validation_sign * features.validation.level
        return Diagnosis(
            "improving",
            f"{at}, above validation at {val:.4g}: much of what is left is in its examples",
        )
    if features.warms_up:
        return Diagnosis(
            "slow", f"{at}, and the learning rate still rises: its warm-up is not over"
        )
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
