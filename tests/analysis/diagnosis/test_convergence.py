from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import CensoredData, ecdf

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.convergence import SHOWN, convergence, default_target, time_to_target
from iolaus.analysis.ranking.level import level
from iolaus.sweeps.signals import signals

STEPS = np.arange(1, 101) * 10


def sweep(
    curves: dict[int, np.ndarray],
    states: list[str] | None = None,
    batch: int = 32,
    **metrics: np.ndarray,
) -> Sweep:
    """Trials of batch size `batch` whose step n takes n / 100 seconds; further metrics for each."""
    frames = [
        pd.DataFrame({"trial": n, "step": STEPS[: len(v)], "metric": name, "value": v})
        for n, losses in curves.items()
        for name, v in {"loss": losses, **{k: v[: len(losses)] for k, v in metrics.items()}}.items()
    ]
    frame = pd.concat(frames, ignore_index=True)
    frame = frame.assign(
        examples=frame["step"] * float(batch) if batch else math.nan, seconds=frame["step"] / 100
    )
    trials = pd.DataFrame(
        {"state": states or ["complete"] * len(curves), "why": "", "n_steps": 1000},
        index=list(curves),
    )
    return Sweep("s", "loss", ("minimize",), trials, frame)


def falling(tau: float, end: float = 0.1) -> np.ndarray:
    return end + (1 - end) * np.exp(-STEPS / tau)


def test_numbers_are_those_of_the_signals():
    """One definition: best, noise, slope are those of `iolaus.sweeps.signals`, the level is the
    ranking's.
    """
    losses = falling(200) + 0.01 * np.random.default_rng(0).normal(size=100)
    row, s = convergence(sweep({4: losses})).loc[4], signals(STEPS, losses)
    assert (row["level"], row["smoothed_best"], row["noise"], row["late_slope"]) == (
        level(STEPS, losses, "final")[0],
        s.best,
        s.noise,
        s.trend,
    )
    assert row["smoothed_best_at"] == s.best_step


def test_an_exponential_is_half_way_after_its_half_life():
    """Half of the way from start to best, at most the smoothing of three reports late."""
    row = convergence(sweep({0: falling(200, 0.0)})).loc[0]
    begin = 1 - math.exp(-10 / 200)
    assert row["half_way"] == pytest.approx(200 * math.log(2 / (1 - begin)), abs=25)


def test_the_area_of_a_constant_is_its_logarithm():
    """The area is the mean of the log loss, so a constant loss has its own; NaN for losses without
    one.
    """
    table = convergence(sweep({0: np.full(100, 0.5), 1: np.full(100, -0.5)}))
    assert table.loc[0, "area"] == pytest.approx(math.log(0.5))
    assert math.isnan(table.loc[1, "area"])


def test_a_maximised_metric_keeps_its_sign():
    """An accuracy of 1 - loss has the loss's numbers turned back: levels, slope with its interval,
    gap, and target.
    """
    noise = 0.01 * np.random.default_rng(0).normal(size=100)
    losses = {0: falling(200) + noise, 1: falling(400) + noise}
    low = convergence(sweep(losses, val_loss=falling(200) + 0.2))
    turned = {n: 1 - values for n, values in losses.items()}
    made = sweep(turned, val_accuracy=0.8 - falling(200))
    made = dataclasses.replace(
        made,
        curves=made.curves.replace({"loss": "accuracy"}),
        metric="accuracy",
        directions=("maximize",),
    )
    high = convergence(made)
    assert high.attrs["target"] == default_target(made) == pytest.approx(1 - low.attrs["target"])
    for name in ("start", "smoothed_best", "level"):
        assert high[name].tolist() == pytest.approx((1 - low[name]).tolist())
    for name, of in {
        "late_slope": "late_slope",
        "late_slope_low": "late_slope_high",
        "val_gap": "val_gap",
    }.items():
        assert high[name].tolist() == pytest.approx((-low[of]).tolist())
    for name in ("noise", "rebound", "half_way", "to_target", "smoothed_best_at"):
        assert high[name].tolist() == pytest.approx(low[name].tolist(), nan_ok=True)
    given = convergence(made, target=0.5)
    assert (
        given["to_target"].tolist() == convergence(sweep(losses), target=0.5)["to_target"].tolist()
    )
    assert f"reached {high.attrs['target']:.4g}" in time_to_target(high).sentence()


@pytest.mark.parametrize(("axis", "per_step"), [("examples", 32.0), ("seconds", 0.01)])
def test_axes_say_the_same_in_their_own_unit(axis, per_step):
    """Places scale with the axis, slopes against it, losses stay."""
    losses = {0: falling(100) + 0.01 * np.random.default_rng(0).normal(size=100)}
    steps, other = convergence(sweep(losses)).loc[0], convergence(sweep(losses), axis).loc[0]
    for place in ("last", "smoothed_best_at", "half_way", "to_target", "stalled_since"):
        assert other[place] == pytest.approx(steps[place] * per_step, nan_ok=True)
    assert other["late_slope"] == pytest.approx(steps["late_slope"] / per_step)
    assert other["level"] == steps["level"]
    assert other["area"] == pytest.approx(steps["area"])


def test_an_axis_that_nobody_reports_is_refused():
    """Examples are an axis only if somebody counts them; other words are no axis."""
    with pytest.raises(ValueError, match="no trial reports `examples`"):
        convergence(sweep({0: falling(100)}, batch=0), "examples")
    with pytest.raises(ValueError, match="axis='epoch'"):
        convergence(sweep({0: falling(100)}), "epoch")


def test_what_did_not_happen_is_missing():
    """Columns of events are NaN, the row of a trial without reports is NaN throughout, and no error
    comes.
    """
    made = sweep(
        {0: falling(100), 1: np.empty(0), 2: np.full(5, np.nan)}, ["complete", "fail", "pruned"]
    )
    table = convergence(made)
    assert (
        table.loc[
            [1, 2],
            ["smoothed_best", "level", "to_target", "half_way", "noise", "val_gap", "clipped"],
        ]
        .isna()
        .all(axis=None)
    )
    assert (
        table.loc[0, ["rebound_since", "diverged_at", "exploded_at", "dead_since", "val_gap"]]
        .isna()
        .all()
    )
    assert table.loc[2, "diverged_at"] == 10
    assert list(table["censored"]) == [False, True, True]
    assert set(SHOWN) <= set(table.columns)


def test_gradients_validation_and_clipping_are_there_if_reported():
    """The gap, the share of clipped steps, and the first parameter whose gradient explodes and
    dies.
    """
    norms = np.where(STEPS < 500, 1.0, 1e-8)
    norms[STEPS == 500] = 100.0
    more = {
        "val_loss": falling(100) + 0.2,
        "clipped": np.full(100, 0.25),
        "grad_norm": norms,
        "grad_norm/W": norms,
    }
    row = convergence(sweep({0: falling(100, 0.9), 1: falling(100)}, **more)).loc[0]
    assert row["val_gap"] == pytest.approx(falling(100)[-1] + 0.2 - falling(100, 0.9)[-1], abs=1e-3)
    assert row["clipped"] == 0.25
    assert (row["exploded_at"], row["exploded_parameter"], row["dead_since"]) == (500, "W", 510)
    assert row["exploded_times"] == pytest.approx(100)


def test_the_default_target_is_what_half_of_the_completed_trials_reach():
    """The median of their best losses; those that ended early have no say while any completed."""
    curves = {n: falling(50, end) for n, end in enumerate((0.1, 0.2, 0.3, 0.9))}
    made = sweep(curves, ["complete"] * 3 + ["pruned"])
    assert default_target(made) == pytest.approx(0.2, abs=1e-3)
    table = convergence(made)
    assert table.attrs["target"] == default_target(made)
    assert list(table["reached"]) == [True, True, False, False]


def test_pruned_trials_count_in_the_time_to_a_target():
    """Kaplan and Meier's estimate, as scipy has it: dropping the censored would call the target
    easier than it is.
    """
    rng = np.random.default_rng(0)
    times, ends = rng.exponential(300, 80).round() + 1, rng.exponential(400, 80).round() + 1
    reached = times <= ends
    table = pd.DataFrame(
        {
            "n_reports": 50,
            "reached": reached,
            "to_target": np.where(reached, times, np.nan),
            "last": np.maximum(ends, times * reached),
            "diverged_at": np.nan,
        }
    )
    found = time_to_target(table)
    expected = ecdf(CensoredData(uncensored=times[reached], right=ends[~reached])).cdf
    assert found.median == expected.quantiles[expected.probabilities >= 0.5][0]
    assert found.low <= found.median <= found.high
    assert found.low <= 300 * math.log(2) <= found.high
    assert (found.n_trials, found.n_reached) == (80, reached.sum())
    assert np.median(times[reached]) < found.median


def test_nobody_reaching_the_target_is_said():
    """No median, and the sentence says so; a table without reports has nothing to say."""
    table = convergence(sweep({0: falling(100), 1: falling(100)}), target=0.01)
    found = time_to_target(table)
    assert math.isinf(found.median)
    assert "0 of 2 trials reached 0.01; fewer than half do within" in found.sentence()
    with pytest.raises(ValueError, match="no trial has a finite report"):
        time_to_target(table[table["n_reports"] > 1000])


def arrivals(times: list[float], last: float = 100) -> pd.DataFrame:
    """A `convergence` table of trials that ran to `last` and arrived at these steps; NaN: they did
    not.
    """
    of = {
        "n_reports": 10,
        "to_target": times,
        "reached": np.isfinite(times),
        "last": last,
        "diverged_at": np.nan,
    }
    return pd.DataFrame(of)


def test_a_bound_is_never_above_its_own_estimate():
    """Where all arrive at once the formula has none: low is the estimate, high what the number of
    trials allows.
    """
    few, many = time_to_target(arrivals([30] * 5)), time_to_target(arrivals([30] * 8))
    assert (few.low, few.median, few.high) == (30, 30, math.inf)
    assert few.sentence().endswith("half do within 30 steps (95 % interval from 30 on, or never).")
    assert (many.low, many.median, many.high) == (30, 30, 30)
    spread = time_to_target(arrivals([10, 20, 30, 40, 50, 60]))
    assert spread.low <= spread.median <= spread.high <= 60


def test_what_lies_beyond_the_last_step_is_not_claimed():
    """Trials that were still on their way at the end may arrive later: the sentence says up to
    where it knows.
    """
    assert (
        "fewer than half do within 100 steps"
        in time_to_target(arrivals([10, *[np.nan] * 5])).sentence()
    )
