"""Pruners that are given values as they come, and how a study is turned into such values.

A driver that has the values calls `start` once, then `observe` at each report and `finished` at
each end. In plain Optuna nobody does: there `prune(study, trial)` finds what is new in the study.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.pruners.peers import PeerOutcome
from iolaus.sweeps.pruners.verdicts import VerdictPruner, plan_of, verdict_of
from iolaus.sweeps.types import Plan, Verdict

__all__ = ["NO_PLAN", "ByStudy", "CurvePruner", "StudyFeed", "StudyView", "curve_pruner", "sign_of"]

NO_PLAN = Plan()
OUTCOMES = {
    TrialState.COMPLETE: PeerOutcome.COMPLETE,
    TrialState.PRUNED: PeerOutcome.STOPPED,
    TrialState.FAIL: PeerOutcome.LOST,
}


@dataclass(frozen=True, slots=True)
class StudyView:
    """The study behind the values, for pruners that need more than a curve.

    study: as Optuna's own pruners shall see it. trial: a trial as it is now, by its number; not to
    be changed. sign: a loss is sign * the value in the study; -1 where larger is better. pauses:
    whether trials that are stopped may go on later.
    """

    study: optuna.Study
    trial: Callable[[int], FrozenTrial]
    sign: float = 1.0
    pauses: bool = False


class CurvePruner(VerdictPruner):
    """A pruner that is given losses as they come and keeps what it needs of them.

    Override `observe`; also `learn`, `finished` and `start` if it compares a report with others;
    `paused`, `thaw` and `resumed` if trials that it stopped may come back; `held_out` if it grows
    more cautious where it was wrong. A trial that is never
    thawed is also told as finished, STOPPED, at the end of the sweep.
    Losses are smaller when better, a trial's steps rise. A copy or pickle forgets what was seen.
    """

    _feed: StudyFeed | None = None
    _view: StudyView | None = None

    @abc.abstractmethod
    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        """Take a trial's next loss; why the trial should end here, or None if it may go on.

        The step of the last loss may come again: it is a question, not another loss.
        """

    def learn(self, trial: int, step: int, loss: float, plan: Plan = NO_PLAN) -> None:
        """Take a trial's next loss that nobody asks about: a past one, or between two questions."""

    def finished(self, trial: int, outcome: PeerOutcome) -> None:
        """Take the end of a trial; one that never reported may end too."""

    def paused(self, trial: int) -> None:
        """Take that a trial was stopped and may come back."""
        self.finished(trial, PeerOutcome.STOPPED)

    def thaw(self, paused: Mapping[int, float], last_call: bool = False) -> int | None:  # noqa: ARG002
        """Which of the paused trials should go on now that more is known, or None.

        paused: for each, the share of its run that would have to be made again; 0.0 where its
            checkpoint is where it stopped.
        last_call: a slot would fall idle otherwise, the sweep has no new setting left.
        """
        return None

    def resumed(self, trial: int) -> None:
        """Take that a paused trial goes on; steps that it reports again are ignored."""

    def held_out(self, n_wrong: int, n_finished: int) -> None:
        """Take how often stopping was wrong, of trials that a holdout let run to their end."""

    def start(self, view: StudyView) -> None:
        """Begin with a study. What was seen in another is forgotten."""
        self._view = view

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """Why the trial should end at its last report, or None, from what is new in the study."""
        if self._feed is None:
            self._feed = StudyFeed(self)
        return self._feed.verdict(study, trial)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_feed", "_view")}


class ByStudy(CurvePruner):
    """Any other pruner, such as Optuna's own, asked about the trial as the study has it now."""

    def __init__(self, pruner: BasePruner) -> None:
        self.pruner = pruner

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:  # noqa: ARG002
        """The pruner's verdict on the study's own values. Needs `start` before (RuntimeError)."""
        if self._view is None:
            raise RuntimeError(
                f"{type(self.pruner).__name__} looks into a study, got none: call start first"
            )
        return verdict_of(self.pruner, self._view.study, self._view.trial(trial))


def curve_pruner(pruner: BasePruner) -> CurvePruner:
    """The pruner itself, or a `ByStudy` around one that cannot be given values as they come."""
    return pruner if isinstance(pruner, CurvePruner) else ByStudy(pruner)


class StudyFeed:
    """Tells a pruner what is new in a study: the one way from stored trials to losses as they come.

    A finished trial never changes, so it is looked at once; a paused one may go on. Within a trial,
    a value at or before the last step that was told is not told any more.
    """

    def __init__(self, pruner: CurvePruner) -> None:
        self._pruner = pruner
        self._view: StudyView | None = None
        self._asked: FrozenTrial | None = None
        self._n_known = 0
        self._unfinished: set[int] = set()
        self._paused: set[int] = set()
        self._n_seen: dict[int, int] = {}
        self._last_step: dict[int, int] = {}
        self._lock = threading.Lock()  # study.optimize(n_jobs=...) calls from several threads

    def start(self, view: StudyView) -> None:
        """Begin with a study, of which nothing is known yet."""
        self._view, self._n_known, self._unfinished, self._paused = view, 0, set(), set()
        self._n_seen, self._last_step = {}, {}
        self._pruner.start(view)

    def learn(self, trials: Sequence[FrozenTrial], but: Container[int] = ()) -> None:
        """Tell what is new in the trials of the study, all by number, but for some.

        First their losses: how a trial that is over stood may depend on those of all others.
        """
        self._unfinished.update(range(self._n_known, len(trials)))
        numbers = [number for number in sorted(self._unfinished) if number not in but]
        for number in numbers:
            trial = trials[number]
            if len(trial.intermediate_values) != self._n_seen.get(number, 0):
                for step, loss in self._new_losses(trial):
                    self._pruner.learn(number, step, loss, plan_of(trial))
        for number in numbers:
            trial = trials[number]
            if compat.is_paused(trial):
                if number not in self._paused:
                    self._paused.add(number)
                    self._pruner.paused(number)
            elif trial.state.is_finished():
                self._unfinished.discard(number)
                self._paused.discard(number)
                self._n_seen.pop(number, None)
                self._pruner.finished(number, OUTCOMES[trial.state])
            else:
                self.resumed(number)
        self._n_known = len(trials)

    def thaw(self, paused: Mapping[int, float], last_call: bool) -> int | None:
        """Which of the paused trials should go on, see `CurvePruner.thaw`."""
        return self._pruner.thaw(paused, last_call)

    def resumed(self, number: int) -> None:
        """A trial runs; the pruner is told so if it was paused."""
        if number in self._paused:
            self._paused.discard(number)
            self._pruner.resumed(number)

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        """Pass on a loss that came by another way than the study, where it is not told again."""
        self._last_step[trial] = step
        return self._pruner.observe(trial, step, loss, plan)

    def goes_on(self, trial: FrozenTrial) -> None:
        """A trial that was cut off has only these values now; what it said beyond is no peer."""
        self._n_seen.pop(trial.number, None)
        if self._last_step.pop(trial.number, None) is not None:
            self._pruner.finished(trial.number, PeerOutcome.LOST)
        for step, loss in self._new_losses(trial):
            self._pruner.learn(trial.number, step, loss, plan_of(trial))

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """The verdict on a trial's last report."""
        last = trial.last_step
        if last is None:
            return None
        with self._lock:
            self._asked = trial
            if self._view is None or not _is_same(self._view.study, study):
                self.start(StudyView(study, self._trial, sign_of(study)))
            self.learn(study.get_trials(deepcopy=False), but=(trial.number,))
            for step, loss in self._new_losses(trial)[:-1]:
                self._pruner.learn(trial.number, step, loss, plan_of(trial))
            loss = sign_of(study) * trial.intermediate_values[last]
            return self._pruner.observe(trial.number, last, loss, plan_of(trial))

    def _trial(self, number: int) -> FrozenTrial:
        if self._asked is not None and self._asked.number == number:
            return self._asked
        assert self._view is not None
        return self._view.study.get_trials(deepcopy=False)[number]

    def _new_losses(self, trial: FrozenTrial) -> list[tuple[int, float]]:
        assert self._view is not None
        after = self._last_step.get(trial.number, -1)
        new = sorted((s, v) for s, v in trial.intermediate_values.items() if s > after)
        self._n_seen[trial.number] = len(trial.intermediate_values)
        if new:
            self._last_step[trial.number] = new[-1][0]
        return [(step, self._view.sign * value) for step, value in new]


def sign_of(study: optuna.Study) -> float:
    """What makes a study's reported values losses; those of a study of several objectives are."""
    return -1.0 if study.directions == [StudyDirection.MAXIMIZE] else 1.0


def _is_same(a: optuna.Study, b: optuna.Study) -> bool:
    return compat.storage_of(a) is compat.storage_of(b) and (  # names are no identity
        compat.study_id(a) == compat.study_id(b)
    )
