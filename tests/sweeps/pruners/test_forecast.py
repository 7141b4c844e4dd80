"""Forecasts of where trials end, from finished ones that announced their rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from iolaus.sweeps.pruners.forecast import (
    MIN_FINISHED,
    MOST_FINISHED,
    Forecasts,
    GaussianProcess,
    _student_z,
    planned_rate,
)
from iolaus.sweeps.pruners.peers import PeerOutcome, Peers
from iolaus.sweeps.pruners.stalled import StallRule
from iolaus.sweeps.signals import trend
from iolaus.sweeps.types import Plan, Verdict

N = 60


def curve(rate: float, level: float = 1.0, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A loss [N] that holds a floor as high as its rate, and falls below it when the rate drops."""
    steps = np.arange(N)
    floor = np.where(steps < 0.6 * N, rate, 0.1 * rate)
    rng = np.random.default_rng(seed)
    return level + floor + np.exp(-steps / 5) + noise * rng.normal(size=N)


def plan(rate: float) -> Plan:
    drop = int(0.6 * N)
    return Plan(N, ((0, rate), (drop - 1, rate), (drop, 0.1 * rate), (N - 1, 0.1 * rate)))


def told(
    n_finished: int, noise: float = 0.0, scale: float = 1.0, shift: float = 0.0
) -> tuple[Forecasts, np.random.Generator]:
    """Finished trials with rates of two decades, levels of their own."""
    found, rng = Forecasts(), np.random.default_rng(1)
    for trial in range(n_finished):
        rate = float(10 ** rng.uniform(-2, 0))
        losses = scale * curve(rate, float(rng.uniform(1, 2)), noise, trial) + shift
        report(found, trial, losses, plan(rate))
        found.finish(trial)
    return found, rng


def report(found: Forecasts, trial: int, losses: np.ndarray, of: Plan) -> None:
    steps = np.arange(len(losses), dtype=float)
    for n in range(3, len(losses) + 1):
        found.report(trial, trend(steps[:n], losses[:n]), of)


def test_a_drop_to_come_is_foreseen_where_finished_trials_made_it():
    """Before its rate drops a trial's end is foreseen within a tenth of the drop, and below what
    its curve has shown.
    """
    found, _ = told(30)
    losses = curve(0.5, 1.4)
    report(found, 99, losses[:30], plan(0.5))
    foreseen = found.forecast(99)
    assert foreseen is not None
    assert foreseen.n == 30
    drop = losses[:30].min() - losses.min()
    assert abs(foreseen.best - losses.min()) < 0.1 * drop
    assert foreseen.low <= foreseen.best


def test_the_lowest_end_foreseen_is_seldom_undercut():
    """Of 200 trials like the finished ones at most a tenth ends below its `low`; more than the 2 %
    of an error that were known.
    """
    found, rng = told(30, noise=0.02)
    below = 0
    for trial in range(200):
        rate, level = float(10 ** rng.uniform(-2, 0)), float(rng.uniform(1, 2))
        losses = curve(rate, level, 0.02, 1000 + trial)
        report(found, 100 + trial, losses[:30], plan(rate))
        foreseen = found.forecast(100 + trial)
        assert foreseen is not None
        below += losses.min() < foreseen.low
    assert below <= 20


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (1.0, -10.0)])
def test_the_unit_of_the_loss_does_not_matter(scale, shift):
    """A loss in other units is foreseen in them; one that goes below 0 is foreseen too."""
    found, _ = told(20, scale=scale, shift=shift)
    losses = scale * curve(0.3, 1.5) + shift
    report(found, 99, losses[:30], plan(0.3))
    foreseen = found.forecast(99)
    assert foreseen is not None
    drop = losses[:30].min() - losses.min()
    assert abs(foreseen.best - losses.min()) < 0.3 * drop
    if shift == 0:
        plain, _ = told(20)
        report(plain, 99, losses[:30] / scale, plan(0.3))
        same = plain.forecast(99)
        assert same is not None
        assert foreseen.best / scale == pytest.approx(same.best)


def test_nothing_is_foreseen_without_rates_or_with_few_finished_trials():
    """None with fewer than MIN_FINISHED finished, three reports, or no announced rates."""
    found, _ = told(MIN_FINISHED - 1)
    report(found, 99, curve(0.5)[:30], plan(0.5))
    assert found.forecast(99) is None
    found, _ = told(MIN_FINISHED)
    report(found, 99, curve(0.5)[:4], plan(0.5))
    assert found.forecast(99) is None  # two reports: trend needs three points here
    report(found, 98, curve(0.5)[:30], Plan(N))
    report(found, 97, curve(0.5)[:30], Plan(None, plan(0.5).lr))
    assert found.forecast(98) is None
    assert found.forecast(97) is None
    report(found, 96, curve(0.5)[:30], plan(0.5))
    assert found.forecast(96) is not None


def test_a_forecast_costs_no_more_in_a_large_sweep():
    """No more than MOST_FINISHED finished trials are asked."""
    found, _ = told(MOST_FINISHED + 5)
    report(found, 99, curve(0.5)[:30], plan(0.5))
    foreseen = found.forecast(99)
    assert foreseen is not None
    assert foreseen.n == MOST_FINISHED


def test_caution_widens_the_error_alone():
    """`errors` moves low in proportion on the scale compared, and not best."""
    found, _ = told(20, noise=0.02)
    report(found, 99, curve(0.5, noise=0.02)[:30], plan(0.5))
    one, two = found.forecast(99, 1.0), found.forecast(99, 2.0)
    assert one is not None
    assert two is not None
    assert two.best == one.best
    assert two.low < one.low


def test_the_process_is_that_of_the_book():
    """Mean and error are those of a Gaussian process solved directly, its scale that of the
    leave-one-out residuals.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 3))
    y = np.sin(x[:, 0]) + 0.1 * x[:, 1]
    process = GaussianProcess.fit(x, y)
    z = (x - x.mean(0)) / x.std(0)
    apart = ((z[:, None] - z[None]) ** 2).sum(2) / 3
    kernel = np.exp(-apart / 2 / process.length**2) + 0.3 * z @ z.T / 3
    noisy = kernel + process.noise * np.eye(15)
    others = []
    for i in range(15):
        keep = np.arange(15) != i
        solved = np.linalg.solve(noisy[np.ix_(keep, keep)], (y - np.median(y))[keep])
        variance = noisy[i, i] - noisy[i, keep] @ np.linalg.solve(
            noisy[np.ix_(keep, keep)], noisy[keep, i]
        )
        others.append((y[i] - np.median(y) - noisy[i, keep] @ solved) ** 2 / variance)
    assert process.scale == pytest.approx(np.mean(others))
    mean, error = process.predict(x[0])
    assert mean == pytest.approx(
        np.median(y) + kernel[0] @ np.linalg.solve(noisy, y - np.median(y)), rel=1e-6
    )
    left = kernel[0, 0] - kernel[0] @ np.linalg.solve(noisy, kernel[0])
    assert error == pytest.approx(math.sqrt(process.scale * (left + process.noise)))


@pytest.mark.parametrize("n_free", [6, 10, 38])
def test_the_quantile_is_that_of_student(n_free):
    """Within 0.02 of scipy's."""
    assert _student_z(n_free) == pytest.approx(student.ppf(0.98, n_free), abs=0.02)


def test_the_planned_rate_is_linear_between_corners():
    """As np.interp, at corners, between and beyond them."""
    corners = ((0, 0.1), (10, 0.2), (11, 0.02), (40, 0.0))
    for step in (0, 4, 10, 11, 20, 40, 50):
        expected = np.interp(step, *zip(*corners, strict=True))
        assert planned_rate(Plan(50, corners), step) == pytest.approx(expected)


def test_a_trial_ends_by_its_forecast_not_by_its_loss():
    """Where high rates stand worst before their drop and end best, the trial ahead ends and the one
    behind it goes on; the verdict says from what.
    """
    peers, rng = Peers(), np.random.default_rng(3)
    steps = np.arange(N, dtype=float)

    def run(trial: int, rate: float, n: int) -> tuple[np.ndarray, Plan]:
        before, after = 1.3 + rate, 1.2 - 0.2 * rate
        losses = np.where(steps < 0.6 * N, before, after) + np.exp(-steps / 5)
        losses += 0.001 * np.random.default_rng(trial).normal(size=N)
        for k in range(3, n + 1):
            peers.report(trial, trend(steps[:k], losses[:k]), plan(rate))
        return losses[:n], plan(rate)

    def verdict(trial: int, rate: float) -> Verdict | None:
        losses, of = run(trial, rate, 30)
        now = trend(steps[:30], losses)
        return StallRule().verdict(peers, trial, steps[:30], losses, now, of)

    for trial in range(24):
        run(trial, float(10 ** rng.uniform(-2, 0)), N)
        peers.end(trial, PeerOutcome.COMPLETE)
    assert verdict(98, 0.98) is None
    found = verdict(99, 0.01)
    assert found is not None
    assert found.rule == "behind"
    assert "24 finished trials" in found.reason
    assert found.numbers["reach"] >= found.numbers["reach_at_best"] > found.numbers["goal"]
