"""What ending trials early saved, and how often it was wrong."""

import dataclasses
import math
from collections.abc import Callable

import pandas as pd
import pytest

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


def test_wrong_is_among_the_best_tenth(made_sweep: Make) -> None:
    """Of 20 completed trials the best 2 were wrong to end; the interval is Wilson's, worked out by
    hand.
    """
    found = pruning(held_out(made_sweep, [float(i) for i in range(20)], [0, 5, 9, 19]))
    assert found.good_rank == 2
    assert (found.n_wrong, len(found.held_out)) == (1, 4)
    assert found.held_out["rank"].tolist() == [1, 6, 10, 20]
    z, p, n = 1.959964, 0.25, 4
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert (found.wrong_low, found.wrong_high) == pytest.approx(
        (middle - half, middle + half), abs=1e-6
    )
    assert "1 finished among the best 2: wrong in 25% (95 % interval 5% to 70%)" in " ".join(
        found.sentences()
    )


def test_ended_trials_count_among_all(made_sweep: Make) -> None:
    """The best tenth is of all trials: 4 of 12 that were ended make it the best 2 of the 8 that
    completed.
    """
    what = held_out(made_sweep, [float(i) for i in range(12)], [1, 2])
    trials = what.trials.assign(state=["complete"] * 8 + ["pruned"] * 4)
    found = pruning(dataclasses.replace(what, trials=trials))
    assert found.good_rank == 2
    assert found.held_out["wrong"].tolist() == [True, False]


def test_direction_decides_who_is_best(made_sweep: Make) -> None:
    """Where larger is better, ending the trial with the largest value was wrong."""
    found = pruning(held_out(made_sweep, [float(i) for i in range(5)], [0, 4], "maximize"))
    assert found.held_out["wrong"].tolist() == [False, True]


def test_saved_is_what_was_not_run(made_sweep: Make) -> None:
    """One of two trials planned for 100 steps ended at 30: 35 % of the planned steps were saved."""
    what = made_sweep(2)
    trials = what.trials.assign(
        state=["complete", "pruned"], steps=[100, 30], n_steps=[100.0, math.nan]
    )
    found = pruning(dataclasses.replace(what, trials=trials))
    assert found.saved_share == pytest.approx(0.35)
    assert "saved 35% of the steps" in found.sentences()[0]


def test_without_an_audit_it_says_that_it_does_not_know(made_sweep: Make) -> None:
    """No held_out trial: no rate of error is claimed. No trial ended: nothing is said. No trial at
    all: neither.
    """
    assert "not known" in pruning(made_sweep(12)).sentences()[-1]
    assert pruning(made_sweep(4, state="complete")).sentences() == []
    assert pruning(dataclasses.replace(made_sweep(1), trials=pd.DataFrame())).sentences() == []
