from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.analysis.data.curves import curves_of
from iolaus.analysis.data.sweep import Sweep, load
from iolaus.analysis.diagnosis._features import (
    Features,
    _never_alive,
    explosion,
    gather,
    loss_metrics,
)
from iolaus.analysis.diagnosis.convergence import convergence
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.diagnosis.shapes import SHAPES, diagnose_curve
from iolaus.sweeps.signals import signals

STEPS = np.arange(1, 101) * 10.0
U = STEPS / 1000
NOISE = 0.01 * np.random.default_rng(1).normal(size=100)


def features(losses: np.ndarray, **known: object) -> Features:
    usual = {"n_steps": 1000, "start": 1.0, "lowest": 0.0, "lowest_by_now": 0.0}
    return Features(**{"steps": STEPS[: len(losses)], "losses": losses, **usual} | known)


def sweep(curves: dict[int, dict[str, np.ndarray]], **trials: object) -> Sweep:
    rows = [
        pd.DataFrame(
            {"trial": n, "step": STEPS[: len(v)].astype(int), "metric": metric, "value": v}
        )
        for n, metrics in curves.items()
        for metric, v in metrics.items()
    ]
    frame = pd.concat(rows).assign(examples=math.nan, seconds=0.0)
    about = pd.DataFrame(
        {"state": "complete", "why": "completed", "n_steps": 1000, "final": 0.0}
        | {"setting": list(curves)}
        | trials,
        index=list(curves),
    )
    return Sweep("s", "loss", ("minimize",), about, frame)


LR = {"params.lr": 0.1}
CURVES = {
    "exploded": 1 + np.exp(5 * U),
    "rebound": np.where(U < 0.5, 1 - 1.6 * U, 0.2 + 0.6 * (U - 0.5)),
    "oscillating": 0.3 + 0.7 * np.exp(-5 * U) + 0.15 * np.sin(2 * np.pi * 8 * U),
    "underfitting": 0.95 + 0.05 * np.exp(-30 * U),
    "fast_then_flat": 0.4 + 0.6 * np.exp(-40 * U),
    "stalled": np.maximum(1 - U, 0.4),
    "converged": np.exp(-15 * U),
    "slow": 1 - 0.3 * U,
    "improving": 1 - np.log1p(30 * U) / np.log(31) * 0.9,
}


@pytest.mark.parametrize("shape", CURVES)
def test_a_curve_of_each_shape_is_called_so(shape):
    """Each shape, drawn plainly, is recognised, with a reason that holds numbers."""
    found = diagnose_curve(features(CURVES[shape] + NOISE))
    assert found.shape == shape
    assert any(c.isdigit() for c in found.reason)


@pytest.mark.parametrize("shape", CURVES)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_a_shape_does_not_depend_on_the_unit_of_the_loss(shape, scale, shift):
    """Multiplying a loss and adding a constant to it changes no shape."""
    low, high = scale * shift, scale * (1 + shift)
    losses = scale * (CURVES[shape] + NOISE + shift)
    moved = features(losses, start=high, lowest=low, lowest_by_now=low)
    assert diagnose_curve(moved).shape == shape


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 50, 99])
def test_a_loss_that_is_no_number_has_exploded_there(value, at):
    """NaN or infinity anywhere is an explosion at its step."""
    losses = CURVES["improving"].copy()
    losses[at] = value
    found = diagnose_curve(features(losses))
    assert (found.shape, found.since) == ("exploded", STEPS[at])


def test_a_run_ended_by_a_gradient_that_is_not_finite_names_its_term():
    """In half precision its updates are left out, so the loss stays; a run that went on has not
    ended by it.
    """
    metrics = {"loss": CURVES["underfitting"][:20] + NOISE[:20]}
    ended = sweep({0: metrics, 1: {"loss": CURVES["converged"] + NOISE}})
    blame = pd.DataFrame(
        {"trial": 0, "step": 200, "metric": "not_finite/attention.0/decoder.bias", "value": 1.0}
        | {"examples": math.nan, "seconds": 0.0},
        index=[0],
    )
    found = diagnose(replace(ended, curves=pd.concat([ended.curves, blame])))
    assert found["shape"][0] == "exploded"
    assert "the loss term attention.0 is not finite at step 200" in found["reason"][0]
    assert "mask" in found["advice"][0]
    earlier = diagnose(replace(ended, curves=pd.concat([ended.curves, blame.assign(step=100)])))
    assert earlier["shape"][0] != "exploded"


@given(st.lists(st.floats(-1e100, 1e100) | st.just(math.nan) | st.just(math.inf), max_size=40))
def test_any_curve_gets_a_shape(losses):
    """Whatever was reported, there is one shape of SHAPES and a reason, and no error."""
    found = diagnose_curve(
        features(np.array(losses), start=math.nan, lowest=math.nan, lowest_by_now=math.nan)
    )
    assert found.shape in SHAPES
    assert found.reason


def test_fewer_than_three_reports_are_broken():
    """A trial that ended before there was a curve says how it ended."""
    found = diagnose_curve(features(np.array([1.0, 0.9]), ended="failed: out of memory"))
    assert found.shape == "broken"
    assert "out of memory" in found.reason


def test_a_gradient_that_explodes_and_is_then_zero_has_died():
    """It rises far above its median, then is about 0, and the loss stays high; W goes first."""
    norms = np.where(np.arange(100) < 30, 1.0, 1e-7) + 0 * STEPS
    first = norms.copy()
    norms[30], first[29] = 500, 80
    e = explosion({"": (STEPS, norms), "U": (STEPS, norms), "W": (STEPS, first)})
    found = diagnose_curve(features(CURVES["underfitting"] + NOISE, explosion=e))
    assert (found.shape, found.parameter, found.since) == ("died", "W", STEPS[29])
    assert e.dead_since == STEPS[30]


def test_a_gradient_that_vanishes_because_all_is_learned_has_not_died():
    """A loss that is low has no need of a gradient: neither that of a spike nor one that goes with
    the loss.
    """
    norms = np.where(np.arange(100) < 30, 1.0, 1e-7)
    norms[30] = 500
    curves = {
        "loss": CURVES["converged"] + NOISE,
        "grad_norm": norms,
        "grad_norm/W": np.exp(-STEPS / 50),
    }
    assert gather(sweep({0: curves}))[0].explosion.dead_since is None
    e = explosion({"": (STEPS, norms)})
    assert diagnose_curve(features(CURVES["converged"] + NOISE, explosion=e)).shape == "converged"


def test_what_exploded_before_the_first_report_has_died():
    """Where the peak is the start of the run its median is of no use before it; a flicker of a dead
    norm is no news.
    """
    dead = np.full(100, 1e-3)
    dead[:3], dead[20] = (2800, 60, 30), 0.1
    output = np.full(100, 350.0)
    e = explosion(
        {
            "": (STEPS, dead + output),
            "W": (STEPS, dead),
            "U": (STEPS, dead / 2),
            "output": (STEPS, output),
        }
    )
    assert (e.parameter, e.step, e.dead_since) == ("W", STEPS[0], STEPS[3])


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=60))
def test_norms_within_a_factor_of_four_do_not_explode(norms):
    """Ordinary norms are no explosion."""
    assert explosion({"W": (np.arange(len(norms)) * 1.0, np.array(norms))}) is None


def test_a_norm_that_is_no_number_explodes_there():
    """A non-finite gradient names the first parameter it came from."""
    norms = np.ones(20)
    bad = norms.copy()
    bad[5] = np.nan
    e = explosion({"": (STEPS[:20], norms), "U": (STEPS[:20], norms), "b": (STEPS[:20], bad)})
    assert (e.step, e.parameter) == (STEPS[5], "b")


def test_validation_that_climbs_while_training_falls_is_overfitting():
    """Overfitting is since the step at which validation was best."""
    rising = np.where(U < 0.4, 1 - 1.5 * U, 0.4 + 0.5 * (U - 0.4)) + NOISE
    known = {"validation": signals(STEPS, rising), "validation_start": 1.0, "loss_then": 0.5}
    found = diagnose_curve(features(CURVES["improving"] + NOISE, **known))
    assert found.shape == "overfitting"
    assert abs(found.since - 400) <= 60


@pytest.mark.parametrize("peak", [0.25, 0.58])
def test_nothing_left_to_learn_is_no_convergence_where_validation_climbs(peak):
    """Training at 4e-5 and validation that climbs from its best: overfitting, also by much less
    than the way that training fell.
    """
    training = 2.3 * np.exp(-12 * U) + 4e-5
    validation = 2.3 * np.exp(-30 * U) + 0.5 * peak * (1 + U) + 0.1 * NOISE
    found = diagnose(sweep({0: {"loss": training, "val_loss": validation}}))
    assert found["shape"].tolist() == ["overfitting"]
    assert "climbs" in found["reason"][0]


@pytest.mark.parametrize("rise", [0.0, 0.1])
def test_training_worse_than_validation_draws_a_remark(rise):
    """Whatever the shape; not where it is better."""
    losses = 0.4 + 0.6 * np.exp(-40 * U) + 0.1 * NOISE
    for gap, remarked in ((0.1, True), (-0.1, False)):
        own = {"loss": losses, "val_loss": losses - gap + rise * U}
        [reason] = diagnose(sweep({0: own}))["reason"]
        assert ("worse than validation" in reason) == (remarked and rise < 0.1)


def test_a_period_of_one_epoch_is_the_order_of_the_examples():
    """It is said and wants a shuffle; one of another length wants another rate."""
    losses = CURVES["oscillating"] + NOISE
    period = 1000 / 8
    found = {
        steps: diagnose(sweep({0: {"loss": losses, "epoch": STEPS / steps}})).iloc[0]
        for steps in (period, 2 * period)
    }
    assert [row["shape"] for row in found.values()] == ["oscillating"] * 2
    assert "which is one epoch (125 steps): the examples' order" in found[period]["reason"]
    assert found[period]["advice"].startswith("shuffle the training examples")
    assert "epoch" not in found[2 * period]["reason"]
    assert found[2 * period]["advice"].startswith("lower")


def test_validation_far_above_training_once_stable_is_overfitting():
    """The gap counts once both are stable."""
    known = {
        "validation": signals(STEPS, 0.6 + 0.4 * np.exp(-20 * U) + NOISE),
        "validation_start": 1.0,
        "loss_then": 0.0,
    }
    assert diagnose_curve(features(CURVES["converged"] + NOISE, **known)).shape == "overfitting"


def test_alone_a_flat_curve_has_converged_unless_it_is_flat_early():
    """Without other trials nobody knows how low it could be."""
    alone = {"lowest": math.nan, "lowest_by_now": math.nan}
    assert diagnose_curve(features(CURVES["stalled"] + NOISE, **alone)).shape == "converged"
    assert (
        diagnose_curve(features(CURVES["fast_then_flat"] + NOISE, **alone)).shape
        == "fast_then_flat"
    )
    assert diagnose_curve(features(CURVES["slow"] + NOISE, **alone)).shape == "slow"


def test_facts_know_the_other_trials():
    """Start is the lower quartile of first reports, lowest that of any trial, smoothed; a reported
    rate is known.
    """
    curves = {
        0: {"loss": CURVES["converged"], "lr": 0.1 * (1 - U)},
        1: {"loss": CURVES["slow"][:50]},
        2: {"loss": CURVES["slow"]},
    }
    known = gather(sweep(curves))
    assert known[1].start == pytest.approx(
        np.quantile([c["loss"][0] for c in curves.values()], 0.25)
    )
    assert known[1].lowest == pytest.approx(CURVES["converged"][-3:].mean())
    assert known[1].lowest_by_now == pytest.approx(CURVES["converged"][47:50].mean())
    assert known[0].rate_share(500) == pytest.approx(0.5 / 0.99)
    assert math.isnan(known[1].rate_share(500))


def test_a_maximised_metric_is_turned_over():
    """Accuracy that rises is a loss that falls, and its validation is found by its name."""
    made = sweep(
        {
            n: {"accuracy": 1 - CURVES[s], "val_accuracy": 1 - CURVES[s]}
            for n, s in enumerate(("converged", "slow"))
        }
    )
    made = replace(made, metric="accuracy", directions=("maximize",))
    assert loss_metrics(made) == ("accuracy", "val_accuracy")
    assert list(diagnose(made)["shape"]) == ["converged", "slow"]


def test_a_maximised_metric_is_told_of_as_it_was_reported():
    """What is read of an accuracy is its own: no negative number, its name, and it rises where a
    loss would fall.
    """
    made = sweep(
        {n: {"accuracy": 1 - 0.5 * (losses + NOISE)} for n, losses in enumerate(CURVES.values())}
    )
    made = replace(made, metric="accuracy", directions=("maximize",))
    found = diagnose(made).set_index("shape")["reason"]
    assert set(found.index) == set(CURVES)
    for reason in found:
        assert "loss" not in reason
        assert not re.search(r"(?<![\w.])-\d", reason)
    assert "the accuracy diverges" in found["exploded"]
    assert "the accuracy rises to" in found["rebound"]
    assert "falls back by" in found["rebound"]
    assert "risen from" in found["underfitting"]
    assert "below the highest of the sweep" in found["converged"]
    assert "still rising" in found["improving"]
    assert re.search(r"another trial reached (0\.99|1)", found["stalled"])
    high = features(np.minimum(1 + 3 * U, 1.6) + NOISE, metric="accuracy", sign=-1.0, start=1.0)
    assert re.match(r"the accuracy falls from -1 to -1\.6\d* at", diagnose_curve(high).reason)


def test_a_loss_that_ends_above_its_start_has_not_hardly_fallen():
    """Flat a little below the start it has fallen by little, above it not at all; of a loss that
    has fallen by a third of the way nobody says hardly.
    """
    assert "fallen only 5% of the way" in diagnose_curve(features(0.95 + NOISE)).reason
    assert "has not fallen" in diagnose_curve(features(1.05 + NOISE)).reason


def test_a_collapse_after_learning_is_no_underfitting():
    """A loss that falls, then jumps back to the start for good, or far above it for a time, has
    exploded since then; one spike of a single report, or a slow climb, has not.
    """
    learned = np.exp(-10 * U) + NOISE
    for collapsed in (
        np.where(U < 0.8, learned, 1.0 + NOISE),
        np.where(U < 0.5, learned, 0.2 + 500 * np.exp(-60 * (U - 0.5))),
    ):
        found = diagnose_curve(features(collapsed))
        assert found.shape == "exploded"
        assert found.since == pytest.approx(810 if collapsed[-1] > 0.5 else 500, abs=10)
        assert diagnose_curve(features(collapsed, lowest=math.nan)).shape == "exploded"
    spike = learned.copy()
    spike[60] = 500.0
    assert diagnose_curve(features(spike)).shape == "converged"
    climbing = np.where(U < 0.3, learned, 0.05 + 0.9 * (U - 0.3))
    assert diagnose_curve(features(climbing)).shape == "rebound"


def test_a_steady_fall_from_a_high_start_is_no_explosion():
    """A trial whose own start lies far above the others' and that falls all the way is slow or
    improving; one that comes down at once, to stay at the start of the others, has exploded.
    """
    assert diagnose_curve(features(20 - 12 * U)).shape in ("slow", "improving")
    assert diagnose_curve(features(1 + 50 * np.exp(-3 * U))).shape in ("slow", "improving")
    assert diagnose_curve(features(1 + 50 * np.exp(-100 * U) + NOISE)).shape == "exploded"


def test_a_loss_that_wanders_about_its_start_is_no_explosion():
    """Where no trial has learned, a rise of less than what is below the start later is none, and
    the rate is not to be lowered; a rise far beyond is one.
    """
    # Measured: digits at a rate 10,000 times too low, whose seeds see the same batches.
    one = 2.3 + 1e-3 * np.array([4.0, 4.9, 16.9, 8.5, 7.5, 10.1, 11.1, 13.0, 17.4, 12.6, -0.6, 1.6])
    wandering = {n: one + 1e-4 * n for n in range(5)}
    found = diagnose(sweep({n: {"loss": v} for n, v in wandering.items()}, **LR))
    assert not found["shape"].eq("exploded").any()
    assert not any("lower" in advice for advice in found["advice"])
    risen = {**wandering, 5: np.where(U[:12] > 0.03, 2.6, 2.3) + NOISE[:12]}
    assert (
        diagnose(sweep({n: {"loss": v} for n, v in risen.items()}, **LR))["shape"][5] == "exploded"
    )


def test_flat_begins_where_the_loss_is_near_its_end():
    """The step since which a loss is called flat is one at which it stands at that value."""
    falling = 0.04 + 2.3 * np.exp(-U * 14)
    found = diagnose_curve(features(falling, start=2.34, lowest=math.nan))
    at = float(np.interp(found.since, STEPS, falling))
    assert abs(at - 0.04) < 0.05 * 2.3


def test_a_warm_up_that_outlasts_the_run_is_said():
    """A loss that still falls while its rate still rises is slow for that; one whose rate has come
    up, or is constant, is not.
    """
    falling = 1 - 0.3 * U**2
    rising = diagnose_curve(features(falling, rates=(STEPS, 1e-3 * U)))
    assert rising.shape == "slow"
    assert "its warm-up is not over" in rising.reason
    for rates in (np.minimum(U, 0.2), np.ones(100), U[::-1]):
        other = diagnose_curve(features(falling, rates=(STEPS, rates)))
        assert "warm-up" not in other.reason


def test_training_that_stays_above_validation_has_its_loss_in_its_examples():
    """As of wrong labels: what is left is no matter of the rate, whatever the others reached."""
    noisy = 0.6 + 0.4 * np.exp(-10 * U) + NOISE
    clean = signals(STEPS, 0.2 + 0.8 * np.exp(-10 * U))
    found = diagnose_curve(features(noisy, validation=clean, validation_start=1.0))
    assert found.shape == "converged"
    assert "in its examples" in found.reason
    alike = signals(STEPS, 0.62 + 0.38 * np.exp(-10 * U))
    found = diagnose_curve(features(noisy, validation=alike, validation_start=1.0))
    assert "in its examples" not in found.reason


def test_a_gradient_that_never_was_is_a_dead_start():
    """A parameter whose gradient is about 0 from the first report on is named; small ones live."""
    norms = {"": (STEPS, np.ones(100)), "a": (STEPS, np.zeros(100)), "b": (STEPS, np.ones(100))}
    flat = 1.0 + NOISE
    assert _never_alive(norms) == "a"
    assert _never_alive({**norms, "a": (STEPS, np.full(100, 1e-3))}) == ""
    found = diagnose_curve(features(flat, never_alive="a"))
    assert (found.shape, found.parameter) == ("died", "a")
    assert diagnose_curve(features(np.exp(-5 * U), never_alive="a")).shape != "died"


def test_seeds_of_one_setting_have_one_shape_and_one_fix():
    """The most frequent shape is that of all, and each run says what it would be alone; if one
    exploded, so did the setting. There is one fix.
    """
    own = {0: CURVES["stalled"], 1: CURVES["rebound"], 2: CURVES["stalled"] + NOISE}
    best = {3: np.exp(-15 * U)}
    found = diagnose(
        sweep({n: {"loss": c} for n, c in (own | best).items()}, setting=[0, 0, 0, 3], **LR)
    )
    assert list(found["shape"]) == ["stalled"] * 3 + ["converged"]
    assert "2 of 3 seeds: stalled; this one alone: rebound" in found["reason"][1]
    assert "(2 of 3 seeds)" in found["reason"][0]
    assert found["fix"][:3].nunique() == 1
    risky = {**own, 2: CURVES["exploded"]}
    found = diagnose(sweep({n: {"loss": c} for n, c in risky.items()}, setting=[0, 0, 0], **LR))
    assert set(found["shape"]) == {"exploded"}


@pytest.mark.parametrize("first", [0, 1, 10, 50_000])
@pytest.mark.parametrize("shape", ["fast_then_flat", "stalled", "slow", "improving"])
def test_a_shape_does_not_depend_on_where_steps_begin(shape, first):
    """Steps counted from 0, from 1, or on from another run give the same shape."""
    best = np.exp(-20 * U)
    made = sweep({0: {"loss": CURVES[shape]}, 1: {"loss": best}})
    steps = made.curves["step"] - 10 + first
    moved = replace(
        made,
        curves=made.curves.assign(step=steps),
        trials=made.trials.assign(n_steps=1000 + first - 10),
    )
    assert diagnose(moved)["shape"][0] == diagnose(made)["shape"][0] == shape


def test_validation_is_told_of_as_it_was_reported_too():
    """A training loss falls while validation accuracy falls; of two accuracies training rises above
    validation.
    """
    losses, turning = np.exp(-3 * U), 0.8 - np.abs(U - 0.4)
    mixed = sweep({0: {"loss": losses, "val_accuracy": turning}})
    (reason,) = diagnose(replace(mixed, metric="val_accuracy", directions=("maximize",)))["reason"]
    assert re.search(r"validation is best, 0\.79\d*, at step 4\d\d and falls to 0\.2", reason)
    assert re.search(r"while training falls from 0\.3\d* to 0\.05", reason)
    apart = sweep(
        {0: {"accuracy": 1 - np.exp(-15 * U), "val_accuracy": 0.6 * (1 - np.exp(-15 * U))}}
    )
    (reason,) = diagnose(replace(apart, metric="accuracy", directions=("maximize",)))["reason"]
    assert reason == "validation stays at 0.6, 0.4 below training at 1"


@pytest.mark.parametrize("shape", ["converged", "slow", "fast_then_flat", "oscillating"])
@pytest.mark.parametrize("level", [0.001, 0.2, 0.9])
def test_a_loss_is_not_compared_with_an_accuracy(shape, level):
    """Whether it lies above or below means nothing: no gap, and no word of validation, while the
    same two curves by the name of a loss are compared.
    """
    losses = CURVES[shape]
    accuracy = level * (1 - np.exp(-9 * U)) + 0.01 * NOISE
    made = sweep({0: {"loss": losses, "val_acc": accuracy}})
    watched = replace(made, metric="val_acc", directions=("maximize",))
    found = diagnose(watched).loc[0]
    assert "validation" not in f"{found['reason']} {found['advice']}"
    assert math.isnan(convergence(watched).loc[0, "val_gap"])
    alike = sweep({0: {"loss": losses, "val_loss": level - accuracy}})
    assert not math.isnan(convergence(alike).loc[0, "val_gap"])


@pytest.mark.parametrize(
    ("watched", "known", "expected"),
    [
        ("loss", ["loss", "lr", "val_loss", "test_loss"], ("loss", "val_loss")),
        ("val_loss", ["loss", "val_loss"], ("loss", "val_loss")),
        ("val_loss", ["val_loss"], ("val_loss", None)),
        ("loss", ["loss", "train_loss"], ("train_loss", "loss")),
        ("perplexity", ["perplexity", "val_loss"], ("perplexity", None)),
    ],
)
def test_training_and_validation_are_told_apart_by_name(watched, known, expected):
    """The watched metric is one of the two; the other is of its kind."""
    made = sweep({0: dict.fromkeys(known, CURVES["slow"])})
    assert loss_metrics(replace(made, metric=watched)) == expected


def test_repeated_and_disordered_steps_keep_the_last_report():
    """A trial that went back to a checkpoint reports a step again: what came last counts."""
    frame = pd.DataFrame(
        {"trial": 3, "step": [1, 2, 3, 2], "metric": "loss", "value": [1.0, 2.0, 3.0, 4.0]}
    )
    steps, values = curves_of(frame, "loss")[3]
    assert list(steps) == [1, 2, 3]
    assert list(values) == [1, 4, 3]
    assert curves_of(frame, "other") == {}


def test_a_table_has_a_row_for_each_trial_that_can_be_judged():
    """Columns as documented; a running trial with too few reports is left out, one that failed
    early is broken.
    """
    curves = {
        0: {"loss": CURVES["converged"]},
        1: {"loss": CURVES["slow"]},
        2: {"loss": np.ones(2)},
        3: {"loss": np.ones(2)},
    }
    found = diagnose(sweep(curves, state=["complete", "pruned", "running", "fail"]))
    assert list(found.columns) == ["shape", "since", "reason", "parameter", "fix", "advice"]
    assert found["shape"].to_dict() == {0: "converged", 1: "slow", 3: "broken"}
    assert found.index.name == "trial"


def of_csv(folder, steps, curves):
    """The diagnoses of curves [trial][report] that another tool wrote."""
    rows = [
        (i, step, loss) for i, own in curves.items() for step, loss in zip(steps, own, strict=True)
    ]
    pd.DataFrame(rows, columns=["trial", "step", "loss"]).to_csv(folder / "runs.csv", index=False)
    return diagnose(load(folder / "runs.csv"))


def test_a_slow_curve_is_no_explosion_where_first_reports_differ(tmp_path):
    """Where trials first report at very different losses, one that only ever fell has not
    exploded.
    """
    epochs = np.arange(1, 31)
    rates = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.003)
    found = of_csv(
        tmp_path,
        epochs,
        {i: 0.4 + 1.9 * np.exp(-6 * rate * epochs) for i, rate in enumerate(rates)},
    )
    assert set(found["shape"]) == {"converged", "improving", "slow"}
    assert found["shape"][7] == "slow"


def test_an_explosion_before_the_first_report_is_seen_by_the_others(tmp_path):
    """A trial whose first report is already far above where the others begin has exploded, if it
    stays there.
    """
    steps = np.arange(0, 300, 10)
    well = {i: 2.3 * np.exp(-steps / (50 + 20 * i)) for i in range(4)}
    found = of_csv(tmp_path, steps, well | {4: np.full(30, 40.0), 5: np.full(30, 90.0)})
    assert list(found["shape"][[4, 5]]) == ["exploded", "exploded"]


def test_a_trial_without_a_curve_is_ill_only_if_it_failed():
    """One that only returned its result, was pruned at once, never ran or repeats a failed one has
    no diagnosis.
    """
    states = ["complete", "pruned", "pruned", "fail", "fail", "running"]
    made = sweep({n: {"loss": np.ones(3)} for n in range(6)}, state=states)
    whys = [
        "completed",
        "infeasible: too hot",
        "duplicate: of trial 2",
        "failed: Error",
        "duplicate: of trial 3",
        "",
    ]
    found = diagnose(
        replace(made, curves=made.curves.iloc[:0], trials=made.trials.assign(why=whys))
    )
    assert found["reason"].to_dict() == {3: "no finite report: failed: Error"}
    assert found["shape"].tolist() == ["broken"]


def test_one_report_is_counted_as_one():
    """The reason has its grammar."""
    assert diagnose_curve(features(np.ones(1))).reason.startswith("only 1 finite report:")
