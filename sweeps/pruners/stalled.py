"""Stop trials whose loss has stalled.

Out of reach of the best, and no longer where winners once were. How the rule and its numbers were
found: docs/pruning.md. `StallRule` is the rule without Optuna; `StalledLoss` feeds it.
"""

from __future__ import annotations

import math
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.pruners.peers import PeerOutcome, Peers, Standing
from iolaus.sweeps.pruners.verdicts import VerdictPruner, plan_of
from iolaus.sweeps.signals import N_TAIL, Array, Signals, Trend, Z, log_time, signals, trend
from iolaus.sweeps.types import Plan, Verdict

# Chosen on TaskSet and DeepOBS and on trainings with schedules (docs/pruning.md says how, and how
# much each matters).
BEST_PER_CUBE_ROOT = (
    1.25  # the goal is the k-th best of n trials, k = this * caution * cube root of n
)
GAIN_ERRORS = 1.0  # standard errors added to the slope, times caution
WINNER_ERRORS = (
    5.0  # standard errors of the level within which a trial is where winners were, times caution
)
SAFE_SHARE = 0.01  # the best share that is safe at the end of the run; at the share u of the run it is this / u
SAFE_SHARE_MOST = 0.5
FIRST_CAUTION = 0.5  # added to caution's factor of 1 while no trial has finished, half of it after FIRST_COMPLETE have
FIRST_COMPLETE = 4
MIN_REPORTS = 3
MIN_PEERS = 5
RATE_CHANGE = 2.0  # a planned change of the learning rate by this factor makes what is seen now no guide to what comes
MIN_COMPLETE = 3  # finished trials that show what comes after such a change
ALONE_SHARE = 0.25  # without peers: a stall of this share of the run ends a trial

PEER_OUTCOMES = {
    TrialState.COMPLETE: PeerOutcome.COMPLETE,
    TrialState.PRUNED: PeerOutcome.STOPPED,
    TrialState.FAIL: PeerOutcome.LOST,
}


@dataclass(frozen=True, slots=True)
class StallRule:
    """The rule. Peers, one curve (smaller is better, one finite report or more) and its plan in.

    A verdict or None out. With MIN_PEERS peers a trial ends when all of this holds: it is out of
    the best share at this step; it is worse, by more than its noise, than the winners among
    finished trials were at this step; and its best cannot reach the goal if it goes on falling as
    it does, straight in log time. Where a change of the learning rate by a factor of two or more is
    planned, this waits for three finished trials. With fewer peers it ends when it has stalled for
    a quarter of the run, no such change is planned, and it does not lead a sweep of several.
    """

    caution: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.caution < math.inf:
            raise ValueError(
                f"caution={self.caution}: give a number above 0, such as 1 (default) or 2 (keeps nearly all)"
            )

    def verdict(
        self,
        peers: Peers,
        trial: int,
        steps: Array,
        losses: Array,
        now: Trend,
        plan: Plan,
        sign: float = 1.0,
    ) -> Verdict | None:
        """now: `trend(steps, losses)`, as told to `peers`.

        sign: -1 if the losses are negated values, for words. Without plan.n_steps only a stall of
        the curve itself ends the trial, and not while it leads those that run or have finished,
        even if it is alone: otherwise none might ever finish. On the last step nothing ends it.
        """
        n_steps = plan.n_steps
        if len(losses) < MIN_REPORTS or (n_steps is not None and now.step >= n_steps - 1):
            return None
        if n_steps is None:
            return None if peers.leads(trial) else self._alone(steps, losses, plan, sign)
        # Where no rates are announced, the first finished trials must show whether early order
        # means anything here.
        caution = self.caution * (
            1 if plan.lr else 1 + FIRST_CAUTION / (1 + peers.n_complete / FIRST_COMPLETE)
        )
        goal = peers.goal(trial, BEST_PER_CUBE_ROOT * caution)
        slope = min(now.slope - GAIN_ERRORS * caution * now.slope_se, 0.0)
        reach = now.best + slope * log_time(now.step, n_steps)
        if reach <= goal and len(peers) > MIN_PEERS:
            return None
        here = peers.standing(trial, now.step, goal)
        if here.n_peers < MIN_PEERS:
            leads = len(peers) > 1 and now.best <= here.best_of_all
            return None if leads else self._alone(steps, losses, plan, sign)
        if reach <= goal or (here.n_complete < MIN_COMPLETE and rate_changes(plan, now.step)):
            return None
        if now.level <= here.winners_here + WINNER_ERRORS * caution * now.level_se:
            return None
        safe = min(SAFE_SHARE_MOST, SAFE_SHARE * n_steps / (now.step + 1))
        if here.n_better < safe * (here.n_peers + 1):
            return None
        return _out_of_reach(signals(steps, losses), steps, losses, n_steps, reach, here, sign)

    def _alone(self, steps: Array, losses: Array, plan: Plan, sign: float) -> Verdict | None:
        if len(losses) < 2 * N_TAIL or rate_changes(plan, int(steps[-1])):
            return None
        s = signals(steps, losses)
        if s.stalled_since is None:
            return None
        # Without a horizon the run so far stands in for it, and half of it must be flat.
        whole, share = (
            (plan.n_steps, ALONE_SHARE) if plan.n_steps else (s.step + 1 - int(steps[0]), 0.5)
        )
        if s.step - s.stalled_since < min(0.9, share * self.caution) * whole:
            return None
        words, numbers = _course(s, steps, losses, sign)
        return Verdict("stalled", s.step, words, numbers)


class StalledLoss(VerdictPruner):
    """Stops trials whose loss has stalled or diverged, with the reason.

    See `StallRule` for the rule.
    n_steps: steps a trial makes if nobody stops it; a trial's own user attribute `n_steps` goes
        before, and without either it is taken from the longest finished trial; until one has
        finished, the best that runs is not stopped.
        caution: 1 is the default, 2 keeps nearly every winner for half as much compute again.
        direction: of the reported value; by default the study's, and "minimize" in a study of
        several objectives. NaN and infinity end a trial at the report in which they come.
    A trial's user attribute `lr_plan`, corners (step, rate), tells the rule of learning rates to
    come. A copy or pickle of it forgets what it has seen and learns it anew from the study. Bad
    arguments raise ValueError.

    >>> def train(trial: optuna.Trial) -> float:
    ...     for step in range(100):
    ...         trial.report(1 / (step + 1) if trial.number < 9 else 5.0, step)
    ...         if trial.should_prune():
    ...             raise optuna.TrialPruned
    ...     return 0.01
    >>> study = optuna.create_study(pruner=iolaus.StalledLoss(n_steps=100))
    >>> study.optimize(train, n_trials=10)
    >>> last = study.trials[-1]
    >>> last.state.name, last.last_step < 50, "verdict" in last.user_attrs
    ('PRUNED', True, True)
    """

    def __init__(
        self,
        n_steps: int | None = None,
        caution: float = 1.0,
        direction: Literal["minimize", "maximize"] | None = None,
    ) -> None:
        if n_steps is not None and n_steps < 1:
            raise ValueError(
                f"n_steps={n_steps}: give the steps of a whole trial, at least 1, or leave it out"
            )
        if direction not in (None, "minimize", "maximize"):
            raise ValueError(
                f"direction={direction!r}: give 'minimize' or 'maximize', or leave it out"
            )
        self._n_steps, self._rule, self._direction = n_steps, StallRule(caution), direction
        self._storage: Callable[[], BaseStorage | None] = lambda: (
            None
        )  # weakly: of the study it has learned from
        self._study_id = -1
        self._peers = Peers()
        self._settled: set[int] = set()
        self._n_seen: dict[int, int] = {}
        self._longest_steps = 0
        self._lock = threading.Lock()  # study.optimize(n_jobs=...) calls from several threads

    def __reduce__(self) -> tuple[type[StalledLoss], tuple[int | None, float, str | None]]:
        return type(self), (self._n_steps, self._rule.caution, self._direction)

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """Why the trial should end at its last report, or None."""
        step = trial.last_step
        if step is None:
            return None
        value = trial.intermediate_values[step]
        if not math.isfinite(value):
            return Verdict(
                "diverged", step, f"diverged: the loss is {value} at step {step:,}", {"loss": value}
            )
        sign = -1.0 if self._larger_is_better(study) else 1.0
        with self._lock:
            self._learn(study, trial.number, sign)
            steps, losses = self._catch_up(trial, sign)
            now = trend(steps, losses)
            plan = plan_of(trial)
            horizon = plan.n_steps or self._n_steps or self._longest_steps or None
            return self._rule.verdict(
                self._peers, trial.number, steps, losses, now, Plan(horizon, plan.lr), sign
            )

    def _larger_is_better(self, study: optuna.Study) -> bool:
        if self._direction is not None:
            return self._direction == "maximize"
        return study.directions == [StudyDirection.MAXIMIZE]

    def _learn(self, study: optuna.Study, judged: int, sign: float) -> None:
        """Bring the table up to date with every trial but the one to be judged."""
        if (
            self._storage() is not study._storage or self._study_id != study._study_id
        ):  # names are no identity
            self._storage, self._study_id = weakref.ref(study._storage), study._study_id
            self._longest_steps = 0
            self._peers, self._settled, self._n_seen = Peers(), set(), {}
        for other in study.get_trials(deepcopy=False):
            number = other.number
            if number == judged or number in self._settled:
                continue
            if len(other.intermediate_values) != self._n_seen.get(number, 0):
                self._catch_up(other, sign)
            if other.state.is_finished():
                self._settled.add(number)
                self._peers.end(number, PEER_OUTCOMES[other.state])
                if other.state is TrialState.COMPLETE and other.last_step is not None:
                    self._longest_steps = max(self._longest_steps, other.last_step + 1)

    def _catch_up(self, trial: FrozenTrial, sign: float) -> tuple[Array, Array]:
        """The finite reports of a trial, put into the table as far as they are new."""
        kept = {
            step: value for step, value in trial.intermediate_values.items() if math.isfinite(value)
        }
        order = sorted(kept)
        steps, losses = (
            np.array(order, dtype=np.float64),
            sign * np.array([kept[step] for step in order]),
        )
        self._n_seen[trial.number] = len(trial.intermediate_values)
        for n in range(bisect_right(order, self._peers.last_step(trial.number)), len(order)):
            self._peers.report(trial.number, trend(steps[: n + 1], losses[: n + 1]))
        return steps, losses


def rate_changes(plan: Plan, step: int) -> bool:
    """Whether a learning rate is planned after `step` that differs by RATE_CHANGE or more from the one at `step`."""
    later = [rate for at, rate in plan.lr if at > step]
    if not later:
        return False
    corners = np.array(plan.lr, dtype=np.float64)
    rate = float(np.interp(step, corners[:, 0], corners[:, 1]))
    return min(later) * RATE_CHANGE <= rate or max(later) >= rate * RATE_CHANGE


def _course(s: Signals, steps: Array, losses: Array, sign: float) -> tuple[str, dict[str, float]]:
    """The slope now, of the last half of the reports since the stall began or of all, in words and numbers."""
    if s.stalled_since is None:
        course, slope, error = "no clear stall", s.trend, (s.trend_high - s.trend) / Z
        numbers = {"slope": sign * slope, "noise": s.noise}
    else:  # the last half of all may still hold a piece of the way down
        flat = trend(steps[steps >= s.stalled_since], losses[steps >= s.stalled_since])
        course, slope, error = f"stalled since step {s.stalled_since:,}", flat.slope, flat.slope_se
        numbers = {"slope": sign * slope, "noise": s.noise, "stalled_since": float(s.stalled_since)}
    unit = 10 ** max(0, round(math.log10(max(s.step, 1))) - 1)
    span = "step" if unit == 1 else f"{unit:,} steps"
    moving = f"slope {sign * slope * unit:+.3g} ± {error * unit:.2g} per {span}"
    return (
        f"{course}: {moving if math.isfinite(error) else 'too recently for a slope'} at noise {s.noise:.2g}",
        numbers,
    )


def _out_of_reach(
    s: Signals, steps: Array, losses: Array, n_steps: int, reach: float, here: Standing, sign: float
) -> Verdict:
    words, numbers = _course(s, steps, losses, sign)
    numbers |= {
        "level": sign * s.level,
        "reach": sign * reach,
        "goal": sign * here.goal,
        "best_of_all": sign * here.best_of_all,
        "n_peers": float(here.n_peers),
        "n_better": float(here.n_better),
    }
    text = (
        f"{words}; at best it gets to {sign * reach:.4g} by step {n_steps:,}, "
        f"{sign * here.goal:.4g} is needed (best so far {sign * here.best_of_all:.4g}); "
        f"{here.n_better} of {here.n_peers} peers are ahead of it here"
    )
    if math.isfinite(here.gain_after):
        numbers |= {"winners_here": sign * here.winners_here, "gain_after": here.gain_after}
        text += f"; finished ones that stood nearest to it improved by at most {here.gain_after:.3g} from here"
    return Verdict("out_of_reach" if s.stalled_since is None else "stalled", s.step, text, numbers)
