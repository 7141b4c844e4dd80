"""Whether more trials would still find something better: the chance that they do.

If none of the last w trials was better than the best before them, the next n hold a better one with
a chance of n / (w + n + 1): that of Laplace's rule of succession, w failures of as many tries and
nothing else known, and that of ranks, by which each of these w + 1 + n trials is the best of them
equally often (records of exchangeable sequences: Rényi 1962). For a random search, whose trials
come in no order, it is too high, since the trials before the best count too; for a sampler that
learns they do not. So this is the old rule "no improvement for w trials", with its chance: of those
tried in benchmarks/stop_when.py none is better, and others claim too little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.signals import signals
from iolaus.sweeps.study.record import broken_constraints, counts_as_run, is_repeat, record_of
from iolaus.sweeps.text import counted
from iolaus.sweeps.types import Ending

__all__ = ["Found", "NoGain", "chance_of_gain", "found_by", "noise_of", "since_gain"]

# A curve of fewer values says little of its noise.
N_VALUES_FOR_NOISE = 8


@dataclass(frozen=True, slots=True)
class Found:
    """What one trial that has ended has found. loss: lower is better; infinity for nothing."""

    trial: int
    loss: float


@dataclass(frozen=True, slots=True)
class NoGain:
    """A sweep ends when the chance that the next n trials bring a gain is below p.

    p: in (0, 1). n: 1 or more.
    """

    p: float = 0.2
    n: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.p < 1 or type(self.n) is not int or self.n < 1:
            raise ValueError(f"p lies between 0 and 1, n is 1 or more; got p={self.p}, n={self.n}")

    def verdict(self, found: Sequence[Found], noise: float) -> str:
        """Why a sweep has nothing to gain, in a sentence; "" while it may have.

        found: of the trials that have ended, in that order. noise: as in `since_gain`.
        """
        n_since = since_gain([one.loss for one in found], noise)
        chance = chance_of_gain(n_since, self.n)
        if chance >= self.p:
            return ""
        best = min(found, key=lambda one: one.loss)
        reached = found[len(found) - 1 - n_since]
        within = f" by more than its noise ({noise:.2g})" if noise > 0 else ""
        since = "" if reached == best else f", to which trial {reached.trial} had come as near"
        return (
            f"no gain is to be expected: none of {counted(n_since, 'trial')} improved on trial "
            f"{best.trial}{within}{since}; the chance that one of the next {self.n} does is "
            f"{chance:.2g}, below p={self.p:g}"
        )


def chance_of_gain(n_since: int, n_next: int) -> float:
    """The chance that one of the next n_next trials, >= 1, is better; n_since: w, see above.

    In (0, 1]: 1 where w is below 0, nothing being known.
    """
    return 1.0 if n_since < 0 else n_next / (n_since + n_next + 1)


def since_gain(losses: Sequence[float], noise: float) -> int:
    """How many trials ended after the first that came within the noise of the best.

    What was gained since then is noise. losses: lower is better, infinity for a trial that found
    nothing or was given up on the way. noise: in their unit; what is not above 0, or NaN, is 0.
    Returns -1 where no loss is finite.
    """
    best = min(losses, default=math.inf)
    if best == math.inf:
        return -1
    within = best + (noise if noise > 0 else 0.0)
    return len(losses) - 1 - next(i for i, loss in enumerate(losses) if loss <= within)


def found_by(trials: Sequence[FrozenTrial], sign: int) -> list[Found]:
    """What the settings of a study have found, in the order in which they ended.

    One that was given up on the way, or breaks a constraint, has found nothing. Left out are those
    that have failed, were ruled out before they ran, were not run again, and seeds after the first.
    sign: 1 where a smaller objective is better, -1 where a larger.
    """
    ended = [
        trial
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and counts_as_run(trial)
        and not is_repeat(trial)
        and (record := record_of(trial)).duplicate_of is None
        and record.ending is not Ending.INFEASIBLE
    ]
    ended.sort(key=lambda trial: (_ended_at(trial), trial.number))
    return [Found(trial.number, _loss(trial, sign)) for trial in ended]


def _ended_at(trial: FrozenTrial) -> datetime:
    return trial.datetime_complete or trial.datetime_start or datetime.min


def _loss(trial: FrozenTrial, sign: int) -> float:
    if trial.state is not TrialState.COMPLETE or not trial.values or broken_constraints(trial):
        return math.inf
    loss = sign * trial.values[0]
    return loss if math.isfinite(loss) else math.inf


def noise_of(trial: FrozenTrial) -> float:
    """The noise of one report on a trial's curve, if its objective was read off that curve.

    0 where it was not, or where the curve is too short to say. See `iolaus.sweeps.signals`.
    """
    run, curve = record_of(trial).run, sorted(trial.intermediate_values.items())
    is_of_curve = bool(trial.values) and trial.values[0] in (run.best, run.final)
    if not is_of_curve or len(curve) < N_VALUES_FOR_NOISE:
        return 0.0
    steps, values = zip(*curve, strict=True)
    return signals(steps, values).noise
