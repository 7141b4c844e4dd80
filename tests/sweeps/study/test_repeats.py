"""Repeats over seeds: when a setting is given up, judged against normal theory."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iolaus.sweeps.study._repeats import HOPELESS_STANDARD_ERRORS, Field, Unit, pooled_spread


def unit(*values: float, given_up: bool = False) -> Unit:
    return Unit(dict.fromkeys(range(len(values))), dict(enumerate(values)), given_up)


def is_hopeless(of: Unit, units: list[Unit], sign: int) -> bool:
    return Field.of(units, sign).is_hopeless(of)


def test_missing_runs() -> None:
    """A unit misses the repeats that were not started, and none once it is given up."""
    assert unit(1.0, 2.0).missing(4) == [2, 3]
    assert unit(1.0, given_up=True).missing(4) == []


@given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=5), min_size=1, max_size=6))
def test_spread_is_the_pooled_standard_deviation(groups: list[list[float]]) -> None:
    """The spread is that of numpy's variances pooled by degrees of freedom, and unknown below three
    degrees.
    """
    spread = pooled_spread([unit(*group) for group in groups])
    several = [group for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in several)
    if degrees < 3:
        assert spread is None
    else:
        expected = math.sqrt(sum((len(g) - 1) * np.var(g, ddof=1) for g in several) / degrees)
        assert spread == pytest.approx(expected, abs=1e-9)


@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_verdict_ignores_scale_and_origin(origin: float, scale: float) -> None:
    """Shifting or scaling all objectives changes no verdict; maximising the negated ones is the
    same.
    """
    groups = [[0.0, 1.0, 0.5, 0.2], [0.3, 0.4, 0.9], [4.0]]
    for k in range(3):
        for sign in (1, -1):
            units = [unit(*(origin + sign * scale * v for v in g)) for g in groups]
            assert is_hopeless(units[k], units, sign) == (k == 2)


def test_error_rate_is_what_it_says() -> None:
    """A setting as good as the best is given up as rarely as three standard errors say, if the
    spread is known.
    """
    rng = np.random.default_rng(0)
    n_rounds, n_wrong = 4000, 0
    known = [
        unit(*rng.normal(100, 1, 200))
    ]  # far behind, so it is never the best, but it tells the spread
    for _ in range(n_rounds):
        mine, best = unit(*rng.normal(0, 1, 2)), unit(*rng.normal(0, 1, 3))
        n_wrong += is_hopeless(mine, [mine, best, *known], sign=1)
    rate = stats.norm.sf(HOPELESS_STANDARD_ERRORS)
    assert n_wrong <= stats.binom.ppf(0.9999, n_rounds, rate * 1.3)


def test_a_clearly_worse_setting_is_hopeless() -> None:
    """Ten spreads behind the best is hopeless after one seed; nothing is while the spread is
    unknown.
    """
    others, worse = [unit(0.0, 1.0, 2.0), unit(1.0, 2.0, 1.5)], unit(12.0)
    assert is_hopeless(worse, [*others, worse], sign=1)
    assert not is_hopeless(worse, [unit(0.0), worse], sign=1)
    assert not is_hopeless(worse, [*others, worse], sign=-1)


@pytest.mark.parametrize("n_degrees", [2, 3])
def test_three_degrees_of_freedom_are_needed_and_each_run_counts_once(n_degrees: int) -> None:
    """With a run of its own to the unit that is looked at, two degrees are two, and three do."""
    worse, best = unit(100.0, 101.0), unit(*[0.0, 1.0, 0.5][:n_degrees])
    units = [worse, best]
    assert sum(len(u.values) - 1 for u in units) == n_degrees
    assert Field.of(units, 1).is_hopeless(worse) == (n_degrees >= 3)


def test_one_decision_among_a_thousand_settings_is_quick() -> None:
    """All of 1,000 settings with three seeds are decided on in 20 ms of CPU."""
    rng = np.random.default_rng(0)
    units = [unit(*rng.normal(k % 7, 1, 3)) for k in range(1000)]
    took_s = []
    for _ in range(3):
        started_s = time.process_time()
        field = Field.of(units, 1)
        n_hopeless = sum(map(field.is_hopeless, units))
        took_s.append(time.process_time() - started_s)
    assert n_hopeless > 0
    assert min(took_s) < 0.02
