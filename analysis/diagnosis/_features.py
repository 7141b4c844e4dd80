"""What is known of each trial before its diagnosis.

That is its curves, its gradients, its rates, and how its peers fared. The core (`Features`,
`explosion`) is numpy only, so that a running sweep can use it too.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iolaus.analysis.data.curves import Curve, curves_of, planned_rates
from iolaus.sweeps.signals import N_LEVEL, Signals, signals, smooth, thin
from iolaus.sweeps.types import spent_below

__all__ = [
    "HARDLY",
    "Array",
    "Explosion",
    "Features",
    "are_alike",
    "explosion",
    "gather",
    "loss_metrics",
]

if TYPE_CHECKING:
    import pandas as pd

    from iolaus.analysis.data.sweep import Sweep

Array = NDArray[np.float64]

VALIDATION_PREFIXES = ("val", "valid", "dev", "test", "eval")
# A rise of less than so many times what the loss is below its start later on is wandering.
WANDERS = 4.0
# A gradient norm this many times the median of those before it has exploded ...
EXPLODED_TIMES = 10.0
# ... and one that stays below this share of that median to the end is dead (its square, of the
# peak, if that is where the run begins): saturated tanh units leave about 1e-6.
DEAD_SHARE = 1e-2
HARDLY = 0.3  # a share of the way from the start to the lowest loss: a fall of less is hardly one
ALIKE = 0.25  # first reports this share of the room apart are one start ...
ALIKE_SHARE = 1 / 3  # ... if so many of them are
# Steps that begin so many reports late count on from another run's.
FAR_BEGIN = 5.0
STEP_FIELDS = (
    *("step", "best_step", "stalled_since", "stalled_low", "stalled_high", "diverged_at"),
    "rebound_since",
)
WARMED_TIMES = 2.0  # a rate that has risen by less is constant
FLOOR_GAP = 0.25  # of the fall of the training loss
WORSE_GAP = 0.05  # of the room, by which training ends above validation to be worth a remark
EPOCH_NEAR = 0.05  # a period this near to that of the epochs is theirs
N_REPORTS_VALIDATION = 3
# A parameter whose gradient never is this share of the largest one is dead from the start.
NEVER_SHARE = 1e-6
N_NORMS_BEFORE = 3  # reports before an explosion, for a median
N_NORMS_DEAD = 4  # reports at the end, to call a gradient dead


@dataclass(frozen=True, slots=True)
class Explosion:
    """What the gradient norms of a trial show.

    step: of the first report above EXPLODED_TIMES times the median, or not finite. times: how many
    times, at most.
    parameter: whose norm did so first (of several at once, the most), "" if only the total is
    known.
    dead_since: step from which that norm is about 0 to the end, None if it lives.
    """

    step: int
    times: float
    parameter: str
    dead_since: int | None = None


@dataclass(frozen=True, slots=True)
class NotFinite:
    """The loss term whose gradient was not finite, as the trainer reports it.

    parameter: the first in which it was, in the backward pass.
    """

    step: int
    term: str
    parameter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One trial, as far as it is known.

    All losses are to be minimised; `own` gives them as they were reported.
    steps, losses: the training loss (the watched metric where no other is reported), NaN and
    infinity included.
    n_steps: as planned; the last step if no plan is known. ended: how, in a sentence.
    start: loss before training, from the first reports (of all trials where they agree). lowest:
    the lowest level that any trial of the sweep reached, lowest_by_now: by this trial's last step;
    NaN where there is no other trial.
    validation: its signals, None if it is not reported; loss_then: the training loss when
    validation was best.
    never_alive: a parameter whose gradient is about 0 from the first report on, "" for none.
    rates: the learning rate (steps, values), None if unknown. epoch_steps: steps in which the
    training examples are seen once, NaN if unknown. clipped: mean share of clipped steps,
    NaN if unknown.
    metric: what the training loss was reported as. sign, validation_sign: -1 if that metric, or the
    validation's, is maximised. is_alike: whether both measure the same, so that values compare.
    """

    steps: Array
    losses: Array
    n_steps: int
    ended: str = ""
    state: str = "complete"
    start: float = math.nan
    lowest: float = math.nan
    lowest_by_now: float = math.nan
    validation: Signals | None = None
    validation_start: float = math.nan
    loss_then: float = math.nan
    explosion: Explosion | None = None
    not_finite: NotFinite | None = None
    rates: Curve | None = None
    epoch_steps: float = math.nan
    clipped: float = math.nan
    usual_norm: float = math.nan
    never_alive: str = ""
    metric: str = "loss"
    sign: float = 1.0
    validation_sign: float = 1.0
    is_alike: bool = True
    signals: Signals | None = field(init=False)

    def __post_init__(self) -> None:
        said = _signals(self.steps, self.losses, self.before) if len(self.steps) else None
        object.__setattr__(self, "signals", said)
        if math.isnan(self.start) and said is not None and said.n_reports:
            object.__setattr__(self, "start", float(self.losses[0]))

    @property
    def before(self) -> float:
        """The step that the run began at: 0, unless its steps count on from another run's."""
        return _before(self.steps)

    def elapsed(self, step: float) -> float:
        """Steps of this run up to one, as it is reported."""
        return step - self.before

    @property
    def room(self) -> float:
        """How far a loss can fall here: from the start to the lowest of the sweep or this trial."""
        best = self.signals.best if self.signals is not None else math.nan
        return self.start - float(np.fmin(self.lowest, best))

    @property
    def fall(self) -> float:
        """How far this loss has fallen at its end; negative if it rose."""
        return self.start - self.signals.level if self.signals is not None else math.nan

    @property
    def warms_up(self) -> bool:
        """Whether the learning rate has risen all the way and still does at the last report."""
        if self.rates is None or self.signals is None or len(self.rates[0]) < N_NORMS_DEAD:
            return False
        steps, values = self.rates
        values = values[steps <= self.signals.step]
        third = len(values) // 3
        return (
            third > 0
            and bool((np.diff(values) >= -1e-9 * np.abs(values).max()).all())
            and bool(values[-1] > values[-1 - third] > values[0])
            and bool(values[-1] > WARMED_TIMES * values[0])
        )

    @property
    def is_spent(self) -> bool:
        """Whether the learning rate is as good as gone before half of the run, and stays so."""
        half = self.before + 0.5 * max(self.elapsed(self.n_steps), 1.0)
        steps = self.rates[0] if self.rates is not None else np.empty(0)
        return all(map(self.spent_at, (half, *steps[steps > half])))

    @property
    def noise(self) -> float:
        """Robust standard deviation of one report: of the signals, or around its neighbours.

        The smaller one: a jump or a spike is no noise.
        """
        if self.signals is None or self.signals.n_reports < 3:
            return 0.0
        n = self.signals.n_reports
        _, losses = thin(self.steps[:n], self.losses[:n])
        return min(self.signals.noise, _neighbours_noise(losses))

    @property
    def late_noise(self) -> float:
        """Around its neighbours in the last half: smaller batches late are no oscillation."""
        half = self.losses[(self.signals.n_reports if self.signals is not None else 0) // 2 :]
        half = half[np.isfinite(half)]
        return _neighbours_noise(half) if len(half) > 2 else 0.0

    def wanders(self, rise: float) -> bool:
        """Whether a rise above the start is no more than the loss wanders: it is below it again.

        Where no trial has learned, the room is no measure of a rise.
        """
        late = self.losses[len(self.losses) // 2 :]
        return len(late) > 0 and rise < WANDERS * (self.start - float(late.min()))

    @property
    def has_a_floor(self) -> bool:
        """Whether training stays far above validation.

        What is left of its loss is then in its examples (wrong labels, augmentation, dropout), and
        no rate removes it.
        """
        return self._trains_above > FLOOR_GAP * self.fall > 0

    @property
    def trains_worse(self) -> bool:
        """Whether training ends worse than validation, by a part of the room and beyond noise."""
        return self._trains_above > WORSE_GAP * self.room > 0

    @property
    def _trains_above(self) -> float:
        """How far training ends above validation; 0 if that is unknown, or within their noise."""
        v, s = self.validation, self.signals
        if (
            not self.is_alike
            or v is None
            or s is None
            or v.n_reports < N_REPORTS_VALIDATION
            or v.diverged_at is not None
        ):
            return 0.0
        gap = s.level - v.level
        return gap if gap > 4 * (v.noise + self.noise) else 0.0

    @property
    def swings_with_epochs(self) -> bool:
        """Whether the loss goes up and down once in each pass through the training examples.

        As near as reports, which lie apart, can tell.
        """
        period = self.signals.period_steps if self.signals is not None else None
        if period is None or math.isnan(self.epoch_steps):
            return False
        gap = float(np.median(np.diff(self.steps)))
        near = max(EPOCH_NEAR * self.epoch_steps, min(gap, 2 * EPOCH_NEAR * self.epoch_steps))
        return abs(period - self.epoch_steps) <= near

    def own(self, loss: float) -> float:
        """A level or slope of the training loss as its metric has it; 0 has no sign."""
        return self.sign * loss + 0.0

    def spent_at(self, step: float) -> bool:
        """Whether the learning rate is as good as gone at a step; False if unknown."""
        share = self.rate_share(step)
        if self.rates is None or math.isnan(share):
            return False
        values = self.rates[1]
        return share * float(values.max()) < spent_below(values.tolist())

    def rate_share(self, step: float) -> float:
        """The learning rate at a step as a share of its highest; NaN if unknown."""
        if self.rates is None or not len(self.rates[0]) or not self.rates[1].max() > 0:
            return math.nan
        return float(np.interp(step, *self.rates) / self.rates[1].max())


def _before(steps: Array) -> float:
    """The step before the first report, by the distance of the next; 0 where that is near."""
    if len(steps) < 2:
        return 0.0
    gap = float(np.median(np.diff(steps)))
    return max(float(steps[0]) - gap, 0.0) if steps[0] > FAR_BEGIN * gap else 0.0


def _signals(steps: Array, losses: Array, before: float) -> Signals:
    """The signals of a run that began at the step `before`, with the steps as they are reported."""
    said = signals(steps - before, losses)
    if not before:
        return said
    known = {name: getattr(said, name) for name in STEP_FIELDS}
    return replace(said, **{n: int(v + before) for n, v in known.items() if v is not None})


def _neighbours_noise(losses: Array) -> float:
    return 1.4826 * float(np.median(np.abs(np.diff(losses)))) / math.sqrt(2)


def explosion(norms: Mapping[str, Curve], *, can_die: bool = True) -> Explosion | None:
    """The first explosion among gradient norms, None if there is none.

    norms: parameter to (steps, norms), "" for the norm over all. A norm explodes where it first is
    EXPLODED_TIMES the median of those before it, three at least; one that is dead to the end after
    a peak earlier than that, where it is so many times its median over the run. dead_since is that
    of the parameter that exploded first.
    can_die: False for a loss that is low, which needs no gradient: then nothing counts as dead.
    """
    found = [
        _explosion(name, *curve, can_die=can_die) for name, curve in norms.items() if len(curve[0])
    ]
    exploded = [e for e in found if e is not None]
    dead = [
        e for e in exploded if e.dead_since is not None
    ]  # what has died is no longer news where it flickers
    named = [e for e in dead or exploded if e.parameter]
    return min(named or exploded, key=lambda e: (e.step, -e.times), default=None)


def _explosion(parameter: str, steps: Array, norms: Array, *, can_die: bool) -> Explosion | None:
    finite = np.isfinite(norms)
    dead = _dead_since(norms) if can_die else None
    if dead is not None and int(norms.argmax()) < N_NORMS_BEFORE:
        usual = np.full(len(norms), max(float(np.median(norms)), np.finfo(np.float32).tiny))
    else:
        usual = _medians_before(norms)
        usual[:N_NORMS_BEFORE] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(finite, norms / usual, np.inf)
    high = np.flatnonzero(~finite | (times > EXPLODED_TIMES))
    if not len(high):
        return None
    at = int(high[0])
    peak = float(times[at:][~np.isnan(times[at:])].max())
    return Explosion(
        int(steps[at]), peak, parameter, int(steps[dead]) if dead is not None else None
    )


def _medians_before(values: Array) -> Array:
    """At each place the median of the finite values before it; NaN where there are none."""
    before: list[float] = []  # in order
    medians = np.full(len(values), np.nan)
    for i, value in enumerate(values.tolist()):
        n = len(before)
        if n:
            medians[i] = (before[(n - 1) // 2] + before[n // 2]) / 2
        if math.isfinite(value):
            insort(before, value)
    return medians


def _usual_norm(norms: Mapping[str, Curve], exploded: Explosion | None) -> float:
    """The median norm over all parameters before an explosion.

    NaN if not reported, or exploded from the start.
    """
    if "" not in norms:
        return math.nan
    steps, values = norms[""]
    before = values[steps < exploded.step] if exploded is not None else values
    before = before[np.isfinite(before)]
    return float(np.median(before)) if len(before) >= N_NORMS_BEFORE else math.nan


def _never_alive(norms: Mapping[str, Curve]) -> str:
    """The first parameter whose gradient is about 0 from the first report on, "" if none is."""
    peaks = {
        name: float(np.max(values[np.isfinite(values)], initial=0.0))
        for name, (_, values) in norms.items()
        if name and len(values) >= N_NORMS_DEAD
    }
    largest = max(peaks.values(), default=0.0)
    return next((name for name, peak in peaks.items() if peak < NEVER_SHARE * largest), "")


def _dead_since(norms: Array) -> int | None:
    """Index from which the norms stay about 0 to the end.

    None if they do not do so for N_NORMS_DEAD reports at least.
    """
    if len(norms) < 2 * N_NORMS_DEAD or not np.isfinite(norms).all():
        return None
    peak = int(norms.argmax())
    least = (
        DEAD_SHARE * float(np.median(norms[:peak]))
        if peak >= N_NORMS_BEFORE
        else DEAD_SHARE**2 * float(norms[peak])
    )
    alive = np.flatnonzero(norms > least)
    dead = int(alive[-1]) + 1 if len(alive) else 0
    return dead if 0 < dead <= len(norms) - N_NORMS_DEAD else None


@dataclass(frozen=True, slots=True)
class _Metric:
    """One metric of all trials.

    name: "" for none. sign: -1 if it is maximised. curves: to be minimised. starts: of `_starts`.
    """

    name: str
    sign: float
    curves: Mapping[int, Curve]
    starts: Mapping[int, float]

    @classmethod
    def of(cls, sweep: Sweep, name: str | None) -> _Metric:
        """The watched one has its own goal; no other loss is maximised."""
        is_loss = name is None or (name != sweep.metric and "loss" in name)
        sign = 1.0 if is_loss else sweep.metric_sign
        curves = {
            trial: (steps, sign * values)
            for trial, (steps, values) in curves_of(sweep.curves, name).items()
        }
        return cls(name or "", sign, curves, _starts(curves))


def gather(sweep: Sweep) -> dict[int, Features]:
    """The features of each trial that ran, by number.

    Losses of a maximised metric change their sign.
    """
    training, validation = (_Metric.of(sweep, name) for name in loss_metrics(sweep))
    floor = _Floor(training.curves)
    norms: dict[int, dict[str, Curve]] = {}
    for metric in (
        m for m in sweep.curves["metric"].unique() if m.partition("/")[0] == "grad_norm"
    ):
        for trial, curve in curves_of(sweep.curves, metric).items():
            norms.setdefault(trial, {})[metric.partition("/")[2]] = curve
    terms = _not_finite(sweep.curves)
    plans = {number: (line[:, 0], line[:, 1]) for number, line in planned_rates(sweep).items()}
    rates, clipped = {**plans, **curves_of(sweep.curves, "lr")}, curves_of(sweep.curves, "clipped")
    epochs = curves_of(sweep.curves, "epoch")
    return {
        int(number): replace(
            _features(int(number), row, training, validation, floor, norms, rates, clipped, epochs),
            not_finite=terms.get(int(number)),
        )
        for number, row in zip(sweep.trials.index, sweep.trials.to_dict("records"), strict=True)
    }


def _not_finite(curves: pd.DataFrame) -> dict[int, NotFinite]:
    """The first term of each trial that was reported as not_finite/TERM/PARAMETER."""
    names = [m for m in curves["metric"].unique() if str(m).startswith("not_finite/")]
    rows = curves[curves["metric"].isin(names)].sort_values("step")
    found: dict[int, NotFinite] = {}
    for trial, step, metric in zip(rows["trial"], rows["step"], rows["metric"], strict=True):
        _, term, parameter = str(metric).split("/", 2)
        found.setdefault(int(trial), NotFinite(int(step), term, parameter))
    return found


def _features(
    number: int,
    row: Mapping[Any, Any],
    training: _Metric,
    validation: _Metric,
    floor: _Floor,
    norms: Mapping[int, Mapping[str, Curve]],
    rates: Mapping[int, Curve],
    clipped: Mapping[int, Curve],
    epochs: Mapping[int, Curve],
) -> Features:
    nothing: Curve = (np.empty(0), np.empty(0))
    steps, values = training.curves.get(number, nothing)
    measured = validation.curves.get(number)
    judged = None
    if measured is not None and len(measured[0]):
        judged = _signals(measured[0], measured[1], _before(steps))
    planned = row.get("n_steps")
    own_norms = norms.get(number, {})
    start = training.starts.get(number, math.nan)
    exploded = explosion(own_norms, can_die=_is_high(steps, values, start, floor.at(math.inf)))
    return Features(
        steps=steps,
        losses=values,
        n_steps=int(planned)
        if planned is not None and planned == planned
        else int(steps[-1])
        if len(steps)
        else 0,
        ended=str(row.get("why", "")),
        state=str(row.get("state", "")),
        start=start,
        lowest=floor.at(math.inf),
        lowest_by_now=floor.at(float(steps[-1])) if len(steps) else math.nan,
        validation=judged,
        validation_start=validation.starts.get(number, math.nan),
        loss_then=_level_at(steps, values, judged.best_step)
        if judged is not None and len(steps)
        else math.nan,
        explosion=exploded,
        rates=rates.get(number),
        epoch_steps=_epoch_steps(epochs.get(number)),
        clipped=float(np.mean(clipped[number][1])) if number in clipped else math.nan,
        usual_norm=_usual_norm(own_norms, exploded),
        never_alive=_never_alive(own_norms),
        metric=training.name,
        sign=training.sign,
        validation_sign=validation.sign,
        is_alike=are_alike(training.name, validation.name),
    )


def _is_high(steps: Array, values: Array, start: float, lowest: float) -> bool:
    """Whether a loss ends nearer to the start than to the lowest of the sweep.

    Of a trial that is alone: whether it ends not far below its own start.
    """
    if not len(steps):
        return False
    end, best = (
        float(np.mean(values[-N_LEVEL:])),
        float(np.min(values[np.isfinite(values)], initial=math.inf)),
    )
    first = start if not math.isnan(start) else float(values[0])
    return not end < first - HARDLY * (first - float(np.fmin(lowest, best)))


OBJECTIVE = "val_objective"  # the training loss, of the validation examples


def loss_metrics(sweep: Sweep) -> tuple[str, str | None]:
    """The names of (training loss, what validation measures); the second is None if there is none.

    The watched metric is one of the two, by its name; the other is sought among `loss`,
    `train_loss`, or `val_loss` and its like; `val_objective`, where it is reported, says what of
    the validation compares with `loss`.
    """
    known = list(sweep.curves["metric"].unique())
    if sweep.metric in ("loss", "val_loss") and {"loss", OBJECTIVE} <= set(known):
        return "loss", OBJECTIVE
    if _is_validation(sweep.metric):
        training = next(
            (name for name in ("loss", "train_loss", "training_loss") if name in known), None
        )
        return (training, sweep.metric) if training else (sweep.metric, None)
    of_loss = [name for name in known if _is_validation(name) and "loss" in name]
    if "loss" not in sweep.metric:  # an accuracy is compared with its like only
        of_loss = [name for name in known if _is_validation(name) and name.endswith(sweep.metric)]
    elif sweep.metric == "loss" and not of_loss and "train_loss" in known:
        return "train_loss", "loss"
    return sweep.metric, min(of_loss, key=_order, default=None)


def are_alike(training: str, validation: str) -> bool:
    """Whether two metrics measure the same, by their names, so that their values compare.

    >>> are_alike("train_loss", "val_loss"), are_alike("acc", "val/acc")
    (True, True)
    >>> are_alike("loss", "val_acc")
    False
    """
    both = training, validation
    if validation == OBJECTIVE or all("loss" in name for name in both):
        return True
    prefixes = (*VALIDATION_PREFIXES, "train", "training")
    parts = [name.replace("/", "_").split("_") for name in both]
    one, other = (part[part[0] in prefixes :] for part in parts)
    return one == other


def _is_validation(name: str) -> bool:
    return name.replace("/", "_").partition("_")[0] in VALIDATION_PREFIXES


def _order(name: str) -> int:
    return VALIDATION_PREFIXES.index(name.replace("/", "_").partition("_")[0])


def _starts(curves: Mapping[int, Curve]) -> dict[int, float]:
    """Each trial's loss before training.

    That is the lower quartile of all first reports where they agree, else its own. Not the median:
    those that exploded before their first report say nothing of the start. Where first reports are
    far apart (an epoch's mean, models of different size), a trial's own counts if it is higher.
    Empty if none is finite.
    """
    first = {trial: float(values[0]) for trial, (_, values) in curves.items() if len(values)}
    known = np.array([value for value in first.values() if math.isfinite(value)])
    if not len(known):
        return {}
    common = float(np.quantile(known, 0.25))
    room = common - min(
        float(np.min(values, initial=math.inf, where=np.isfinite(values)))
        for _, values in curves.values()
    )
    if float(np.mean(np.abs(known - common) <= ALIKE * room)) >= ALIKE_SHARE:
        return dict.fromkeys(curves, common)
    return {
        trial: max(common, value) if math.isfinite(value) else common
        for trial, value in first.items()
    }


class _Floor:
    """The lowest smoothed loss that any of several curves reached by a step.

    NaN for a single curve.
    """

    def __init__(self, curves: Mapping[int, Curve]) -> None:
        courses = [smooth(*curve) for curve in curves.values()] if len(curves) > 1 else []
        steps = np.concatenate([s for s, _ in courses]) if courses else np.empty(0)
        lows = np.concatenate([v for _, v in courses]) if courses else np.empty(0)
        order = np.argsort(steps, kind="stable")
        self._steps, self._lows = steps[order], np.minimum.accumulate(lows[order])

    def at(self, step: float) -> float:
        i = int(np.searchsorted(self._steps, step, side="right"))
        return float(self._lows[i - 1]) if i else math.nan


def _epoch_steps(epochs: Curve | None) -> float:
    """Steps per epoch of a curve of epochs (whole or not), NaN if there are fewer than two."""
    if epochs is None or len(epochs[0]) < 2 or not epochs[1][-1] > epochs[1][0]:
        return math.nan
    return float((epochs[0][-1] - epochs[0][0]) / (epochs[1][-1] - epochs[1][0]))


def _level_at(steps: Array, values: Array, step: float) -> float:
    x, y = smooth(steps, values)
    return float(np.interp(step, x, y)) if len(x) else math.nan
