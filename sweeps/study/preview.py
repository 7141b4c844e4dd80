"""What the rest of a sweep will take, each number with its range, from what trials have shown.

The work that is left is the trials that are left, those under way by what is left of them, times
the seconds of a whole trial, times the share of its steps that a trial makes. Under a pruner it is
all steps that are expected of the sweep, less those made: who is pruned early ends first, and who
is paused may go on, so what the first trials made does not tell it. On P places at once it takes at
least work / P, and at most that and (1 - 1 / P) of the longest trial (Graham, SIAM Journal on
Applied Mathematics 17, 1969).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.study.record import counts_as_run, is_paused, record_of, that_ran
from iolaus.sweeps.text import counted, duration
from iolaus.sweeps.types import Ending

__all__ = [
    "Machine",
    "Pace",
    "Preview",
    "Range",
    "expected_share",
    "paces_of",
    "preview",
    "preview_of",
    "preview_pruned",
    "share_made",
]

# Two-sided ranges of 90 %.
Z = 1.645
# From fewer trials nothing is concluded of the spread of their times: half to twice as much, then.
LEAST_FOR_SPREAD = 3
# From so many trials of its own that have ended, a sweep knows what its pruner saves.
LEAST_FOR_SHARE = 8


@dataclass(frozen=True, slots=True)
class Range:
    """A number, and from where to where it may be: low <= middle <= high."""

    low: float
    middle: float
    high: float

    def times(self, other: Range | float) -> Range:
        """The range of the product, of numbers that are not below 0."""
        by = other if isinstance(other, Range) else Range(other, other, other)
        return Range(self.low * by.low, self.middle * by.middle, self.high * by.high)


# Shares of all steps that were made under a pruner, from the lowest to the highest twentieth of the
# sweeps of 40 in benchmarks/README.md, and lower where sweeps of 1,000 were. Without one a trial
# ends early by divergence alone.
_WITHOUT_PRUNER = Range(0.57, 1.0, 1.0)
_WITH_PRUNER = {
    "StalledLoss": Range(0.15, 0.45, 0.8),
    "MedianPruner": Range(0.05, 0.35, 0.55),
    "PercentilePruner": Range(0.07, 0.36, 0.6),
    "SuccessiveHalvingPruner": Range(0.05, 0.09, 0.2),
    "HyperbandPruner": Range(0.15, 0.23, 0.67),
}
_WITH_ANOTHER = Range(0.1, 0.6, 1.0)


def expected_share(pruners: Collection[str], n_judged: int = 1, n_whole: int = 0) -> Range:
    """The share of its planned steps that a trial makes, as far as was measured elsewhere.

    pruners: the names of the classes that judge it together; none, or NopPruner: nobody does. They
    judge n_judged trials, above 0, and n_whole others run to their end.
    """
    names = set(pruners)
    if names <= {"NopPruner"}:
        return _WITHOUT_PRUNER
    of = next((_WITH_PRUNER[name] for name in _WITH_PRUNER if name in names), _WITH_ANOTHER)
    shares = (of.low, of.middle, of.high)
    return Range(*((n_judged * share + n_whole) / (n_judged + n_whole) for share in shares))


@dataclass(frozen=True, slots=True)
class Pace:
    """What one trial shows of the cost of a trial.

    whole_s: seconds that all its planned steps take at its speed, > 0. share: of these steps that
    it made until it ended, in (0, 1]; None while it runs.
    """

    whole_s: float
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a session runs on: trials side by side, and the cores and GPUs that its slots hold."""

    n_places: int
    n_cores: int = 0
    n_gpus: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """What the rest of a sweep takes.

    n_left: trials, those under way or paused by the share of them that is left. wall_s, core_s,
    gpu_s: seconds. share: of the steps of these that are made. n_paces: trials it is known from.
    is_own_share: whether the sweep's own trials tell that share, too.
    """

    n_left: float
    wall_s: Range
    core_s: Range
    gpu_s: Range
    share: Range
    n_paces: int
    is_own_share: bool

    def sentence(self) -> str:
        """All of it, for a log."""
        if self.n_left <= 0:
            return "no trial is left"
        held = [(self.core_s, "core"), (self.gpu_s, "GPU")]
        hours = [f", {_hours(seconds, what)}" for seconds, what in held if seconds.high > 0]
        whose = "this and other sweeps'" if self.is_own_share else "other sweeps'"
        share = self.share
        return (
            f"{counted(math.ceil(self.n_left), 'trial')} left: {self.time()}{''.join(hours)}; "
            f"{share.middle:.2f} of their steps are made ({share.low:.2f} to {share.high:.2f}, "
            f"by {whose} trials), at the speed of {counted(self.n_paces, 'trial')}"
        )

    def time(self, word: str = "") -> str:
        """The wall time with its range; word: between the two."""
        low, middle, high = map(duration, (self.wall_s.low, self.wall_s.middle, self.wall_s.high))
        return f"about {middle} {word}({low} to {high})"


def _hours(seconds: Range, what: str) -> str:
    unit, name = (3600, "hours") if seconds.high >= 3600 else (60, "minutes")
    low, middle, high = seconds.low / unit, seconds.middle / unit, seconds.high / unit
    return f"{middle:.2g} {what}-{name} ({low:.2g} to {high:.2g})"


def preview(
    paces: Sequence[Pace], expected: Range, n_left: float, machine: Machine
) -> Preview | None:
    """What n_left trials take, >= 0; None while no trial has shown its pace.

    paces: of trials, in any order. expected: the share of its steps that a trial makes, by other
    sweeps; a middle of 1 says that no pruner ends any. The range holds 9 times in 10 if trials to
    come take as long as those so far.
    """
    if not paces:
        return None
    whole_s = _mean([pace.whole_s for pace in paces], n_left, LEAST_FOR_SPREAD)
    shares = [pace.share for pace in paces if pace.share is not None]
    share = _share(shares, len(paces) - len(shares), expected, n_left)
    work_s = whole_s.times(share).times(n_left)
    n_places = max(1, min(machine.n_places, math.ceil(n_left)))
    longest_s = max(whole_s.high, *(pace.whole_s for pace in paces))
    tail_s = (1 - 1 / n_places) * longest_s if n_left > 0 else 0.0
    wall_s = work_s.times(1 / n_places)
    # A place holds its part of the machine, whether the others have trials or not.
    held_s = work_s.times(1 / max(machine.n_places, 1))
    return Preview(
        n_left,
        Range(wall_s.low, wall_s.middle, wall_s.high + tail_s),
        held_s.times(machine.n_cores),
        held_s.times(machine.n_gpus),
        share,
        len(paces),
        len(shares) >= LEAST_FOR_SHARE and expected.middle == 1,
    )


def preview_pruned(
    paces: Sequence[Pace],
    expected: Range,
    n_total: int,
    n_made: float,
    n_open: float,
    machine: Machine,
) -> Preview | None:
    """What is left under a pruner; None without a pace.

    n_total: trials to reach. n_made: steps made so far, n_open: steps that may still be made, those
    of paused trials too, both in whole trials. expected: the share of all steps made in the end, by
    other sweeps. Beyond the middle of it the sweep is taken to make a quarter of what then lies
    between it and the highest.
    """
    so_far = n_made / max(n_total, 1)
    high = expected.high if expected.high > so_far else 1.0
    middle = max(expected.middle, so_far + (high - so_far) / 4)
    low, middle, high = (
        min(max(n_total * share - n_made, 0.0) / n_open, 1.0) if n_open > 0 else 0.0
        for share in (expected.low, middle, high)
    )
    speeds = [Pace(pace.whole_s) for pace in paces]
    return preview(speeds, Range(low, middle, high), n_open, machine)


def _share(shares: Sequence[float], n_running: int, expected: Range, n_left: float) -> Range:
    """The share of its steps that a trial to come makes; shares: of those that have ended.

    Those that diverge end first, so those that run count as whole trials. Where all came to their
    end, one more is taken to have diverged. Under a pruner it is what is expected.
    """
    if len(shares) < LEAST_FOR_SHARE or expected.middle < 1:
        return expected
    own = _mean([*shares, *[1.0] * n_running, expected.low], n_left, LEAST_FOR_SHARE)
    return Range(own.low, own.middle, min(own.high, 1.0))


def _mean(values: Sequence[float], n_more: float, least: int) -> Range:
    """The mean of n_more further values: Student's interval, not below what the least would say.

    Of fewer than `least` values half to twice their mean.
    """
    mean = statistics.fmean(values)
    if len(values) < least:
        return Range(mean / 2, mean, 2 * mean)
    spread = statistics.stdev(values) * math.sqrt(1 / len(values) + 1 / max(n_more, 1))
    half = _student(len(values) - 1) * spread
    return Range(max(mean - half, min(values)), mean, mean + half)


def _student(degrees: int) -> float:
    """The quantile of Student's t that is `Z` of a normal one.

    Source: the expansion of Abramowitz and Stegun, 26.7.5; 6 % too low at 2 degrees, 2 % at 3.
    """
    return Z + (Z**3 + Z) / (4 * degrees) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * degrees**2)


def paces_of(trials: Iterable[FrozenTrial]) -> list[Pace]:
    """What the trials of a study that have ended show.

    Left out are those that failed, were not run, or went on after they were cut off, whose seconds
    are of the last time alone. A trial that was pruned and had planned nothing is measured by the
    mean of those that were not.
    """
    ended = [trial for trial in that_ran(trials) if trial.state in _WITH_A_RESULT]
    records = [
        (trial.state, record, record.run.seconds)
        for trial in ended
        if (record := record_of(trial)).run.seconds
        and record.duplicate_of is None
        and record.ending is not Ending.INFEASIBLE
        and not record.interruptions
    ]
    whole = [seconds for state, _, seconds in records if state is TrialState.COMPLETE and seconds]
    paces = []
    for state, record, seconds in records:
        n_steps, last = record.plan.n_steps, record.steps
        if not seconds:
            continue
        if state is TrialState.COMPLETE:
            paces.append(Pace(seconds, 1.0))
        elif n_steps is not None and last is not None:
            share = min((last + 1) / n_steps, 1.0)
            paces.append(Pace(seconds / share, share))
        elif whole:
            mean_s = statistics.fmean(whole)
            paces.append(Pace(mean_s, min(seconds / mean_s, 1.0)))
    return paces


_WITH_A_RESULT = (TrialState.COMPLETE, TrialState.PRUNED)


def preview_of(
    trials: Sequence[FrozenTrial],
    last: Mapping[int, tuple[int, float]],
    n_total: int,
    machine: Machine,
    expected: Range,
) -> Preview | None:
    """What is left of a sweep, as its study and its curves tell.

    last: of running trials, (step, seconds) of the last report. n_total: trials to reach, repeats
    included. expected: as in `preview`. None while no trial has shown its pace.
    """
    paces, n_done, n_made = paces_of(trials), 0.0, 0.0
    for trial in trials:
        record = record_of(trial)
        share = 0.0
        if trial.state is TrialState.RUNNING:
            step, seconds = last.get(trial.number, (-1, 0.0))
            if record.plan.n_steps and step > 0 and seconds > 0:
                share = min((step + 1) / record.plan.n_steps, 1.0)
                paces.append(Pace(seconds / share))
        elif counts_as_run(trial):
            share = share_made(trial)
        is_open = trial.state is TrialState.RUNNING or is_paused(trial)
        n_made += share
        n_done += share if is_open else counts_as_run(trial)
    n_left = max(0.0, n_total - n_done)
    if expected.middle < 1:
        return preview_pruned(paces, expected, n_total, n_made, n_left, machine)
    return preview(paces, expected, n_left, machine)


def share_made(trial: FrozenTrial) -> float:
    """The share of its steps that a paused trial, or one that is over, has made; 1 if unknown."""
    record = record_of(trial)
    n_steps = record.plan.n_steps
    step = record.pauses[-1].step if is_paused(trial) and record.pauses else record.steps
    if trial.state is TrialState.COMPLETE or n_steps is None or step is None:
        return 1.0
    return min((step + 1) / n_steps, 1.0)
