"""What one loss curve says, held against curves whose truth is known."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from iolaus.sweeps.signals import N_POINTS, LossCurve, despike, log_time, signals, thin, trend

X = np.arange(100.0)


def noisy(truth: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return truth + noise * np.random.default_rng(seed).normal(size=len(truth))


def corner(at: int, n: int = 100) -> np.ndarray:
    return np.maximum(1 - np.arange(n) / at, 0.0)


def test_a_plateau_after_a_fall_is_stalled_since_its_corner():
    """The stall step lies within the stated interval in 95 % of curves, and in the middle within 3
    of 100 steps.
    """
    for at in (40, 50, 70):
        said = [signals(X, noisy(corner(at), 0.05, seed)) for seed in range(100)]
        found = [s for s in said if s.stalled_since is not None]
        assert len(found) >= 70
        assert np.mean([s.stalled_low <= at <= s.stalled_high for s in found]) >= 0.95
        assert abs(np.median([s.stalled_since for s in found]) - at) <= 3


@pytest.mark.parametrize(
    ("truth", "noise"),
    [
        (-0.01 * X, 0.1),
        (-0.005 * X, 0.1),
        (-0.002 * X, 0.1),
        (-0.01 * X, 1e-6),
        ((X + 1) ** -0.3, 0.01),
        (np.exp(-X / 60), 0.05),
        (1 / (1 + 0.05 * X), 0.02),
        (-X / 100, 0.5),
        (-np.log(X + 1), 0.7),
        ((X + 1) ** -0.1, 0.04),
    ],
    ids=[
        "fast",
        "slow",
        "within noise",
        "without noise",
        "power law",
        "exponential",
        "1/t",
        "half",
        "log",
        "slow law",
    ],
)
def test_a_decline_is_called_a_stall_in_at_most_one_of_twenty(truth, noise):
    """False stalls stay at the 5 % claimed while the last half falls by a noise level (200 curves:
    18 at the most).
    """
    assert (
        sum(signals(X, noisy(truth, noise, seed)).stalled_since is not None for seed in range(200))
        <= 18
    )


@pytest.mark.parametrize(
    "truth",
    [-X / 100, np.exp(-X / 60), -np.log(X + 1), (X + 1) ** -0.3, (X + 1) ** -0.7],
    ids=["line", "exponential", "log", "power law", "steep law"],
)
def test_noise_with_a_memory_makes_no_stalls(truth):
    """False stalls stay at 5 % where noise with the autocorrelation 0.6 is as large as what the
    last half still falls (200 curves: 18 at the most).
    """
    rng = np.random.default_rng(0)
    fall = truth[50] - truth[-1]
    n_stalled = 0
    for _ in range(200):
        white = rng.normal(size=100)
        noise = signal.lfilter([0.8], [1, -0.6], white, zi=[0.2 * white[0]])[0]
        n_stalled += signals(X, truth + fall * noise).stalled_since is not None
    assert n_stalled <= 18


@pytest.mark.parametrize("level", [0.0, 0.693, -4.0, 1e6])
def test_an_exactly_flat_curve_is_stalled_from_its_first_step(level):
    """A loss that stands still has stalled: Optuna's PatientPruner never says so."""
    assert signals(X + 7, np.full(100, level)).stalled_since == 7


def test_noisy_flat_is_stalled_and_its_noise_is_found():
    """Noise around a constant is no progress; its level is measured within a tenth."""
    said = [signals(X, noisy(np.ones(100), 0.1, seed)) for seed in range(100)]
    assert np.mean([s.stalled_since is not None for s in said]) > 0.6
    assert abs(np.median([s.noise for s in said]) - 0.1) < 0.01


def test_oscillation_with_sinking_peaks_is_progress():
    """Each peak a little lower than the one before is no stall, and the period is found."""
    for seed in range(20):
        s = signals(X, noisy(0.1 * np.sin(2 * np.pi * X / 20) - 0.004 * X, 0.02, seed))
        assert s.stalled_since is None
        assert s.period_steps == pytest.approx(20, rel=0.15)
        assert s.amplitude == pytest.approx(0.1, rel=0.3)


def test_noise_alone_does_not_oscillate():
    """A period is claimed for chance in about 1 % of curves."""
    assert (
        sum(
            signals(X, noisy(np.zeros(100), 1, seed)).period_steps is not None
            for seed in range(300)
        )
        <= 9
    )


def test_a_rebound_is_named_with_its_step_and_height():
    """A loss that climbs back from its best has rebounded since that step; what came before was
    progress.
    """
    s = signals(X, noisy(np.abs(X - 50) / 100, 0.02, 0))
    assert abs(s.rebound_since - 50) <= 4
    assert s.rebound == pytest.approx(0.48, abs=0.05)
    assert s.stalled_since >= 46
    assert s.best_step == s.rebound_since


def test_flat_noise_rarely_rebounds():
    """Chance looks like a rebound in at most 4 % of flat curves."""
    assert sum(signals(X, noisy(np.zeros(100), 1, seed)).rebound > 0 for seed in range(300)) <= 12


def test_a_plateau_that_broke_through_is_not_stalled():
    """Once the loss falls again, the old plateau is forgotten."""
    truth = np.where(X < 60, 1.0, 1.0 - (X - 60) / 40)
    assert all(signals(X, noisy(truth, 0.03, seed)).stalled_since is None for seed in range(30))


def test_a_warmup_hump_neither_diverges_nor_stalls():
    """A loss that first rises and then falls below its start is on its way."""
    truth = 1 + 2 * np.exp(-(((X - 10) / 6) ** 2)) - 0.008 * X
    for n in range(9, 101):
        assert signals(X[:n], truth[:n]).diverged_at is None
    assert signals(X, truth).stalled_since is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_non_finite_loss_is_a_divergence(bad):
    """Divergence is named at its step; the finite part before it is still described."""
    losses = noisy(corner(50), 0.05, 0)
    losses[80] = bad
    s = signals(X, losses)
    assert s.diverged_at == 80
    assert s.n_reports == 80
    assert math.isfinite(s.level)
    assert signals([5], [bad]).diverged_at == 5


def test_an_exponential_rise_from_the_start_is_a_divergence():
    """Far above the start and accelerating is divergence even while finite."""
    assert signals(X[:30], np.exp(X[:30] / 3)).diverged_at == 29


def test_isolated_spikes_do_not_move_level_or_noise():
    """Three spikes of fifty noise levels leave level and noise where they were."""
    losses = noisy(1 - 0.005 * X, 0.02, 1)
    spiked = losses.copy()
    spiked[[20, 77, 96]] += 1.0
    a, b = signals(X, losses), signals(X, spiked)
    assert b.level == pytest.approx(a.level, abs=0.06)
    assert b.noise == pytest.approx(a.noise, rel=0.5)
    assert despike(spiked).max() < 1.2


def test_the_trend_is_least_squares():
    """Slope and error of the last half agree with scipy when the noise is white."""
    losses = noisy(1 - 0.005 * X, 0.1, 3)
    reference = stats.linregress(X[50:], losses[50:])
    t = trend(X, losses)
    assert t.slope == pytest.approx(reference.slope)
    residual = losses[50:] - reference.intercept - reference.slope * X[50:]
    r = max(0.0, float(residual[1:] @ residual[:-1] / (residual @ residual)))
    assert t.slope_se == pytest.approx(reference.stderr * math.sqrt((1 + r) / (1 - r)))


def test_the_interval_of_the_trend_covers_the_truth():
    """Two-sided 90 % intervals hold the true slope in 85 to 96 % of noisy lines, white or
    autocorrelated.
    """
    for rho in (0.0, 0.5):
        hits = 0
        for seed in range(400):
            rng = np.random.default_rng(seed)
            noise = np.zeros(100)
            for i in range(1, 100):
                noise[i] = rho * noise[i - 1] + rng.normal()
            s = signals(X, -0.05 * X + noise)
            hits += s.trend_low <= -0.05 <= s.trend_high
        assert 0.80 <= hits / 400 <= 0.97


def test_expected_follows_a_logarithm_exactly():
    """A loss straight in log time is foreseen at every later step, and the interval closes at the
    last report.
    """
    losses = 3 - 0.2 * np.log(X + 1)
    s = signals(X, losses)
    level, low, high = s.expected(399)
    assert low <= level <= high
    assert level == pytest.approx(3 - 0.2 * math.log(400), abs=0.02)
    assert s.expected(s.step)[0] == s.level
    with pytest.raises(ValueError, match="before the last report"):
        s.expected(3)


def test_the_interval_expected_reaches_from_no_progress_to_twice_what_is_foreseen():
    """Without noise, a curve may stop or fall by twice the foreseen; a rising one is never promised
    a fall.
    """
    s = signals(X, 3 - 0.2 * np.log(X + 1))
    level, low, high = s.expected(399)
    assert high >= s.level
    assert low <= s.level - 2 * (s.level - level)
    rising = signals(X, 1 + 0.01 * X)
    level, low, high = rising.expected(399)
    assert rising.level == pytest.approx(low)
    assert level == pytest.approx(high)


def test_log_time_is_the_integral_of_a_slope_that_fades():
    """At a loss of -c log(t), slope now times log_time is the loss to come; nothing is left at the
    end.
    """
    slope = (math.log(100) - math.log(50)) / 50  # of the last half, by its ends
    assert log_time(99, 400) * slope == pytest.approx(math.log(4))
    assert log_time(399, 400) == 0
    assert log_time(500, 400) == 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 300),
    scale=st.sampled_from([2.0**-20, 0.25, 1024.0]),
    kind=st.sampled_from(["fall", "corner", "flat", "rise", "spiky"]),
)
def test_multiplying_the_loss_changes_no_verdict(seed, n, scale, kind):
    """Steps and yes-or-no answers are those of the unscaled curve, losses are multiplied."""
    x = np.cumsum(np.random.default_rng(seed).integers(1, 9, n))
    t = x / x[-1]
    truth = {
        "fall": -t,
        "corner": np.maximum(0.5 - t, 0),
        "flat": 0 * t,
        "rise": t**3,
        "spiky": -t,
    }[kind]
    losses = noisy(truth, 0.05, seed)
    if kind == "spiky":
        losses[::11] += 5
    a, b = signals(x, losses), signals(x, scale * losses)
    for name in (
        "stalled_since",
        "stalled_low",
        "diverged_at",
        "rebound_since",
        "best_step",
        "period_steps",
    ):
        assert getattr(a, name) == getattr(b, name)
    for name in ("level", "noise", "trend", "best", "rebound"):
        assert getattr(b, name) == pytest.approx(
            scale * getattr(a, name), rel=1e-9, abs=1e-12 * scale
        )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 300),
    power=st.sampled_from([-1000, -600, -400, 300, 500, 510, 600, 1020]),
)
def test_a_loss_of_any_size_is_told_as_one_of_ordinary_size(seed, n, power):
    """Where squares overflow or vanish, signals and trend are those of the curve times a power of
    two, exactly.
    """
    losses = noisy(np.maximum(0.5 - np.linspace(0, 1, n), 0), 0.05, seed)
    scale = 2.0**power
    for tell in (lambda y: signals(range(n), y), lambda y: trend(np.arange(float(n)), y)):
        ordinary, extreme = (
            dataclasses.asdict(tell(losses)),
            dataclasses.asdict(tell(losses * scale)),
        )
        without_unit = {
            name for name in ordinary if "step" in name or name in ("n_reports", "autocorrelation")
        }
        without_unit |= {
            "stalled_since",
            "stalled_low",
            "stalled_high",
            "diverged_at",
            "rebound_since",
        }
        for name, value in ordinary.items():
            assert extreme[name] == (
                value if name in without_unit else pytest.approx(value * scale, rel=1e-9, abs=0)
            )


@settings(max_examples=200, deadline=None)
@given(losses=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=300))
def test_any_finite_floats_have_signals_without_a_warning(losses):
    """Up to the largest float nothing raises or warns; level and best are finite and within the
    losses.
    """
    steps = np.arange(float(len(losses)))
    curve = LossCurve()
    for step, loss in enumerate(losses):
        curve.add(step, loss)
    slack = 1 + 1e-9
    for said in (signals(steps, losses), trend(steps, np.array(losses)), curve.signals()):
        largest = max(map(abs, losses)) * slack
        assert math.isfinite(said.level)
        assert abs(said.level) <= largest
        assert abs(said.best) <= largest


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.sampled_from([-1000.0, 3.0, 5e4]))
def test_adding_a_constant_changes_no_verdict(seed, shift):
    """A loss of 5 falling to 4 stalls like one of -5 falling to -6."""
    losses = noisy(corner(50), 0.05, seed)
    a, b = signals(X, losses), signals(X, losses + shift)
    assert (a.stalled_since, a.rebound_since) == (b.stalled_since, b.rebound_since)
    assert b.level - shift == pytest.approx(a.level, abs=1e-6)
    assert b.noise == pytest.approx(a.noise, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(
        st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=60
    )
)
def test_any_curve_has_signals(losses):
    """No list of floats raises, whatever is in it; the interval holds the level."""
    s = signals(range(len(losses)), losses)
    if s.n_reports:
        assert s.level_low <= s.level <= s.level_high
        assert s.best <= s.level + abs(s.level) * 1e-9
    else:
        assert s.diverged_at == 0


def test_a_growing_curve_says_what_the_whole_one_does():
    """LossCurve agrees with signals on the same reports, exactly while unmerged and within noise
    afterwards.
    """
    stalls = []
    for seed in range(4):
        losses = noisy(corner(1000, 2000), 0.05, seed)
        curve = LossCurve()
        for step in range(2000):
            curve.add(step, losses[step])
            if step == 99:
                assert curve.signals() == signals(range(100), losses[:100])
        said, whole = curve.signals(), signals(range(2000), losses)
        assert len(curve.losses) <= 2 * N_POINTS
        assert said.level == pytest.approx(whole.level, abs=0.02)
        assert (said.stalled_since is None) == (whole.stalled_since is None)
        stalls += [said.stalled_since] if said.stalled_since is not None else []
    assert stalls
    assert all(abs(at - 1000) < 60 for at in stalls)


def test_a_growing_curve_names_divergence_at_once():
    """Freshness never delays a divergence, and nothing after it counts."""
    curve = LossCurve()
    for step in range(500):
        curve.add(step, 1.0)
    curve.signals()
    curve.add(500, math.nan)
    curve.add(501, 1.0)
    assert curve.signals().diverged_at == 500
    with pytest.raises(ValueError, match="step 501 arrived after step 501"):
        curve.add(501, 1.0)


def test_two_hundred_and_fifty_six_trials_cost_little():
    """Asking at every one of 10,000 reports costs at most 20 µs each: 256 trials x 10 a second are
    5 % of a core.
    """
    losses = noisy(np.zeros(10_000), 1, 0).tolist()
    curve = LossCurve()
    begin = time.process_time()
    for step, loss in enumerate(losses):
        curve.add(step, loss)
        curve.signals()
    assert (time.process_time() - begin) / 10_000 < 40e-6  # twice the goal: machines differ


def test_thinning_keeps_means_and_the_newest_report():
    """Blocks are means of equally many reports; the last step is always in."""
    x, y = thin(np.arange(1000.0), np.arange(1000.0))
    assert len(y) <= N_POINTS
    assert x[-1] == 999
    assert np.all(np.diff(x) == 8)
    assert y[-1] == np.mean(np.arange(992, 1000))


@pytest.mark.parametrize(
    ("steps", "losses", "match"),
    [
        ([], [], "equally long"),
        ([1, 2], [0.1], "equally long"),
        ([2, 1], [0.1, 0.2], "rise"),
        ([1, 1], [1, 2], "rise"),
    ],
)
def test_what_is_no_curve_is_refused(steps, losses, match):
    """Empty, unequal or unordered input raises with what to do."""
    with pytest.raises(ValueError, match=match):
        signals(steps, losses)


def test_signals_are_plain_values():
    """Signals compare, print and turn into a dictionary: nothing in them is an array."""
    fields = dataclasses.asdict(signals(X, corner(50)))
    assert all(v is None or isinstance(v, int | float) for v in fields.values())
