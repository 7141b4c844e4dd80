"""What every pruner promises, seen from plain `study.optimize`."""

from __future__ import annotations

import math
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from iolaus.sweeps.pruners import VerdictPruner
from iolaus.sweeps.types import Plan

__all__ = ["PrunerContract"]

N_STEPS = 50
N_TRIALS = 12

Curves = Sequence[Sequence[float]]
Direction = Literal["minimize", "maximize"]
DIRECTIONS: tuple[Direction, ...] = ("minimize", "maximize")


class PrunerContract(ABC):
    """Subclass it as `TestMyPruner` and give `make_pruner`.

    Every trial here has N_STEPS steps from 0 and says so (user attribute `n_steps`). What a pruner
    may choose for itself is a class attribute: ends_diverged, whether a report of NaN or infinity
    ends its trial at once; ends_last_step, whether a trial may still be ended at the last step that
    it had announced; mirrors, whether negated values in a study that maximises are treated as the
    values themselves in one that minimises (a fixed threshold does not).
    """

    ends_diverged: ClassVar[bool] = True
    ends_last_step: ClassVar[bool] = False
    mirrors: ClassVar[bool] = True

    @abstractmethod
    def make_pruner(self) -> BasePruner:
        """A new pruner for trials of N_STEPS steps, always with the same settings."""

    def test_the_best_of_clearly_ordered_trials_completes(self) -> None:
        """A pruner that ends the winner of curves that never cross is of no use."""
        for direction in DIRECTIONS if self.mirrors else DIRECTIONS[:1]:
            study = optimize(self.make_pruner(), ordered(), direction)
            best = int(np.argmin([curve[-1] for curve in ordered()]))
            state = study.trials[best].state
            assert state is TrialState.COMPLETE, f"{direction}: trial {best}, the best, was {state}"

    def test_directions_are_mirrors(self) -> None:
        """Negated values, maximised, end the same trials at the same steps."""
        if not self.mirrors:
            return
        down, up = (optimize(self.make_pruner(), ordered(), d) for d in DIRECTIONS)
        assert ends(down) == ends(up), f"minimising {ends(down)}, maximising {ends(up)}"

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_diverged_trial_ends_as_promised(self, bad: float) -> None:
        """At the report that is not finite if ends_diverged says so; never with an exception."""
        curve = [*ordered()[0][:7], bad, *ordered()[0][8:]]
        trial = optimize(self.make_pruner(), [curve]).trials[0]
        at_once = trial.state is TrialState.PRUNED and trial.last_step == 7
        assert at_once or not self.ends_diverged, (
            f"loss {bad} at step 7 must end the trial there (ends_diverged = True); "
            f"it was {trial.state.name} at step {trial.last_step}"
        )

    def test_constant_losses_are_no_accident(self) -> None:
        """Trials that never move, all at one value, raise nothing and warn of nothing."""
        study = optimize(self.make_pruner(), [[0.5] * N_STEPS] * N_TRIALS)
        assert len(study.trials) == N_TRIALS

    def test_losses_of_any_size_are_no_accident(self) -> None:
        """Huge and tiny losses are judged without an exception or a warning."""
        for factor in (1e200, 1e-200):
            optimize(self.make_pruner(), [[factor * v for v in curve] for curve in ordered()])

    def test_one_report_each_is_no_accident(self) -> None:
        """Trials of a single report are judged without an exception, the first of a study too."""
        study = optimize(self.make_pruner(), [[float(i)] for i in range(N_TRIALS)])
        assert all(trial.last_step == 0 for trial in study.trials)

    def test_a_trial_without_a_report_goes_on(self) -> None:
        """In an empty study, before its first report, nothing is known that could end a trial."""
        trial = optuna.create_study(pruner=self.make_pruner()).ask()
        assert not trial.should_prune(), "a trial that has not reported was ended"

    def test_the_last_step_is_as_promised(self) -> None:
        """A trial whose budget is spent is not ended for the want of a result, unless said so."""
        if self.ends_last_step:
            return
        pruned = [
            trial.number
            for trial in optimize(self.make_pruner(), ordered()).trials
            if trial.state is TrialState.PRUNED and trial.last_step == N_STEPS - 1
        ]
        assert not pruned, f"trials {pruned} were ended at step {N_STEPS - 1}, their announced last"

    def test_steps_may_begin_anywhere_and_skip(self) -> None:
        """Reports need not come at every step, nor from step 0."""
        study = optuna.create_study(pruner=self.make_pruner())
        for curve in ordered():
            trial = study.ask()
            trial.set_user_attr(Plan.N_STEPS_ATTR, 1000 * N_STEPS)
            for step, value in enumerate(curve):
                trial.report(value, 1000 * step + 17)
                trial.should_prune()
            study.tell(trial, curve[-1])

    def test_what_was_seen_in_one_study_does_not_count_in_the_next(self) -> None:
        """One pruner, asked by two studies one after the other, treats them alike."""
        pruner = self.make_pruner()
        first, second = (ends(optimize(pruner, ordered())) for _ in range(2))
        assert first == second, f"ended {first} in the first study, {second} in the second"

    def test_a_pickled_pruner_is_the_same_pruner(self) -> None:
        """It goes to other processes, and answers there from the study alone."""
        pruner = self.make_pruner()
        study = optimize(pruner, ordered())
        again = pickle.loads(pickle.dumps(pruner))
        for level in (-1.0, 0.5, 5.0):
            trial = study.ask()
            trial.set_user_attr(Plan.N_STEPS_ATTR, N_STEPS)
            for step in range(12):
                trial.report(level - 0.01 * step, step)
                frozen = study.trials[trial.number]
                answers = pruner.prune(study, frozen), again.prune(study, frozen)
                assert answers[0] == answers[1], (
                    f"trial at {level}, step {step}: {answers[0]} before, {answers[1]} after pickle"
                )
            study.tell(trial, state=TrialState.FAIL)

    def test_threads_share_a_pruner(self) -> None:
        """With study.optimize(n_jobs=4) every trial ends, and none by an exception."""
        failures: list[BaseException] = []
        before, threading.excepthook = threading.excepthook, lambda e: failures.append(e.exc_value)  # type: ignore[arg-type]
        try:
            study = optimize(self.make_pruner(), ordered(), n_jobs=4)
        finally:
            threading.excepthook = before
        states = [trial.state for trial in study.trials]
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        assert not failures
        assert all(state in ended for state in states), f"trials ended {states}"

    def test_who_is_ended_is_told_why(self) -> None:
        """A pruner of ours leaves reason, rule and step with the trials it ends, and only those."""
        if not isinstance(self.make_pruner(), VerdictPruner):
            return  # `verdict_of` finds a reason for it
        for trial in optimize(self.make_pruner(), ordered()).trials:
            reason = trial.user_attrs.get("verdict")
            if trial.state is TrialState.PRUNED:
                assert reason, f"trial {trial.number} was ended without a reason"
                assert "\n" not in reason, f"trial {trial.number}: a reason is one line"
                assert trial.user_attrs["verdict_rule"], f"trial {trial.number}: no rule"
                assert trial.user_attrs["verdict_step"] == trial.last_step
            else:
                assert reason is None, f"trial {trial.number} went on, with a verdict: {reason}"


def ordered() -> list[list[float]]:
    """Losses [trial][step] that fall to floors of their own and never cross; best in the middle.

    Noise is a hundredth of the distance between neighbours.
    """
    rng = np.random.default_rng(0)
    floors = np.roll(np.linspace(0, 1.5, N_TRIALS), N_TRIALS // 2)
    fall = np.exp(-np.arange(N_STEPS) / 8)
    return [list(floor + fall + 1e-3 * rng.normal(size=N_STEPS)) for floor in floors]


def optimize(
    pruner: BasePruner, curves: Curves, direction: Direction = "minimize", n_jobs: int = 1
) -> optuna.Study:
    """A study of one trial per curve, as a user of plain Optuna writes it.

    direction maximize: of the negated values. A trial that was ended has no value.
    """
    sign = 1.0 if direction == "minimize" else -1.0

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr(Plan.N_STEPS_ATTR, len(curves[trial.number]))
        for step, value in enumerate(curves[trial.number]):
            trial.report(sign * value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * curves[trial.number][-1]

    # Hyperband draws its brackets from the study's name.
    study = optuna.create_study(pruner=pruner, direction=direction, study_name="contract")
    study.optimize(objective, n_trials=len(curves), n_jobs=n_jobs)
    return study


def ends(study: optuna.Study) -> list[int | None]:
    """The step at which each trial was ended, None for those that completed."""
    return [t.last_step if t.state is TrialState.PRUNED else None for t in study.trials]
