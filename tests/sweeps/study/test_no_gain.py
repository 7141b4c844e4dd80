"""When a sweep has nothing to gain any more."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.study.no_gain import (
    Found,
    NoGain,
    chance_of_gain,
    found_by,
    noise_of,
    since_gain,
)

losses = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.inf)), max_size=40)


@given(losses, st.floats(0, 10))
def test_nothing_beyond_noise_was_gained_since(values: list[float], noise: float) -> None:
    """The trials counted gained at most the noise on the one before them, which is within it."""
    n = since_gain(values, noise)
    if n < 0:
        assert min(values, default=math.inf) == math.inf
        return
    reached, before, after = (
        values[-1 - n],
        values[: len(values) - 1 - n],
        values[len(values) - n :],
    )
    assert reached - min([reached, *after] if n else [reached]) <= noise * (1 + 1e-12)
    assert all(value > min(values) + noise for value in before)


@given(losses, st.floats(0, 1), st.randoms(use_true_random=False))
def test_more_that_found_nothing_lower_the_chance(
    values: list[float], noise: float, rng: random.Random
) -> None:
    """A trial that was given up on the way counts as one without a gain."""
    before = since_gain(values, noise)
    after = since_gain([*values, math.inf], noise)
    assert after == (before + 1 if before >= 0 else -1)
    n = rng.randint(1, 20)
    assert 0 < chance_of_gain(after, n) <= chance_of_gain(before, n) <= 1


@pytest.mark.parametrize("n_before", [3, 30])
def test_the_chance_is_never_too_low_for_trials_in_no_order(n_before: int) -> None:
    """The next 5 draws hold a new best no more often than claimed, however long ago the last."""
    rng = random.Random(0)
    rows = []
    for _ in range(6000):
        values = [rng.random() for _ in range(n_before + 5)]
        n_since = since_gain(values[:n_before], 0.0)
        came = min(values[n_before:]) < min(values[:n_before])
        rows.append((n_since, chance_of_gain(n_since, 5), came))
    for least in range(0, n_before, 5):
        own = [(chance, came) for n, chance, came in rows if least <= n < least + 5]
        error = 3 * math.sqrt(0.25 / len(own))
        claimed = sum(chance for chance, _ in own) / len(own)
        assert sum(came for _, came in own) / len(own) <= claimed + error


def test_the_rule_ends_where_the_chance_is_below_p() -> None:
    """With p = .2 and n = 10 that is 40 trials after the last gain; it says its numbers."""
    rule = NoGain(p=0.2, n=10)
    found = [Found(0, 3.0), Found(1, 1.0), *(Found(i, 2.0) for i in range(2, 41))]
    assert rule.verdict(found, 0.1) == ""
    found += [Found(41, 0.95), Found(42, math.inf)]
    said = rule.verdict(found, 0.1)
    assert "none of 41 trials improved on trial 41 by more than its noise (0.1)" in said
    assert "to which trial 1 had come as near" in said
    assert "the chance that one of the next 10 does is 0.19, below p=0.2" in said
    assert rule.verdict(found, 0.0) == ""  # without noise the last one was a gain
    assert rule.verdict([], 0.1) == rule.verdict([Found(0, math.inf)] * 99, 0.1) == ""


@pytest.mark.parametrize(("p", "n"), [(0.0, 10), (1.0, 10), (math.nan, 1), (0.5, 0), (0.5, 1.5)])
def test_numbers_without_a_meaning_are_refused(p: float, n: int) -> None:
    """A chance of 0 or 1 never or always ends a sweep; n is a number of trials."""
    with pytest.raises(ValueError, match="p lies between 0 and 1"):
        NoGain(p, n)


def trial(
    number: int,
    value: float | None,
    ended_s: int,
    curve: dict[int, float] | None = None,
    **attrs: object,
) -> FrozenTrial:
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    made = optuna.trial.create_trial(
        state=state,
        value=value,
        params={"x": 0.1 * number},
        distributions={"x": FloatDistribution(0, 10)},
        intermediate_values=curve or {},
        user_attrs=attrs,
    )
    made.number = number
    made.datetime_complete = datetime(2026, 1, 1) + timedelta(seconds=ended_s)
    return made


def test_what_settings_found_in_the_order_of_their_ends() -> None:
    """Pruned ones found nothing; what was ruled out, not run, has failed or repeats is no try."""
    failed = trial(6, None, 2)
    failed.state = TrialState.FAIL
    trials = [
        trial(0, 2.0, 9),
        trial(1, None, 1),
        trial(2, 5.0, 3, duplicate_of=0),
        trial(3, None, 3, ending="infeasible"),
        trial(4, 1.0, 4, repeat_of=0),
        trial(5, 3.0, 5),
        failed,
    ]
    assert found_by(trials, 1) == [Found(1, math.inf), Found(5, 3.0), Found(0, 2.0)]
    assert found_by(trials, -1)[1:] == [Found(5, -3.0), Found(0, -2.0)]


def test_noise_is_that_of_the_curve_the_objective_was_read_off() -> None:
    """A value that the task returned, of another unit, has no known noise."""
    rng = random.Random(1)
    curve = {step: 1 / (1 + step) + rng.gauss(0, 0.01) for step in range(60)}
    run = {"best": min(curve.values()), "final": curve[59]}
    assert 0.005 < noise_of(trial(0, curve[59], 1, curve, run=run)) < 0.02
    assert noise_of(trial(0, 0.83, 1, curve, run=run)) == 0.0
    assert noise_of(trial(0, 0.5, 1, {0: 0.5}, run={"best": 0.5, "final": 0.5})) == 0.0
