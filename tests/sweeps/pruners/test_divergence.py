"""A finite loss that has left its own past for good, and what looks like it."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from iolaus.sweeps.pruners import Holdout, StalledLoss
from iolaus.sweeps.pruners.curve_pruner import StudyView
from iolaus.sweeps.pruners.divergence import left_its_past
from iolaus.sweeps.signals import N_TAIL, lost_since
from iolaus.sweeps.types import Plan

N = 100
X = np.arange(float(N))
FALL = 0.2 + 2.1 * np.exp(-X / 15)


def noisy(losses: np.ndarray, seed: int, noise: float = 0.02) -> np.ndarray:
    return losses + noise * np.random.default_rng(seed).normal(size=len(losses))


def jump(at: int, to: float, until: int = N) -> np.ndarray:
    """The fall, but for the reports [at, until), which stand at `to`."""
    return np.where((at <= X) & (until > X), to, FALL)


def first_verdict(losses: np.ndarray, n_steps: int = N) -> int | None:
    """The report at which the loss is first said to be lost."""
    said = (lost_since(X[:n], losses[:n], n_steps) is not None for n in range(1, len(losses) + 1))
    return next((n for n, lost in enumerate(said) if lost), None)


@given(at=st.integers(10, 60), seed=st.integers(0, 50), to=st.floats(4.2, 1e6))
@settings(max_examples=30, deadline=None)
def test_a_jump_that_stays_is_lost_after_a_quarter_of_the_run(at, seed, to):
    """The loss that jumps above its start and stays is lost since the jump, a quarter later."""
    losses = noisy(jump(at, to), seed)
    found = first_verdict(losses)
    assert found is not None
    assert at + N // 4 - 1 <= found <= at + N // 4 + 3
    assert lost_since(X[: found + 1], losses[: found + 1], N) == at


@given(at=st.integers(5, 70), length=st.integers(1, 24), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_what_comes_back_within_a_quarter_of_the_run_is_not_lost(at, length, seed):
    """A spike of any height and up to a quarter of the run ends nothing."""
    assert first_verdict(noisy(jump(at, 1e4, at + length), seed)) is None


@given(rise=st.floats(0, 6), seed=st.integers(0, 200), noise=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_what_stays_within_half_its_fall_of_its_start_is_not_lost(rise, seed, noise):
    """A plateau however noisy, and a curve that goes back to where it began, are not lost."""
    flat = noisy(np.zeros(N), seed, noise)
    back = noisy(np.where(X < 40, FALL, min(rise, 2.3)), seed, 0.02)
    assert first_verdict(flat) is None
    assert first_verdict(back) is None


def test_a_loss_on_course_back_is_not_lost():
    """A warm-up hump, or an explosion that decays like the steps to the power -1, goes on."""
    hump = FALL + 20 * np.exp(-(((X - 12) / 8) ** 2))
    decays = np.where(X < 9, 2.8 - 0.01 * X, 2.0 + 60 * 9 / np.maximum(X, 1))
    assert first_verdict(hump) is None
    assert lost_since(X[:40], decays[:40], N) is None
    stays = np.where(X < 9, decays, np.maximum(decays, 40.0))
    assert lost_since(X[:40], stays[:40], N) == 9


@given(scale=st.sampled_from([1e-200, 1e-3, 1e200]), shift=st.floats(-100, 100))
@settings(max_examples=20, deadline=None)
def test_the_unit_and_the_zero_of_a_loss_do_not_matter(scale, shift):
    """Multiplied, or shifted, the same loss is lost at the same report."""
    losses = noisy(jump(30, 8.0), 0)
    assert first_verdict(losses * scale) == first_verdict(losses)
    assert first_verdict(losses + shift) == first_verdict(losses)


def test_too_few_reports_say_nothing():
    """Before N_TAIL reports above, and without three before them, nothing is lost."""
    losses = np.array([2.0, 1.9, 1.8, *[9.0] * N_TAIL])
    steps = 1000.0 * np.arange(len(losses))
    assert lost_since(steps[:-1], losses[:-1], 10) is None
    assert lost_since(steps, losses, 10) == 3000
    assert lost_since(steps[1:], losses[1:], 10) is None


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_verdict_names_start_jump_and_best(direction):
    """It ends a trial that is alone, in both directions, and says how it was before."""
    losses = jump(40, 5.0) * (1 if direction == "minimize" else -1)

    def objective(trial: optuna.Trial) -> float:
        for step, loss in enumerate(losses):
            trial.report(float(loss), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(losses[-1])

    study = optuna.create_study(pruner=StalledLoss(n_steps=N), direction=direction)
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    sign = "" if direction == "minimize" else "-"
    assert (trial.state, trial.last_step) == (TrialState.PRUNED, 64)
    assert trial.user_attrs["verdict_rule"] == "diverged"
    assert trial.user_attrs["verdict"] == (
        f"diverged: worse than where it began ({sign}2.3) at every report since step 40 and not on "
        f"course back: {sign}5 at step 64, after {sign}0.356 at step 39"
    )


def test_a_loss_above_its_past_is_not_called_stalled():
    """Without peers it would be, within ten reports: it comes back, or has diverged."""
    losses = jump(40, 5.0)
    pruner = StalledLoss(n_steps=N)
    steps = zip(X[:64], losses[:64], strict=True)
    assert not [s for s, loss in steps if pruner.observe(0, int(s), float(loss), Plan(N))]


def test_at_the_last_step_nothing_is_left_to_save():
    """A trial that has come to its end is not ended."""
    losses = jump(40, 5.0)
    assert left_its_past(X, losses, N) is None
    assert left_its_past(X[:-1], losses[:-1], N) is not None


def test_a_trial_that_has_left_its_past_is_neither_paused_nor_held_out():
    """In a sweep that pauses and holds out every stop, the verdict still ends it."""
    study = optuna.create_study()
    study.ask()
    pruner = Holdout(StalledLoss(), holdout_fraction=1.0)
    pruner.start(StudyView(study, lambda number: study.trials[number], pauses=True))
    losses = jump(40, 5.0)
    said = (
        pruner.observe(0, int(s), float(loss), Plan(N)) for s, loss in zip(X, losses, strict=True)
    )
    verdict = next(v for v in said if v is not None)
    assert (verdict.rule, verdict.step, verdict.numbers["diverged_since"]) == ("diverged", 64, 40)
