"""Stop trials whose loss has stalled, out of reach of the best.

They are also no longer where winners once were. How the rule and its numbers were found:
docs/pruning.md. `StallRule` is the rule where a stop is final; where trials can be paused,
`rungs.Rungs` says who goes on. `StalledLoss` keeps the curves of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from iolaus.sweeps.holdout import BEST_PER_CUBE_ROOT, caution_added, exact_interval
from iolaus.sweeps.pruners.curve_pruner import NO_PLAN, CurvePruner, StudyView
from iolaus.sweeps.pruners.divergence import DIVERGED_RULE, left_its_past, not_finite
from iolaus.sweeps.pruners.forecast import Forecast, planned_rate
from iolaus.sweeps.pruners.peers import PeerOutcome, Peers, Prospect, Standing
from iolaus.sweeps.pruners.rungs import MIN_PEERS, Place, Rungs
from iolaus.sweeps.pruners.verdicts import distinct
from iolaus.sweeps.signals import (
    N_TAIL,
    Array,
    Signals,
    Trend,
    Z,
    has_diverged,
    is_above_past,
    log_time,
    signals,
    trend,
)
from iolaus.sweeps.text import ordinal
from iolaus.sweeps.types import WAITS_RULE, Plan, Verdict

__all__ = ["StallRule", "StalledLoss", "rate_changes"]

# Chosen on TaskSet and DeepOBS and on trainings with schedules (docs/pruning.md says how, and how
# much each matters).
# As BEST_PER_CUBE_ROOT, where a forecast says more exactly what is out of reach.
FORESEEN_PER_CUBE_ROOT = 2.0
# Standard errors added to the slope, times caution.
GAIN_ERRORS = 1.0
# Standard errors of the level within which a trial is where winners were, times caution.
WINNER_ERRORS = 5.0
# The best share that is safe at the end of the run; at the share u of the run it is this / u.
SAFE_SHARE = 0.01
SAFE_SHARE_MOST = 0.5
# Until so many trials have finished, none ends for how it stands before WAIT_SHARE of its run,
# unless the order of the sweep has held to ORDER_HELD since half of the steps so far.
MANY_COMPLETE = 8
WAIT_SHARE = 0.4
ORDER_HELD = 0.9
MIN_REPORTS = 3
# A planned change of the rate by this factor makes what is seen now no guide to what comes.
RATE_CHANGE = 2.0
# Finished trials that show what comes after such a change.
MIN_COMPLETE = 3
# Without peers: a stall of this share of the run ends a trial.
ALONE_SHARE = 0.25
# Of the share of the best that is to be kept, so many are looked for.
KEEP_LEAST, KEEP_MOST = 2, 10
# A trial whose thaw would repeat more than this share of its run keeps no state worth a pause.
REPEAT_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class StallRule:
    """When a trial has stalled out of reach: peers, a curve and its plan in, a verdict or None out.

    Of the curve smaller is better, and it has one finite report or more. With MIN_PEERS peers a
    trial ends when all of this holds: it is out of the best share at this step; it is worse, by
    more than its noise, than the winners among finished trials were a fifth of the steps before;
    its best does not reach the goal if it goes on falling as it does, straight in log time; nor if
    it gains what any of those that stood near it and went further did; and the sweep has shown that
    standing here means something: eight have finished, or the order has held since half of these
    steps, or two fifths of the run are over. Where a change of the learning rate by a factor of two
    or more is planned, this waits for three finished trials.
    Where rates are announced and eight such trials have finished, a forecast takes the place of all
    this but the best share: the trial ends when the goal is below the lowest end foreseen.
    With fewer peers it ends when it has stalled for a quarter of the run, no such change is
    planned, and it does not lead a sweep of several.
    """

    caution: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.caution < math.inf:
            raise ValueError(
                f"caution={self.caution}: give a number above 0, such as 1 (default) or 2 (keeps "
                "nearly all)"
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
        caution = self.caution
        foreseen = peers.forecasts.forecast(trial, caution)
        if foreseen is not None:
            return self._foreseen(peers, trial, steps, losses, n_steps, foreseen, sign)
        goal = peers.goal(trial, BEST_PER_CUBE_ROOT * caution)
        slope = min(now.slope - GAIN_ERRORS * caution * now.slope_se, 0.0)
        reach = now.best + slope * log_time(now.step, n_steps)
        if reach <= goal and len(peers) > MIN_PEERS:
            return None
        here = peers.standing(trial, goal)
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
        # The first waits for what the order has shown; at two fifths of the run it has to show.
        if (
            here.n_complete < MANY_COMPLETE
            and now.step + 1 < WAIT_SHARE * n_steps
            and peers.order_held(trial) < ORDER_HELD
        ):
            return None
        prospect = peers.prospect(trial)
        if prospect.reach <= goal:
            return None
        rank = peers.goal_rank(trial, BEST_PER_CUBE_ROOT * caution)
        behind = _Behind(n_steps, reach, rank, here, prospect)
        return _behind(signals(steps, losses), steps, losses, behind, sign)

    def _foreseen(
        self,
        peers: Peers,
        trial: int,
        steps: Array,
        losses: Array,
        n_steps: int,
        foreseen: Forecast,
        sign: float,
    ) -> Verdict | None:
        rank = peers.goal_rank(trial, FORESEEN_PER_CUBE_ROOT * self.caution)
        goal = peers.goal(trial, FORESEEN_PER_CUBE_ROOT * self.caution)
        if foreseen.low <= goal:
            return None
        here = peers.standing(trial, goal)
        step = int(steps[-1])
        safe = min(SAFE_SHARE_MOST, SAFE_SHARE * n_steps / (step + 1))
        if here.n_better < safe * (here.n_peers + 1):
            return None
        numbers = {
            "reach": sign * foreseen.best,
            "reach_at_best": sign * foreseen.low,
            "goal": sign * goal,
            "best_of_all": sign * here.best_of_all,
            "n_peers": float(here.n_peers),
            "n_better": float(here.n_better),
            "n_finished": float(foreseen.n),
        }
        low, shown_goal = distinct(sign * foreseen.low, sign * goal)
        text = (
            f"behind: {sign * foreseen.best:.4g} foreseen by step {n_steps:,}, {low} at best, "
            f"the {_place(rank)} has {shown_goal} ({foreseen.n} finished trials, compared at this "
            f"share of the run by loss, course and learning rate)"
        )
        s = signals(steps, losses)
        return Verdict("behind", step, text, _course(s, steps, losses, sign) | numbers)

    def _alone(self, steps: Array, losses: Array, plan: Plan, sign: float) -> Verdict | None:
        if len(losses) < 2 * N_TAIL or rate_changes(plan, int(steps[-1])):
            return None
        s = signals(steps, losses)
        if s.stalled_since is None or is_above_past(losses):  # it comes back, or has diverged
            return None
        # Without a horizon the run so far stands in for it, and half of it must be flat.
        whole, share = (
            (plan.n_steps, ALONE_SHARE) if plan.n_steps else (s.step + 1 - int(steps[0]), 0.5)
        )
        if s.step - s.stalled_since < min(0.9, share * self.caution) * whole:
            return None
        stalled_steps = s.step - s.stalled_since
        text = f"{_stall(s, sign)}: no progress beyond noise for {stalled_steps:,} of " + (
            f"its {whole:,} steps" if plan.n_steps else f"the {whole:,} steps so far"
        )
        return Verdict("stalled", s.step, text, _course(s, steps, losses, sign))


class StalledLoss(CurvePruner):
    """Stops trials whose loss has stalled or diverged, with the reason.

    See `StallRule` for the rule. In a sweep that can pause trials (`on_prune: pause`) and whose
    trials say their length, a trial is paused instead where too few have come to say how it stands,
    or where the best of the end are not expected so far down (`Rungs`), and goes on when more is
    known.
    n_steps: steps a trial makes if nobody stops it; a trial's own plan goes before (in plain Optuna
        its user attribute `n_steps`), and without either it is taken from the longest finished
        trial; until one has finished, the best that runs is not stopped.
    caution: 1 is the default, 2 keeps nearly every winner for half as much compute again. With
        pauses: the best may stand 1 + caution standard deviations below what is expected of them.
        Where a holdout shows that stopping was wrong, `caution_added` is added to it, and said.
    keep: with pauses, the share of trials that are the best to be kept, two at least, ten at most.
    direction: of the reported value; by default that of the metric, in plain Optuna the study's,
        and "minimize" in a study of several objectives.
    NaN and infinity end a trial at the report in which they come; a loss worse than where it began
    for a quarter of the run ends it too, if it is not on course back (`lost_since`): both are final
    and named `diverged`. A trial's planned learning rate,
    in plain Optuna its user attribute `lr_plan` of corners (step, rate), tells the rule of rates to
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
        keep: float = 0.1,
    ) -> None:
        if n_steps is not None and n_steps < 1:
            raise ValueError(
                f"n_steps={n_steps}: give the steps of a whole trial, at least 1, or leave it out"
            )
        if direction not in (None, "minimize", "maximize"):
            raise ValueError(
                f"direction={direction!r}: give 'minimize' or 'maximize', or leave it out"
            )
        if not 0 < keep <= 1:
            raise ValueError(f"keep={keep}: give a share of the trials above 0, such as 0.1")
        StallRule(caution)  # refuses a bad one
        self._n_steps, self._caution, self._direction = n_steps, caution, direction
        self._keep = keep
        self._forget()

    def _forget(self) -> None:
        self._peers = Peers()
        self._rule = StallRule(self._caution)
        self._rungs = Rungs(self._n_best, 1 + self._caution)
        self._doubt = ""  # why the rule is more cautious than it was told to be
        self._waiting: set[int] = set()  # trials that were paused for want of others
        self._repeats = False  # whether the paused would all have to repeat much of their run
        self._curves: dict[int, _Curve] = {}  # of trials that have not ended
        self._longest_steps = 0

    def _n_best(self, n_trials: int) -> int:
        return max(KEEP_LEAST, min(KEEP_MOST, math.ceil(self._keep * n_trials)))

    def __reduce__(self) -> tuple[type[StalledLoss], tuple[int | None, float, str | None, float]]:
        return type(self), (self._n_steps, self._caution, self._direction, self._keep)

    def start(self, view: StudyView) -> None:
        """See CurvePruner."""
        super().start(view)
        self._forget()

    def learn(self, trial: int, step: int, loss: float, plan: Plan = NO_PLAN) -> None:
        """See CurvePruner."""
        curve = self._curves.setdefault(trial, _Curve())
        if step <= curve.last_step:
            return
        curve.add(step, loss * self._flip)
        if curve.now is None or curve.now.step != step:
            return
        self._peers.report(trial, curve.now, Plan(plan.n_steps or self._n_steps, plan.lr))
        if horizon := self._horizon(plan):
            share = (step + 1) / horizon
            curve.at_rung |= self._rungs.report(trial, share, curve.now.best)

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        """Why the trial should end at this report, or None, also for one that has ended."""
        sign = self._sign
        if has_diverged(loss):
            self.learn(trial, step, loss, plan)
            return not_finite(step, sign * self._flip * loss)
        self.learn(trial, step, loss, plan)
        verdict = self._verdict(trial, step, plan)
        if verdict is None or not self._doubt or verdict.rule in (DIVERGED_RULE, WAITS_RULE):
            return verdict
        numbers = {**verdict.numbers, "caution": self._rule.caution}
        return replace(verdict, reason=verdict.reason + self._doubt, numbers=numbers)

    def _verdict(self, trial: int, step: int, plan: Plan) -> Verdict | None:
        sign, curve = self._sign, self._curves[trial]
        if curve.now is None:
            return None
        plan = Plan(self._horizon(plan), plan.lr)
        steps, losses = curve.arrays()
        if plan.n_steps is not None:
            diverged = left_its_past(steps, losses, plan.n_steps, sign)
            if diverged is not None:
                return diverged
        if self._pauses and plan.n_steps is not None and len(self._rungs) > MIN_PEERS:
            if not curve.at_rung or len(losses) < MIN_REPORTS or step >= plan.n_steps - 1:
                return None
            place = self._rungs.place(trial)
            curve.at_rung = place is not None and not place.goes_on
            if place is None or not curve.at_rung:
                return None
            if place.here.waits:
                self._waiting.add(trial)
            return _paused(place, steps, losses, sign)
        return self._rule.verdict(self._peers, trial, steps, losses, curve.now, plan, sign)

    def paused(self, trial: int) -> None:
        """See CurvePruner."""
        self._peers.end(trial, PeerOutcome.STOPPED)
        place = self._rungs.place(trial)
        if place is not None and not place.here.waits and not place.goes_on:
            self._rungs.gone(trial)

    def thaw(self, paused: Mapping[int, float], last_call: bool = False) -> int | None:
        """The most promising trial that may still end among the best, if any.

        Where all would have to repeat much of their run, only those that waited go on, and none
        waits any more.
        """
        if len(self._rungs) <= MIN_PEERS or not paused:  # a stall ended it, and would again
            return None
        self._repeats = self._repeats or min(paused.values()) > REPEAT_SHARE
        if self._repeats:
            self._rungs.wait_no_more()
        if last_call:
            self._rungs.last_call()
        return self._rungs.first(self._that_wait(paused) if self._repeats else paused)

    def _that_wait(self, paused: Mapping[int, float]) -> set[int]:
        """Those paused for want of others, here or, by the study, before or in another driver."""
        trials = [] if self._view is None else self._view.study.get_trials(deepcopy=False)
        rules = {t.number: str(t.user_attrs.get("verdict_rule", "")) for t in trials}
        said = {number for number, rule in rules.items() if WAITS_RULE in rule.split("+")}
        return (self._waiting | said).intersection(paused)

    def resumed(self, trial: int) -> None:
        """See CurvePruner."""
        self._peers.end(trial, PeerOutcome.RUNNING)
        self._waiting.discard(trial)
        self._rungs.gone(trial, gone=False)
        if trial in self._curves:
            self._curves[trial].at_rung = False

    def held_out(self, n_wrong: int, n_finished: int) -> None:
        """See CurvePruner: the caution grows by `caution_added`, and falls again with it."""
        added = caution_added(n_wrong, n_finished)
        caution = self._caution + added
        if caution == self._rule.caution:
            return
        self._rule = replace(self._rule, caution=caution)
        self._rungs.allow(1 + caution)
        low, high = (f"{100 * share:.0f}" for share in exact_interval(n_wrong, n_finished))
        self._doubt = (
            f" (caution {caution:.2g} instead of {self._caution:g}: stopping was wrong in "
            f"{n_wrong} of {n_finished} held out, 95 %: {low} to {high} %)"
            if added
            else ""
        )

    def finished(self, trial: int, outcome: PeerOutcome) -> None:
        """See CurvePruner."""
        self._peers.end(trial, outcome)
        self._rungs.gone(trial)
        curve = self._curves.pop(trial, None)
        if curve is not None and outcome is PeerOutcome.COMPLETE:
            self._longest_steps = max(self._longest_steps, curve.last_step + 1)

    @property
    def _pauses(self) -> bool:
        return self._view is not None and self._view.pauses and not self._repeats

    def _horizon(self, plan: Plan) -> int | None:
        return plan.n_steps or self._n_steps or self._longest_steps or None

    @property
    def _sign(self) -> float:
        """A reported value is this times the loss that is compared here."""
        if self._direction is not None:
            return -1.0 if self._direction == "maximize" else 1.0
        return self._view.sign if self._view is not None else 1.0

    @property
    def _flip(self) -> float:
        """-1 where this pruner was told another direction than the losses come with."""
        return self._sign * (self._view.sign if self._view is not None else 1.0)


class _Curve:
    """The finite reports of one trial, appended in place, and its trend after the last one."""

    def __init__(self) -> None:
        self.last_step = -1  # of any report, finite or not
        self.now: Trend | None = None
        self.at_rung = False  # has come to a rung, and not been let go on from there
        self._n = 0
        self._table = np.empty((2, 16))  # steps, losses

    def add(self, step: int, loss: float) -> None:
        self.last_step = step
        if has_diverged(loss):
            return
        if self._n == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.empty_like(self._table)], axis=1)
        self._table[:, self._n] = step, loss
        self._n += 1
        self.now = trend(*self.arrays())

    def arrays(self) -> tuple[Array, Array]:
        """(steps, losses), views of [n] each."""
        return self._table[0, : self._n], self._table[1, : self._n]


def rate_changes(plan: Plan, step: int) -> bool:
    """Whether a rate is planned after `step` that differs from the one at it by RATE_CHANGE."""
    later = [rate for at, rate in plan.lr if at > step]
    if not later:
        return False
    rate = planned_rate(plan, step)
    return min(later) * RATE_CHANGE <= rate or max(later) >= rate * RATE_CHANGE


@dataclass(frozen=True, slots=True)
class _Behind:
    """Why a trial is not expected at the goal, the loss of the rank-th best.

    reach: what its own course gives by n_steps. prospect: what peers made of standing here.
    """

    n_steps: int
    reach: float
    rank: int
    here: Standing
    prospect: Prospect


def _course(s: Signals, steps: Array, losses: Array, sign: float) -> dict[str, float]:
    """The slope now, of the last half of the reports since the stall began or of all, in numbers.

    Of a stall, the last half of all may still hold a piece of the way down.
    """
    if s.stalled_since is None:
        slope, error = s.trend, (s.trend_high - s.trend) / Z
        numbers = {"slope": sign * slope, "noise": s.noise}
    else:
        flat = trend(steps[steps >= s.stalled_since], losses[steps >= s.stalled_since])
        slope, error = flat.slope, flat.slope_se
        numbers = {"slope": sign * slope, "noise": s.noise, "stalled_since": float(s.stalled_since)}
    if math.isfinite(error):
        numbers["slope_error"] = error
    return numbers | {"level": sign * s.level}


def _stall(s: Signals, sign: float) -> str:
    return f"stalled since step {s.stalled_since:,} at {sign * s.level:.4g} (noise {s.noise:.2g})"


def _behind(s: Signals, steps: Array, losses: Array, behind: _Behind, sign: float) -> Verdict:
    here = behind.here
    numbers = _course(s, steps, losses, sign) | {
        "reach": sign * behind.reach,
        "goal": sign * here.goal,
        "best_of_all": sign * here.best_of_all,
        "n_peers": float(here.n_peers),
        "n_better": float(here.n_better),
    }
    if math.isfinite(here.winners_here):
        numbers["winners_here"] = sign * here.winners_here
    numbers["n_near"] = float(behind.prospect.n)
    if behind.prospect.n:
        numbers["reach_as_peers"] = sign * behind.prospect.reach
    reach, goal = distinct(sign * behind.reach, sign * here.goal)
    behind_goal = (
        f"on course for {reach} by step {behind.n_steps:,}, the {_place(behind.rank)} has {goal}"
    )
    peers = f"{here.n_better:,} of {here.n_peers:,} peers ahead"
    if n_near := behind.prospect.n:
        like, _ = distinct(numbers["reach_as_peers"], sign * here.goal)
        peers += f"; {like} if it goes on like the best of the {n_near} nearest that went further"
    else:
        peers += "; none has gone further to show what comes"
    if s.stalled_since is None:
        return Verdict("behind", s.step, f"behind: {behind_goal} ({peers})", numbers)
    return Verdict("stalled", s.step, f"{_stall(s, sign)}: {behind_goal} ({peers})", numbers)


def _paused(place: Place, steps: Array, losses: Array, sign: float) -> Verdict:
    """Why a trial does not go on from a rung: too few have come there, or too many are ahead."""
    s, here = signals(steps, losses), place.here
    numbers = _course(s, steps, losses, sign) | {
        "rank": float(place.rank),
        "n_peers": float(here.of - 1),
        "depth": here.depth,
        "correlation": here.correlation,
    }
    stands = f"{_place(place.rank)} of {here.of:,} at {place.share:.0%} of its run"
    if here.waits:
        text = f"waits: {stands}, goes on when all have come there or fallen behind"
        return Verdict(WAITS_RULE, s.step, text, numbers)
    known = (
        "as the leaders so far have moved" if here.is_measured else "which is assumed, not measured"
    )
    text = (
        f"{stands}, where those that end best are expected among the first {int(here.depth)} "
        f"(standing there correlates {here.correlation:.2f} with the end, {known})"
    )
    if s.stalled_since is None:
        return Verdict("behind", s.step, f"behind: {text}", numbers)
    return Verdict("stalled", s.step, f"{_stall(s, sign)}: {text}", numbers)


def _place(rank: int) -> str:
    """In words: best, 2nd best, 3rd best, ..."""
    return "best" if rank == 1 else f"{ordinal(rank)} best"
