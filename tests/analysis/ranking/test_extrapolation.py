"""Where a curve is likely to end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iolaus.analysis.ranking._extrapolation import likely_end
from iolaus.sweeps.signals import signals


@given(st.floats(0.2, 1.5), st.integers(0, 50))  # steeper ones are flat within their noise by then
def test_a_falling_curve_is_expected_to_fall_on(slope: float, seed: int) -> None:
    """The likely end of a clear power law lies between its level and a straight course in log
    time.
    """
    steps = np.arange(60)
    losses = 5 + 10 * (1 + steps) ** -slope + np.random.default_rng(seed).normal(0, 1e-4, 60)
    said = signals(steps, losses)
    expected, _, _ = said.expected(599)
    assert expected <= likely_end(said, 600) <= said.level


def test_a_flat_curve_stays() -> None:
    """A trend within noise says nothing of the future; a curve that never was finite ends
    nowhere.
    """
    said = signals(np.arange(40), np.random.default_rng(0).normal(1, 0.1, 40))
    assert likely_end(said, 400) == said.level
    assert np.isnan(likely_end(signals([0, 1], [np.nan, 1.0]), 10))


def test_at_the_end_it_is_the_level() -> None:
    """A curve that has reached its last step ends where it is."""
    said = signals(np.arange(50), 10.0 * 0.9 ** np.arange(50))
    assert likely_end(said, 50) == said.level
