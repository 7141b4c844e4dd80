"""Quantiles, tails and intervals, against those of scipy.stats."""

import math

import numpy as np
import pytest
from scipy import stats

from iolaus.analysis.distributions import (
    binomial_interval,
    f_tail,
    t_quantile,
    t_tail,
    wilson_interval,
)

DFS = np.array([0.5, 1.0, 2.0, 7.3, 100.0, 1e6, math.inf])


@pytest.mark.parametrize("p", [0.001, 0.04, 0.5, 0.9, 0.975])
def test_students_t_has_the_quantiles_of_scipy(p: float) -> None:
    """Quantiles for any degrees of freedom, infinitely many among them, are those of scipy."""
    np.testing.assert_allclose(t_quantile(p, DFS), stats.t.ppf(p, DFS), rtol=1e-9, atol=1e-12)


def test_students_t_has_the_tails_of_scipy() -> None:
    """Tails of a number, of 0 and of infinity are those of scipy; without freedom both are NaN."""
    for x in (-3.0, 0.0, 0.7, 12.0, math.inf):
        np.testing.assert_allclose(t_tail(x, DFS), stats.t.sf(x, DFS), rtol=1e-9, atol=1e-15)
    assert math.isnan(t_quantile(0.975, 0.0))
    assert math.isnan(t_tail(1.0, math.nan))


def test_f_has_the_tails_of_scipy() -> None:
    """Tails of F are those of scipy."""
    for x, df, below in ((0.3, 2, 5), (101.0, 1, 30), (4.0, 3.5, 2.5)):
        assert f_tail(x, df, below) == pytest.approx(stats.f.sf(x, df, below), rel=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 8), (3, 8), (8, 8), (19, 400)])
def test_intervals_of_a_share_are_those_of_scipy(k: int, n: int) -> None:
    """Clopper and Pearson's and Wilson's intervals are those of scipy, from 0 and to 1 too."""
    test = stats.binomtest(k, n)
    assert binomial_interval(k, n, 0.9) == pytest.approx(test.proportion_ci(0.9), abs=1e-9)
    assert wilson_interval(k, n) == pytest.approx(test.proportion_ci(method="wilson"), abs=1e-12)
