"""How often stopping was wrong, in numbers and in a sentence."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest, norm

from iolaus.sweeps.holdout import caution_added, exact_interval, goal_rank, held_out


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 7), (3, 7), (7, 7), (30, 1000)])
def test_the_interval_is_clopper_and_pearsons(k, n):
    """As scipy works it out, by another way."""
    low, high = binomtest(k, n).proportion_ci(method="exact")
    assert exact_interval(k, n) == pytest.approx((low, high), abs=1e-9)


def test_without_data_nothing_is_known():
    """No trial held out: any share is possible, and there is no sentence."""
    assert exact_interval(0, 0) == (0.0, 1.0)
    assert held_out({1: 0.5}, {}, 1).sentence() == ""


def test_one_trial_claims_no_more_than_one_can():
    """One that ended 14th of 18: wrong in none of one, which leaves nearly everything open."""
    found = held_out({n: float(n) for n in range(18)}, {13: 80}, 4)
    assert found.sentence() == (
        "1 trial that was to be stopped ran on; it ended 14th of 18, not among the best 4: "
        "stopping was wrong in 0 of 1 (95 %: 0 to 98 %)."
    )


def test_those_without_a_result_are_said_and_not_counted():
    """A held out trial that runs, or failed, is neither right nor wrong."""
    assert held_out({}, {3: 10}, 4).sentence() == (
        "1 trial that was to be stopped ran on; it has not finished, so how often stopping was "
        "wrong is not known."
    )
    found = held_out({0: 1.0, 1: 2.0}, {0: 10, 5: 10, 6: 10}, 1)
    assert "(2 more without a result); it ended 1st of 2, the best: " in found.sentence()


def test_a_result_that_is_no_number_is_the_worst_and_equals_share_the_better_rank():
    """NaN ranks behind all numbers; two equal results are both first."""
    found = held_out({0: math.nan, 1: 1.0, 2: 1.0}, {0: 5, 2: 5}, 1)
    assert [(one.rank, one.was_wrong) for one in found.finished] == [(3, False), (1, True)]


def test_many_are_not_listed():
    """Of more than four the best rank is said alone."""
    found = held_out({n: float(n) for n in range(40)}, dict.fromkeys(range(5, 11), 9), 5)
    assert "the best of them ended 6th of 40, none of them among the best 5" in found.sentence()


def test_the_goal_grows_with_the_cube_root():
    """It is 4 of 30 and 13 of 1,000, and never more than there are."""
    assert [goal_rank(n, 1.25) for n in (0, 1, 2, 30, 1000)] == [1, 1, 2, 4, 13]


@given(st.integers(0, 300), st.integers(0, 300))
def test_caution_follows_what_was_wrong(a, b):
    """It grows with every wrong stop, falls with every right one, and is never less than asked."""
    wrong, n = min(a, b), max(a, b)
    added = caution_added(wrong, n)
    assert added >= 0
    assert added >= caution_added(wrong, n + 1)
    assert caution_added(wrong + 1, n + 1) >= added
    if wrong == 0:
        assert added == 0


def test_caution_is_that_of_the_beta_posterior():
    """As scipy has it: the tail at the posterior's mean in place of the one at the prior's."""
    for wrong, n in ((1, 1), (1, 18), (5, 20)):
        share = beta(0.2 + wrong, 9.8 + n - wrong).mean()
        assert caution_added(wrong, n) == pytest.approx(norm.isf(0.02) - norm.isf(share))
    with pytest.raises(ValueError, match="3 wrong of 2"):
        caution_added(3, 2)
