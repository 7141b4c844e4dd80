"""Our pruners keep the contract of pruners, and the contract notices those that do not."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from iolaus.sweeps.pruners import (
    AllOf,
    AnyOf,
    Holdout,
    Interval,
    StalledLoss,
    VerdictPruner,
    WarmUp,
)
from iolaus.sweeps.types import Verdict
from iolaus.testing import PrunerContract

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestStalledLoss(PrunerContract):
    def make_pruner(self) -> BasePruner:
        return StalledLoss()


class TestStalledLossOfKnownLength(PrunerContract):
    def make_pruner(self) -> BasePruner:
        return StalledLoss(n_steps=50, caution=2)


class TestAnyOf(PrunerContract):
    ends_last_step = True  # the median compares there, too

    def make_pruner(self) -> BasePruner:
        return AnyOf([StalledLoss(), optuna.pruners.MedianPruner()])


class TestAllOf(PrunerContract):
    ends_diverged = False  # the median has no finished trials to compare with

    def make_pruner(self) -> BasePruner:
        return AllOf([StalledLoss(), optuna.pruners.MedianPruner()])


class TestWarmUp(PrunerContract):
    def make_pruner(self) -> BasePruner:
        return WarmUp(StalledLoss(), 10)


class TestInterval(PrunerContract):
    def make_pruner(self) -> BasePruner:
        return Interval(StalledLoss(), 7)


class TestHoldout(PrunerContract):
    def make_pruner(self) -> BasePruner:
        return Holdout(StalledLoss(), 0.5)


class TestMedian(PrunerContract):
    """Optuna's own, as anyone may configure it."""

    ends_diverged, ends_last_step = False, True

    def make_pruner(self) -> BasePruner:
        return optuna.pruners.MedianPruner()


class Forgetful(VerdictPruner):
    """Breaks the contract: what it has seen in one study decides in the next."""

    def __init__(self) -> None:
        self.n_asked = 0

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        self.n_asked += 1
        step = trial.last_step
        return Verdict("late", step, "asked often") if step and self.n_asked > 300 else None


class Shy(BasePruner):
    """Breaks the contract: its copy in another process has lost its setting."""

    def __init__(self, limit: float = 0.0) -> None:
        self.limit = limit

    def __reduce__(self) -> tuple[type[Shy], tuple[()]]:
        return Shy, ()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return any(value > self.limit for value in trial.intermediate_values.values())


class Late(BasePruner):
    """Breaks the contract: ends trials that are done."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.last_step == 49


class Everything(BasePruner):
    """Breaks the contract: ends every trial."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return True


class OneWay(BasePruner):
    """Breaks the contract: takes every value for a loss."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        done = [t.value for t in study.get_trials(states=[optuna.trial.TrialState.COMPLETE])]
        step = trial.last_step
        return step == 40 and bool(done) and trial.intermediate_values[step] > min(done)


class Wordless(VerdictPruner):
    """Breaks the contract: ends trials and leaves no reason."""

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        return None

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.last_step == 10 and trial.number == 3


@pytest.mark.parametrize(
    ("make", "test"),
    [
        (Forgetful, PrunerContract.test_what_was_seen_in_one_study_does_not_count_in_the_next),
        (lambda: Shy(2.0), PrunerContract.test_a_pickled_pruner_is_the_same_pruner),
        (Everything, PrunerContract.test_the_best_of_clearly_ordered_trials_completes),
        (Everything, PrunerContract.test_a_trial_without_a_report_goes_on),
        (OneWay, PrunerContract.test_directions_are_mirrors),
        (Late, PrunerContract.test_the_last_step_is_as_promised),
        (
            optuna.pruners.NopPruner,
            lambda contract: contract.test_a_diverged_trial_ends_as_promised(float("nan")),
        ),
        (Wordless, PrunerContract.test_who_is_ended_is_told_why),
    ],
)
def test_what_breaks_the_contract_is_noticed(
    make: Callable[[], BasePruner], test: Callable[[PrunerContract], None]
) -> None:
    """Each promise fails for a pruner that does not keep it."""

    class Contract(PrunerContract):
        def make_pruner(self) -> BasePruner:
            return make()

    with pytest.raises(AssertionError):
        test(Contract())
