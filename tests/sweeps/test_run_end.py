"""Where one run will end, from its reports so far."""

from __future__ import annotations

import numpy as np
import pytest

from iolaus.sweeps.metric import highest_of
from iolaus.sweeps.run_end import foresee, looked_back

STEPS = np.arange(10.0, 1001.0, 10.0)
SECONDS = 5 + 0.02 * STEPS  # 50 steps a second, after a start of 5 s


def power_law(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.02, len(STEPS))
    return np.asarray(1 + 3 * (STEPS / 10) ** -0.4 + noise)


def test_what_it_says_holds_for_most_power_laws() -> None:
    """Asked at a quarter and at half, at least 80 of 100 ends lie in the interval; the time left is
    right where the speed stays.
    """
    for n in (25, 50):
        held = 0
        for seed in range(100):
            losses = power_law(seed)
            end = foresee(STEPS[:n], losses[:n], SECONDS[:n], 1000)
            assert end is not None
            assert end.seconds_left == pytest.approx(0.02 * (1000 - STEPS[n - 1]))
            held += end.low <= losses[-3:].mean() <= end.high
        assert held >= 80


def test_a_run_that_is_over_is_told_how_right_it_was() -> None:
    """From the reports up to a quarter and half of the steps alone, beside what came."""
    losses = power_law(0)
    quarter, half = looked_back(STEPS, losses, SECONDS, 1000)
    assert quarter[0] == foresee(STEPS[:25], losses[:25], SECONDS[:25], 1000)
    assert half[0].step == 500
    assert half[1] == pytest.approx(losses[-3:].mean())
    assert half[2] == pytest.approx(10.0)
    said = half[0].beside("loss", half[1], half[2])
    assert said.startswith("at step 500: loss 1.")
    assert said.endswith("within that; 10 s left, it took 10 s")


def test_a_metric_that_is_maximised_is_foreseen_in_its_own_direction() -> None:
    """The mirrored curve has the mirrored end; a loss of no negative value has none below 0."""
    losses = power_law(1)
    end, mirrored = (foresee(STEPS[:30], s * losses[:30], None, 1000, s) for s in (1.0, -1.0))
    assert end is not None
    assert mirrored is not None
    assert (mirrored.level, mirrored.low, mirrored.high) == (-end.level, -end.high, -end.low)
    assert np.isnan(end.seconds_left)
    steep = foresee(STEPS[:20], np.linspace(1, 0.1, 20), None, 1000)
    assert steep is not None
    assert steep.low == 0


def test_no_accuracy_above_the_whole_is_foreseen() -> None:
    """Of a metric that cannot be higher: level and interval end there."""
    rising = np.linspace(0.1, 0.9, 20)
    free, bounded = (foresee(STEPS[:20], rising, None, 1000, -1.0, h) for h in (np.inf, 1.0))
    assert free is not None
    assert bounded is not None
    assert free.high > 1
    assert bounded.low <= bounded.level <= bounded.high == 1
    assert [highest_of(*known) for known in (("val/F1", 0.5), ("acc", 71), ("acc", 140))] == [
        *(1, 100, np.inf)
    ]
    assert highest_of("error", 0.5) == highest_of("return", 0.5) == np.inf


def test_too_few_reports_and_one_that_is_not_finite_say_nothing() -> None:
    """Two reports, or a NaN among them, foresee no end."""
    assert foresee(STEPS[:2], np.array([2.0, 1.0]), None, 1000) is None
    assert foresee(STEPS[:4], np.array([2.0, 1.0, np.nan, 1.0]), None, 1000) is None
