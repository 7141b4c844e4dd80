"""Tiers: what can be told apart, against scipy's own tests and simulated truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel, tukey_hsd

from iolaus.analysis.ranking.tiers import (
    ALPHA,
    from_curves,
    from_seeds,
    seeds_to_settle,
    smallest_difference,
    tiers,
)


def runs(values: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Settings, seeds and values of a list of runs per setting."""
    setting = np.repeat(np.arange(len(values)), [len(v) for v in values])
    seed = np.concatenate([np.arange(len(v)) for v in values])
    return setting, seed, np.concatenate([np.array(v) for v in values])


def unpaired(values: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    setting, seed, value = runs(values)
    return setting, np.full_like(seed, -1), value


@given(st.lists(st.floats(-5, 5), min_size=8, max_size=8), st.floats(-3, 3))
def test_two_settings_with_shared_seeds_are_the_paired_t_test(
    noise: list[float], difference: float
) -> None:
    """Two settings are apart exactly if scipy's paired t test says so, whatever the seeds do to
    both.
    """
    one, two = np.array(noise[:4]), np.array(noise[4:]) + difference
    if np.ptp(two - one) < 1e-6:
        return
    common = 100.0 * np.arange(4)
    p = ttest_rel(one + common, two + common).pvalue
    if abs(p - ALPHA) < 1e-6:
        return
    found = tiers(from_seeds(*runs([list(one + common), list(two + common)])))
    assert (found.max() == 2) == (p < ALPHA)


def test_the_extremes_of_equal_noise_are_tukeys_test() -> None:
    """Without shared seeds, with equal spread everywhere, the first exclusion is that of scipy's
    Tukey test.
    """
    base = np.array([-1.0, 0.0, 1.0])
    for shift in np.linspace(1.0, 6.0, 26):
        values = [list(base), list(base + 0.1), list(base + 0.2), list(base + shift)]
        p = tukey_hsd(*values).pvalue[0, 3]
        assert (tiers(from_seeds(*unpaired(values)))[3] > 1) == (p <= ALPHA), (shift, p)


def test_an_exploding_setting_does_not_blur_the_others() -> None:
    """A setting whose seeds differ a thousandfold leaves the difference between two quiet ones
    visible.
    """
    quiet = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    values = [
        list(quiet),
        list(quiet[::-1] + 10.0),
        list(quiet * 1.1 + 20.0),
        list(quiet * 1000.0 + 5000.0),
    ]
    found = tiers(from_seeds(*unpaired(values)))
    assert found[0] == 1
    assert found[1] == 2
    assert found[2] == 3


def test_an_exploding_setting_does_not_blur_those_it_shares_seeds_with() -> None:
    """The seeds' effects are learned from the quiet settings: a wild one with the same seeds leaves
    them apart.
    """
    rng = np.random.default_rng(0)
    quiet = np.array([2.0, 3.0, 4.0])[:, None] + rng.normal(0, 0.003, (3, 3))
    wild = np.array([[30.0, 76.0, 40.0]])
    assert list(tiers(from_seeds(*runs([list(v) for v in np.concatenate([quiet, wild])])))[:3]) == [
        1,
        2,
        3,
    ]


def test_missing_seeds_are_made_up_for() -> None:
    """With strong effects of the seeds, a setting that ran only the hard seed is not thought worse
    for it.
    """
    rng = np.random.default_rng(0)
    setting = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    seed = np.array([0, 1, 2, 3, 0, 1, 2, 3, 3])
    value = np.array([0.0, 0.0, 0.0, 50.0])[seed] + rng.normal(0, 0.01, len(seed))
    known = from_seeds(setting, seed, value)
    assert np.ptp(known.mean) < 0.1
    assert set(tiers(known)) == {1}


def test_unknown_noise_separates_nothing() -> None:
    """Where nothing repeats and no curve tells the noise, all settings share a tier and nothing can
    be planned.
    """
    known = from_curves(np.array([1.0, 2.0, 300.0]), np.full(3, np.nan), np.ones(3))
    assert list(tiers(known)) == [1, 1, 1]
    assert math.isnan(smallest_difference(known))
    assert seeds_to_settle(known, tiers(known)) is None


def test_exact_repeats_are_apart_at_any_difference() -> None:
    """Settings whose seeds all give the same number differ as soon as the numbers do; equal ones
    tie.
    """
    for third in (0.0, 1.0 / 3):
        found = tiers(
            from_seeds(
                *runs([[0.1 + third + seed * third for seed in range(3)]] * 2 + [[1.1, 1.1, 1.1]])
            )
        )
        assert list(found) == ([1, 1, 2] if third == 0 else [1, 1, 1])
    added = [0.1 + 0.2, 0.3, 0.4 - 0.1]  # equal but for rounding
    assert list(tiers(from_seeds(*runs([added, added[::-1], [0.31] * 3])))) == [1, 1, 2]


@given(st.permutations(range(5)), st.floats(0.1, 100), st.floats(-100, 100))
def test_order_scale_and_offset_do_not_matter(
    order: list[int], scale: float, offset: float
) -> None:
    """Tiers follow the settings when they are shuffled, scaled by a positive number, or shifted."""
    rng = np.random.default_rng(7)
    values = rng.normal(0, 1, (5, 4)) + np.array([0, 0.5, 4, 4.5, 20])[:, None]
    before = tiers(from_seeds(*runs([list(v) for v in values])))
    after = tiers(from_seeds(*runs([list(scale * values[i] + offset) for i in order])))
    assert list(after) == [before[i] for i in order]


@pytest.mark.parametrize("n_settings", [2, 6])
def test_equal_settings_are_seldom_split(n_settings: int) -> None:
    """Identical settings are split in at most 5 % of sweeps (under 9 % of 300, which 5 % exceeds
    once in 500).
    """
    rng = np.random.default_rng(3)
    split = [
        tiers(from_seeds(*runs([list(v) for v in rng.normal(size=(n_settings, 3))]))).max() > 1
        for _ in range(300)
    ]
    assert np.mean(split) < 0.09


def test_more_seeds_settle_what_they_were_said_to() -> None:
    """With as many more seeds as asked for, and the differences as seen, the leader stands
    alone.
    """
    pattern = np.array([-1.0, 0.0, 1.0])
    values = [list(pattern), list(pattern[::-1] + 1.0)]
    known = from_seeds(*unpaired(values))
    more = seeds_to_settle(known, tiers(known))
    assert more is not None
    assert more > 0
    rng = np.random.default_rng(0)
    n = 3 + more
    drawn = rng.normal(size=n)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1)
    again = from_seeds(*unpaired([list(drawn), list(rng.permutation(drawn) + 1.0)]))
    assert list(tiers(again)) == [1, 2]
    assert seeds_to_settle(again, tiers(again)) == 0


def test_one_that_exploded_has_no_say_in_how_the_quiet_ones_vary():
    """A setting that varies ten thousand times as much as the others changes neither their errors
    nor their order.
    """
    quiet = np.array([0.4, 1.4, 1.4, 1.4]), np.full(4, 0.017), np.full(4, 58.0)
    alone = from_curves(*quiet)
    beside = from_curves(
        *(np.append(q, x) for q, x in zip(quiet, (1200.0, 370.0, 5.0), strict=True))
    )
    assert beside.standard_error[:4] == pytest.approx(alone.standard_error)
    assert beside.standard_error[4] == pytest.approx(370.0)
    assert list(tiers(beside)[:4]) == list(tiers(alone)) == [1, 2, 2, 2]


def test_a_clear_winner_is_found_beside_one_that_exploded():
    """Three seeds of each setting: a lead of a hundred standard deviations stands, though another
    setting exploded.
    """
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(50):
        means, spreads = (
            np.array([0.5, 1.5, 1.5, 1.5, 500.0]),
            np.array([0.01, 0.01, 0.01, 0.01, 100.0]),
        )
        values = rng.normal(means, spreads, (3, 5)).T
        known = from_seeds(*unpaired(values.tolist()))
        found += (tiers(known) == 1).sum() == 1
    assert found >= 42


def test_an_error_whose_square_overflows_is_large_and_no_more():
    """A level of 1e200 is in the last tier, without a warning from numpy (warnings are errors in
    tests).
    """
    known = from_curves(
        np.array([1.0, 2.0, 3.0, 1e200]), np.array([0.1, 0.1, 0.1, 1e190]), np.full(4, 6.0)
    )
    assert list(tiers(known)) == [1, 2, 3, 4]


def of_unequal_noise(n_settings: int = 12) -> list[list[float]]:
    """Settings of four runs each that differ in their noise by more than chance, all at 0."""
    rng = np.random.default_rng(0)
    scale = 10.0 ** np.linspace(-1, 0, n_settings)
    return [list(s * rng.normal(size=4)) for s in scale]


def test_no_setting_is_trusted_to_vary_less_than_the_typical_one() -> None:
    """The quietest of many settings are quiet by luck: their variance is the typical one, so a
    difference that only their own small spread makes large is no difference.
    """
    values = of_unequal_noise()
    known = from_seeds(*unpaired(values))
    own = np.array([np.var(v, ddof=1) for v in values])
    assert (own < known.noise**2).sum() >= 3
    assert (known.variance >= known.noise**2 * (1 - 1e-9)).all()
    assert known.variance.max() > 1.5 * known.noise**2  # they are not all taken to be alike
    quiet = int(own.argmin())
    beside = [x + known.noise for x in values[quiet]]
    assert np.ptp(tiers(from_seeds(*unpaired([*values, beside])))[[quiet, -1]]) == 0


def test_a_setting_that_never_varies_says_little_of_the_others() -> None:
    """Runs that are all equal neither break the estimate nor make the others' noise vanish."""
    values = of_unequal_noise()
    usual = from_seeds(*unpaired(values)).noise
    known = from_seeds(*unpaired([*values, [0.0] * 4]))
    assert np.isfinite(known.variance).all()
    assert 0.5 * usual < known.noise <= usual * (1 + 1e-9)
