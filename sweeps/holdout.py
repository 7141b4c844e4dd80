"""How often stopping trials was wrong, counted on those that a holdout let run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

from iolaus.sweeps.text import counted, ordinal

__all__ = [
    "BEST_PER_CUBE_ROOT",
    "HeldOut",
    "HoldoutResult",
    "caution_added",
    "exact_interval",
    "goal_rank",
    "held_out",
]

# The goal is the k-th best of n trials, k = this * caution * cube root of n (docs/pruning.md).
BEST_PER_CUBE_ROOT = 1.25
N_NAMED = 4  # ranks that a sentence lists
# The share of stops that may be wrong, and how many stops' worth of evidence it is believed like.
TOLERATED, TOLERATED_WEIGHT = 0.02, 10.0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A trial that was to be stopped at `step`, ran on, and ended at this rank; 1 is the best."""

    trial: int
    step: int
    rank: int
    was_wrong: bool


@dataclass(frozen=True, slots=True)
class HoldoutResult:
    """What became of the trials that were to be stopped but ran on.

    finished: those that did, by number. n_finished: all trials that have finished. goal_rank:
    stopping was wrong where the trial ended among so many best. n_open: those held out without a
    result: they still run, or failed.
    """

    finished: tuple[HeldOut, ...]
    n_finished: int
    goal_rank: int
    n_open: int = 0

    @property
    def n_wrong(self) -> int:
        """How often stopping would have been wrong."""
        return sum(one.was_wrong for one in self.finished)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share of wrong stops lies at 95 %; 0 to 1 where nothing is known."""
        return exact_interval(self.n_wrong, len(self.finished))

    @property
    def wrong(self) -> str:
        """The count with its interval: `0 of 1 (95 %: 0 to 98 %)`."""
        low, high = (f"{100 * share:.0f}" for share in self.interval)
        return f"{self.n_wrong} of {len(self.finished)} (95 %: {low} to {high} %)"

    def sentence(self) -> str:
        """In words how often stopping was wrong; "" if no trial was held out."""
        n = len(self.finished)
        if not n:
            is_one = self.n_open == 1
            return (
                f"{counted(self.n_open, 'trial')} that {'was' if is_one else 'were'} to be stopped "
                f"ran on; {'it has' if is_one else 'none has'} not finished, so how often stopping "
                "was wrong is not known."
                if self.n_open
                else ""
            )
        ranks = sorted(one.rank for one in self.finished)
        best = "the best" if self.goal_rank == 1 else f"among the best {self.goal_rank}"
        if n == 1:
            ended = f"it ended {ordinal(ranks[0])} of {self.n_finished}, "
            ended += best if self.n_wrong else f"not {best}"
        else:
            named = [ordinal(rank) for rank in ranks]
            said = (
                f"they ended {', '.join(named[:-1])} and {named[-1]}"
                if n <= N_NAMED
                else f"the best of them ended {named[0]}"
            )
            ended = f"{said} of {self.n_finished}, {self.n_wrong or 'none'} of them {best}"
        more = f" ({self.n_open} more without a result)" if self.n_open else ""
        return (
            f"{counted(n, 'trial')} that {'was' if n == 1 else 'were'} to be stopped ran on{more}; "
            f"{ended}: stopping was wrong in {self.wrong}."
        )


def held_out(losses: Mapping[int, float], steps: Mapping[int, int], n_best: int) -> HoldoutResult:
    """What became of the trials that were held out.

    losses: of all trials that have finished, by number; smaller is better, NaN is the worst. steps:
    where each trial that was held out was to be stopped. n_best: stopping was wrong where the trial
    is among so many best of those that finished, and in their better half: of three, all are among
    the best three. Of equals all have the better rank.
    """
    known = {trial: math.inf if math.isnan(loss) else loss for trial, loss in losses.items()}
    n_best = max(1, min(n_best, len(known) // 2))
    finished = []
    for trial, step in sorted(steps.items()):
        if trial in known:
            rank = 1 + sum(loss < known[trial] for loss in known.values())
            finished.append(HeldOut(trial, step, rank, rank <= n_best))
    return HoldoutResult(tuple(finished), len(known), n_best, len(steps) - len(finished))


def caution_added(n_wrong: int, n_held_out: int) -> float:
    """Standard deviations by which a rule should stop later, from how often stopping was wrong.

    The mean of the Beta posterior of the wrong share p, whose prior has the mean TOLERATED and the
    weight of TOLERATED_WEIGHT stops, takes the place of TOLERATED in a normal tail:
    z(1 - TOLERATED) - z(1 - p). Zero where p is at most TOLERATED: none wrong is no licence. 0.8
    for the first that was wrong, 0.2 once it is one of 18. Bad counts raise ValueError.
    """
    if not 0 <= n_wrong <= n_held_out:
        raise ValueError(f"{n_wrong} wrong of {n_held_out}: give counts, of all and of these")
    wrong = (TOLERATED * TOLERATED_WEIGHT + n_wrong) / (TOLERATED_WEIGHT + n_held_out)
    z = NormalDist().inv_cdf
    return max(0.0, z(1 - TOLERATED) - z(1 - wrong))


def goal_rank(n_trials: int, n_best: float) -> int:
    """Which place the goal is that of: n_best * cube root of the number of trials, rounded up.

    The root lets the top grow with the sweep, but more slowly: at n_best 1.25 it is 4 of 30 and 13
    of 1,000. From 1, at most n_trials.
    """
    return max(1, min(n_trials, math.ceil(n_best * math.cbrt(n_trials))))


def exact_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Where the share lies of which k were seen in n (Clopper and Pearson 1934); 0 to 1 for n = 0.

    Each end is the share at which seeing so many, or more extreme, has half of 1 - level.
    """
    tail = (1 - level) / 2
    low = _rising_root(lambda p: 1 - _at_most(k - 1, n, p) - tail) if k else 0.0
    high = _rising_root(lambda p: tail - _at_most(k, n, p)) if k < n else 1.0
    return low, high


def _at_most(k: int, n: int, p: float) -> float:
    """The chance of at most k in n, each with the chance p in (0, 1)."""
    log_p, log_q, log_all = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    return math.fsum(
        math.exp(
            log_all - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q
        )
        for i in range(k + 1)
    )


def _rising_root(f: Callable[[float], float]) -> float:
    """Where a rising function crosses 0 between 0 and 1, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if f(middle) > 0 else (middle, high)
    return (low + high) / 2
