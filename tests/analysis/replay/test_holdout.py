"""What ending trials early saved, and how often it was wrong."""

import dataclasses
import math
from collections.abc import Callable

import pandas as pd
import pytest
from scipy.stats import binomtest

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.replay.holdout import pruning

Make = Callable[..., Sweep]


def held_out(
    make: Make, objective: list[float], held_out: list[int], direction: str = "minimize"
) -> Sweep:
    """Completed trials with these objectives, some of them held_out at step 100."""
    what = make(len(objective), state="complete", direction=direction)
    at = [100.0 if number in held_out else math.nan for number in what.trials.index]
    return dataclasses.replace(
        what, trials=what.trials.assign(objective=objective, held_out_step=at)
    )


def test_wrong_is_among_the_best_that_the_goal_asks_for(made_sweep: Make) -> None:
    """Of 20 trials the goal is the 4th best: those held out at the ranks 1, 6, 10 and 20 were
    wrongly to be ended once, and the sentence says no more than that.
    """
    found = pruning(held_out(made_sweep, [float(i) for i in range(20)], [0, 5, 9, 19]))
    assert found.holdout.goal_rank == 4
    assert [(one.trial, one.step, one.rank) for one in found.holdout.finished] == [
        (0, 100, 1),
        (5, 100, 6),
        (9, 100, 10),
        (19, 100, 20),
    ]
    low, high = binomtest(1, 4).proportion_ci(method="exact")
    assert found.holdout.interval == pytest.approx((low, high), abs=1e-9)
    assert found.sentences()[-1] == (
        "4 trials that were to be stopped ran on; they ended 1st, 6th, 10th and 20th of 20, 1 of "
        "them among the best 4: stopping was wrong in 1 of 4 (95 %: 1 to 81 %)."
    )


def test_the_goal_is_that_of_the_sweeps_own_caution(made_sweep: Make) -> None:
    """Twice the caution aims at twice as many: the 6th of 20 is then among the best 7."""
    what = held_out(made_sweep, [float(i) for i in range(20)], [5])
    cautious = {"hydra": {"sweeper": {"pruner": {"caution": 2}}}}
    assert pruning(what).holdout.n_wrong == 0
    found = pruning(dataclasses.replace(what, config=cautious)).holdout
    assert (found.goal_rank, found.n_wrong) == (7, 1)


def test_ranks_are_among_those_that_finished(made_sweep: Make) -> None:
    """Trials that were ended have no rank, though they count among the trials of the goal."""
    what = held_out(made_sweep, [float(i) for i in range(12)], [1, 2])
    trials = what.trials.assign(state=["complete"] * 8 + ["pruned"] * 4)
    found = pruning(dataclasses.replace(what, trials=trials)).holdout
    assert (found.goal_rank, found.n_finished) == (3, 8)
    assert [one.was_wrong for one in found.finished] == [True, True]


def test_direction_decides_who_is_best(made_sweep: Make) -> None:
    """Where larger is better, ending the trial with the largest value was wrong."""
    found = pruning(held_out(made_sweep, [float(i) for i in range(5)], [0, 4], "maximize"))
    assert [one.was_wrong for one in found.holdout.finished] == [False, True]


def test_saved_is_what_was_not_run(made_sweep: Make) -> None:
    """One of two trials planned for 100 steps ended at 30: 35 % of the planned steps were saved."""
    what = made_sweep(2)
    trials = what.trials.assign(
        state=["complete", "pruned"], steps=[100, 30], n_steps=[100.0, math.nan]
    )
    found = pruning(dataclasses.replace(what, trials=trials))
    assert found.saved_share == pytest.approx(0.35)
    assert "saved 35% of the steps" in found.sentences()[0]


def test_without_a_holdout_it_says_that_it_does_not_know(made_sweep: Make) -> None:
    """No held_out trial: no rate of error is claimed. No trial ended: nothing is said. No trial at
    all: neither.
    """
    assert "not known" in pruning(made_sweep(12)).sentences()[-1]
    assert pruning(made_sweep(4, state="complete")).sentences() == []
    assert pruning(dataclasses.replace(made_sweep(1), trials=pd.DataFrame())).sentences() == []
