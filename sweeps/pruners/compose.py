"""Pruners made of pruners: any of, all of, not before, not too often, and the holdout.

All pass verdicts through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.holdout import BEST_PER_CUBE_ROOT, goal_rank
from iolaus.sweeps.pruners.curve_pruner import (
    NO_PLAN,
    ByStudy,
    CurvePruner,
    StudyView,
    curve_pruner,
)
from iolaus.sweeps.pruners.divergence import DIVERGED_RULE
from iolaus.sweeps.pruners.peers import PeerOutcome
from iolaus.sweeps.signals import has_diverged
from iolaus.sweeps.types import WAITS_RULE, Plan, Verdict

__all__ = ["AllOf", "AnyOf", "Holdout", "Interval", "WarmUp", "parts"]

# The first trial that a holdout lets run on is one of the first so many that were to be ended.
FIRST_HELD_OUT = 3
NEVER_HELD_OUT = frozenset((DIVERGED_RULE, WAITS_RULE))


class _Combination(CurvePruner):
    """Passes on to all its pruners what it is told."""

    def __init__(self, pruners: Sequence[BasePruner]) -> None:
        self._pruners = tuple(curve_pruner(pruner) for pruner in pruners)

    def start(self, view: StudyView) -> None:
        """See CurvePruner."""
        super().start(view)
        for pruner in self._pruners:
            pruner.start(view)

    def learn(self, trial: int, step: int, loss: float, plan: Plan = NO_PLAN) -> None:
        """See CurvePruner."""
        for pruner in self._pruners:
            pruner.learn(trial, step, loss, plan)

    def finished(self, trial: int, outcome: PeerOutcome) -> None:
        """See CurvePruner."""
        for pruner in self._pruners:
            pruner.finished(trial, outcome)

    def paused(self, trial: int) -> None:
        """See CurvePruner."""
        for pruner in self._pruners:
            pruner.paused(trial)

    def thaw(self, paused: Mapping[int, float], last_call: bool = False) -> int | None:
        """The first choice of any of its pruners, in their order."""
        thawed = (pruner.thaw(paused, last_call) for pruner in self._pruners)
        return next((trial for trial in thawed if trial is not None), None)

    def resumed(self, trial: int) -> None:
        """See CurvePruner."""
        for pruner in self._pruners:
            pruner.resumed(trial)

    def held_out(self, n_wrong: int, n_finished: int) -> None:
        """See CurvePruner."""
        for pruner in self._pruners:
            pruner.held_out(n_wrong, n_finished)


class AnyOf(_Combination):
    """Ends a trial when one of the pruners would; the first verdict in their order.

    All are asked at every report.

    >>> limit = optuna.pruners.ThresholdPruner(upper=10)
    >>> pruner = iolaus.AnyOf([iolaus.StalledLoss(n_steps=100), limit])
    >>> study = optuna.create_study(pruner=pruner)
    >>> trial = study.ask()
    >>> trial.report(11.0, step=3)
    >>> trial.should_prune(), study.trials[0].user_attrs["verdict_rule"]
    (True, 'ThresholdPruner')
    """

    def __init__(self, pruners: Sequence[BasePruner]) -> None:
        super().__init__(_at_least_one("AnyOf", pruners))

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        """The first verdict, or None."""
        verdicts = [pruner.observe(trial, step, loss, plan) for pruner in self._pruners]
        return next((v for v in verdicts if v is not None), None)


class AllOf(_Combination):
    """Ends a trial when all of the pruners would at the same report; their reasons are joined.

    All are asked.

    >>> limits = [optuna.pruners.ThresholdPruner(upper=upper) for upper in (10, 20)]
    >>> trial = optuna.create_study(pruner=iolaus.AllOf(limits)).ask()
    >>> for step, loss in enumerate((11.0, 21.0)):
    ...     trial.report(loss, step)
    ...     print(trial.should_prune())
    False
    True
    """

    def __init__(self, pruners: Sequence[BasePruner]) -> None:
        super().__init__(_at_least_one("AllOf", pruners))

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        """One verdict for all, or None.

        Where pruners give the same number, the first one's is kept.
        """
        asked = [pruner.observe(trial, step, loss, plan) for pruner in self._pruners]
        verdicts = [v for v in asked if v is not None]
        if len(verdicts) < len(self._pruners):
            return None
        numbers = {name: value for v in reversed(verdicts) for name, value in v.numbers.items()}
        rule, reason = "+".join(v.rule for v in verdicts), "; and ".join(v.reason for v in verdicts)
        return Verdict(rule, verdicts[0].step, reason, numbers)


class WarmUp(_Combination):
    """Does not ask the pruner before step n_steps, unless the value is not finite.

    >>> limit = optuna.pruners.ThresholdPruner(upper=10)
    >>> trial = optuna.create_study(pruner=iolaus.WarmUp(limit, n_steps=100)).ask()
    >>> for step in (99, 100):
    ...     trial.report(11.0, step)
    ...     print(trial.should_prune())
    False
    True
    """

    def __init__(self, pruner: BasePruner, n_steps: int) -> None:
        if n_steps < 0:
            raise ValueError(
                f"WarmUp: n_steps={n_steps}; give the first step at which a trial may end, 0 or "
                "later"
            )
        super().__init__([pruner])
        self._n_steps = n_steps

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        """The pruner's verdict from step n_steps on."""
        (pruner,) = self._pruners
        if step >= self._n_steps or has_diverged(loss):
            return pruner.observe(trial, step, loss, plan)
        pruner.learn(trial, step, loss, plan)
        return None


class Interval(_Combination):
    """Asks the pruner once per `interval_steps` steps.

    It asks at the first report in them, and at any that is not finite.

    >>> limit = optuna.pruners.ThresholdPruner(upper=10)
    >>> trial = optuna.create_study(pruner=iolaus.Interval(limit, interval_steps=100)).ask()
    >>> for step, loss in ((0, 1.0), (50, 11.0), (100, 11.0)):
    ...     trial.report(loss, step)
    ...     print(trial.should_prune())
    False
    False
    True
    """

    def __init__(self, pruner: BasePruner, interval_steps: int) -> None:
        if interval_steps < 1:
            raise ValueError(f"Interval: interval_steps={interval_steps}; give at least 1")
        super().__init__([pruner])
        self._interval_steps = interval_steps
        self._last: dict[int, tuple[int, int]] = {}  # trial -> steps of its last two reports

    def start(self, view: StudyView) -> None:
        """See CurvePruner."""
        super().start(view)
        self._last = {}

    def finished(self, trial: int, outcome: PeerOutcome) -> None:
        """See CurvePruner."""
        super().finished(trial, outcome)
        self._last.pop(trial, None)

    def learn(self, trial: int, step: int, loss: float, plan: Plan = NO_PLAN) -> None:
        """See CurvePruner."""
        self._before(trial, step)
        super().learn(trial, step, loss, plan)

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        """The pruner's verdict at the first report of an interval."""
        before = self._before(trial, step)
        first = before < 0 or before // self._interval_steps < step // self._interval_steps
        (pruner,) = self._pruners
        if first or has_diverged(loss):
            return pruner.observe(trial, step, loss, plan)
        pruner.learn(trial, step, loss, plan)
        return None

    def _before(self, trial: int, step: int) -> int:
        """The step of the report before this one, -1 if it is the first."""
        before, last = self._last.get(trial, (-1, -1))
        if step > last:
            before = last
            self._last[trial] = before, step
        return before


class Holdout(_Combination):
    """Lets a share of the trials that the pruner would end run on, to count how often it was wrong.

    holdout_fraction: in [0, 1]. Of each 1 / holdout_fraction trials to be ended one is drawn by the
    seed, the first of all from the first FIRST_HELD_OUT, so that small sweeps have one too. The
    verdict on it is kept in its user attributes `held_out` (the reason) and `held_out_step`;
    afterwards the pruner is asked no more, unless the loss is not finite. Trials that diverged are
    not held out. Which trials have been ended or held out before is read from the study. When one
    of them has finished among the best so far (`goal_rank` of all trials, by their lowest loss),
    ending it would have been wrong: the pruner is told how often, and may become more cautious.
    `iolaus.sweeps.holdout` counts it at the end of a sweep.

    >>> limit = optuna.pruners.ThresholdPruner(upper=10)
    >>> study = optuna.create_study(pruner=iolaus.Holdout(limit, holdout_fraction=1.0))
    >>> trial = study.ask()
    >>> trial.report(11.0, step=3)
    >>> trial.should_prune(), study.trials[0].user_attrs["held_out_step"]
    (False, 3)
    """

    def __init__(self, pruner: BasePruner, holdout_fraction: float = 0.03, seed: int = 0) -> None:
        if not 0 <= holdout_fraction <= 1:
            raise ValueError(
                f"Holdout: holdout_fraction={holdout_fraction}; give a share between 0 and 1, such "
                "as 0.03"
            )
        super().__init__([pruner])
        self._fraction, self._seed = holdout_fraction, seed
        self._forget()

    def _forget(self) -> None:
        self._held_out: set[int] = set()
        self._ended: set[int] = set()
        self._best: dict[int, float] = {}  # the lowest loss of each trial
        self._ran_on: set[int] = set()  # trials that were held out and have finished

    def start(self, view: StudyView) -> None:
        """See CurvePruner."""
        super().start(view)
        self._forget()
        for trial in view.study.get_trials(deepcopy=False):
            self._count(trial)

    def finished(self, trial: int, outcome: PeerOutcome) -> None:
        """See CurvePruner."""
        super().finished(trial, outcome)
        if self._view is not None and trial not in self._ended:
            self._count(self._view.trial(trial))  # another driver may have run it
        if outcome is PeerOutcome.COMPLETE and trial in self._held_out:
            self._ran_on.add(trial)
        if outcome is PeerOutcome.COMPLETE and self._ran_on:
            rank = goal_rank(len(self._best), BEST_PER_CUBE_ROOT)
            goal = sorted(self._best.values())[rank - 1] if self._best else -math.inf
            n_wrong = sum(self._best.get(one, math.inf) <= goal for one in self._ran_on)
            self.held_out(n_wrong, len(self._ran_on))

    def learn(self, trial: int, step: int, loss: float, plan: Plan = NO_PLAN) -> None:
        """See CurvePruner."""
        self._keep(trial, loss)
        super().learn(trial, step, loss, plan)

    def _keep(self, trial: int, loss: float) -> None:
        best = self._best.setdefault(trial, math.inf)
        self._best[trial] = best if has_diverged(loss) else min(best, loss)

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        """The pruner's verdict, or None for a trial that is held out, which is marked."""
        self._keep(trial, loss)
        (pruner,) = self._pruners
        if trial in self._held_out and not has_diverged(loss):
            pruner.learn(trial, step, loss, plan)
            return None
        verdict = pruner.observe(trial, step, loss, plan)
        if verdict is None or has_diverged(loss) or verdict.rule in NEVER_HELD_OUT:
            return verdict
        if trial in self._ended:
            return verdict
        if not self._is_drawn(len(self._ended) + len(self._held_out)):
            self._ended.add(trial)
            return verdict
        self._held_out.add(trial)
        if self._view is not None:
            live = self._view.trial(trial)
            compat.set_user_attr(self._view.study, live, "held_out", verdict.reason)
            compat.set_user_attr(self._view.study, live, "held_out_step", verdict.step)
        return None

    def _is_drawn(self, n_before: int) -> bool:
        """Whether the trial to be ended after so many others is held out."""
        blocks = {int(n_before * self._fraction), int((n_before + 1) * self._fraction)}
        return self._fraction > 0 and n_before in map(self._place, blocks)

    def _place(self, block: int) -> int:
        length = 1 / self._fraction
        drawn = np.random.default_rng([self._seed, block]).random()
        return int(block * length + drawn * (length if block else min(length, FIRST_HELD_OUT)))

    def _count(self, trial: FrozenTrial) -> None:
        if "held_out" in trial.user_attrs:
            self._held_out.add(trial.number)
        elif trial.user_attrs.get("verdict_rule", DIVERGED_RULE) not in NEVER_HELD_OUT:
            self._ended.add(trial.number)


def parts(pruner: BasePruner) -> Iterator[BasePruner]:
    """The pruners that a combination asks in the end.

    A pruner that is none of those here is its own only part.
    """
    if isinstance(pruner, _Combination):
        for one in pruner._pruners:
            yield from parts(one)
    else:
        yield pruner.pruner if isinstance(pruner, ByStudy) else pruner


def _at_least_one(name: str, pruners: Sequence[BasePruner]) -> tuple[BasePruner, ...]:
    if isinstance(pruners, BasePruner) or not len(pruners):
        raise ValueError(f"{name}: give a list of at least one pruner; got {pruners!r}")
    return tuple(pruners)
