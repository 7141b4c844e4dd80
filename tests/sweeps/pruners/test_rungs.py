"""Who goes on from a rung: depths from how leaders moved, waits, thaws."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from iolaus.analysis.replay._curves import Curve
from iolaus.analysis.replay.comparison import simulate
from iolaus.analysis.replay.rules import Stalled
from iolaus.sweeps.pruners.curve_pruner import StudyView
from iolaus.sweeps.pruners.rungs import COHORT, RUNGS, Rungs, _correlation_of
from iolaus.sweeps.pruners.stalled import StalledLoss, _paused
from iolaus.sweeps.types import Plan

N_STEPS = 64


def fill(losses, errors=2.0):
    """A table of trials [rung, trial] that have all come as far as there are rows."""
    rungs = Rungs(lambda n: max(2, min(10, math.ceil(0.1 * n))), errors)
    for trial in range(losses.shape[1]):
        for rung in range(losses.shape[0]):
            rungs.report(trial, RUNGS[rung], losses[rung, trial])
    return rungs


def pausing(**arguments) -> StalledLoss:
    pruner = StalledLoss(n_steps=N_STEPS, **arguments)
    study = optuna.create_study()
    pruner.start(StudyView(study, lambda _: pytest.fail("nobody may look"), pauses=True))
    return pruner


def run(pruner, trial, until, loss, since=0):
    """The first verdict on a trial whose loss is constant, and the step it came at."""
    for step in range(since, until):
        if (verdict := pruner.observe(trial, step, loss, Plan())) is not None:
            return verdict, step
    return None, until


@pytest.mark.parametrize("cut", [-9.0, -0.5, 0.5])
@pytest.mark.parametrize("rho", [0.5, 0.8, 0.95])
def test_the_correlation_is_found_under_a_cut(rho, cut):
    """Of two correlated normal scores, those below a cut in the first left out, leaders tell it."""
    rng = np.random.default_rng(0)
    then, other = rng.normal(size=(2, 400_000))
    now = rho * then + math.sqrt(1 - rho * rho) * other
    top = np.quantile(now, 0.95)
    leaders = (now > top) & (then > cut)
    found = _correlation_of(then[leaders].mean(), now[leaders].mean(), cut, 10)
    assert found is not None
    assert found[0] == pytest.approx(rho, abs=0.05)


def test_a_correlation_that_nobody_has_shown_is_called_assumed():
    """Where no trial has been at half of these steps; where they have, it is measured, and said."""
    rungs = Rungs(lambda _: 2, 2.0)
    for trial in range(40):
        rungs.report(trial, RUNGS[5], float(trial))
    steps, losses = np.array([5.0, 6.0, 7.0]), np.array([3.0, 2.0, 1.0])
    for known, said in (
        (rungs, "with the end, which is assumed, not measured)"),
        (fill(np.tile(np.arange(40.0), (6, 1))), "with the end, as the leaders so far have moved)"),
    ):
        place = known.place(39)
        assert not place.goes_on
        assert _paused(place, steps, losses, 1.0).reason.endswith(said)


def test_leaders_are_looked_for_deeper_where_the_order_has_not_held():
    """With an order that holds few are in the running, with one drawn anew nearly all."""
    rng = np.random.default_rng(1)
    held = fill(np.tile(np.arange(60.0), (7, 1)))
    drawn = fill(rng.permuted(np.tile(np.arange(60.0), (7, 1)), axis=1))
    assert held.place(0).here.depth < 20
    assert drawn.place(0).here.depth > 45
    assert held.place(0).here.correlation > 0.75 > drawn.place(0).here.correlation


def test_more_errors_keep_more():
    """The depth grows with the standard deviations allowed for, and is at least the best kept."""
    losses = np.tile(np.arange(60.0), (7, 1))
    depths = [fill(losses, errors).place(0).here.depth for errors in (0.0, 1.0, 2.0, 3.0)]
    assert depths == sorted(depths)
    assert depths[0] >= 6


def test_a_trial_waits_until_all_have_come():
    """At a sixteenth of the run all are paused, in the last call the best goes first."""
    pruner = pausing()
    for trial in range(12):
        verdict, step = run(pruner, trial, N_STEPS, -float(trial))
        if trial > 4:  # five or fewer trials have no peers to wait for
            assert (verdict.rule, step) == ("waits", N_STEPS // 16 - 1)
            assert "goes on when" in verdict.reason
        pruner.paused(trial)
    paused = dict.fromkeys(range(5, 12), 0.0)
    assert pruner.thaw(paused) is None
    assert pruner.thaw(paused, last_call=True) == 11
    pruner.resumed(11)
    verdict, step = run(pruner, 11, N_STEPS, -11.0, since=N_STEPS // 16)
    assert verdict is None or step >= RUNGS[5] * N_STEPS - 1  # not at once again


def test_the_best_of_many_does_not_wait():
    """Once COHORT have come, the best 64th goes on at once; the others wait for all."""
    pruner = pausing()
    for trial in range(COHORT + 4):
        verdict, _ = run(pruner, trial, N_STEPS // 8 - 1, -float(trial))
        if verdict is not None:
            pruner.paused(trial)
        assert (verdict is None) == (trial < 5 or trial >= COHORT - 1), trial
    verdict, _ = run(pruner, COHORT + 4, N_STEPS // 8 - 1, 1.5 - COHORT)
    assert verdict.rule == "waits"
    pruner.paused(COHORT + 4)
    assert pruner.thaw({COHORT + 4: 0.0}) is None


def test_what_has_to_be_repeated_is_not_paused_again():
    """Where a thaw begins anew, those that waited go on, and no other trial waits."""
    pruner = pausing()
    for trial in range(8):
        run(pruner, trial, N_STEPS, -float(trial))
        pruner.paused(trial)
    assert pruner.thaw(dict.fromkeys(range(5, 8), 0.125)) == 7
    pruner.resumed(7)
    assert run(pruner, 9, N_STEPS // 4, -9.0) == (None, N_STEPS // 4)


@pytest.mark.parametrize("n_trials", [4, 7, 20, COHORT + 9])
@pytest.mark.parametrize("n_workers", [1, 8])
def test_no_trial_waits_for_ever(n_trials, n_workers):
    """In a sweep's end the best has finished, and all that are paused are behind."""
    rng = np.random.default_rng(n_trials)
    t = np.arange(40)
    found = [
        Curve(t * 1.0, rng.uniform() + 1 / (1 + t) + 0.01 * rng.normal(size=40), Plan(40))
        for _ in range(n_trials)
    ]
    rule = Stalled()
    result = simulate(found, rule, n_workers, 0)
    best = int(np.argmin([c.losses.min() for c in found]))
    assert result.n_seen[best] == 40
    assert np.isfinite(result.ended[result.n_seen == 40]).all()
    assert rule.resume(last_call=True) is None


def test_a_rule_that_was_wrong_looks_deeper_and_says_so():
    """Leaders are looked for further down the more held-out trials ended well, less after others
    did not; the verdict says the count, and the caution falls back when it is told anew.
    """
    pruner = pausing()
    study = fill(np.tile(np.arange(60.0), (7, 1)))
    depths = []
    for n_wrong, n_finished in ((0, 0), (0, 9), (1, 9), (1, 2), (2, 2)):
        pruner.held_out(n_wrong, n_finished)
        study.allow(1 + pruner._rule.caution)
        depths.append(study.place(0).here.depth)
    assert depths[0] == depths[1] < depths[2] < depths[3] < depths[4]
    pruner._rungs = study
    verdict, _ = run(pruner, 60, N_STEPS, 99.0)
    assert verdict.rule != "waits"
    said = "instead of 1: stopping was wrong in 2 of 2 held out, 95 %: 16 to 100 %"
    assert said in verdict.reason
    assert verdict.numbers["caution"] > 2
    pruner.held_out(0, 3)
    verdict, _ = run(pruner, 61, N_STEPS, 99.0)
    assert "held out" not in verdict.reason
    assert "caution" not in verdict.numbers
