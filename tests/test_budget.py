"""A sweep that ends by itself: its budget is spent, or nothing is to be gained any more."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.curves import read_curves

sys.path.insert(0, str(Path(__file__).parent / "apps"))
from counting import next_state

TWO = ("hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=4")


def counting(tmp_path: Path, n_steps: int, *more: str) -> list[str]:
    diary = f"diary={tmp_path / 'diary'}"
    return ["counting.py", "x=interval(0, 1)", f"n_steps={n_steps}", "every=1000", diary, *more]


def test_a_budget_is_kept_over_sessions(sweep: Any, study: Any, tmp_path: Path) -> None:
    """When it is spent no trial runs on or begins; with a larger one they go on from their
    checkpoints, no step taken twice, and the same command without one has nothing to run.
    """
    given = counting(tmp_path, 300, *TWO, "step_s=0.02")  # two trials of 6 s each, and two more
    run = sweep(*given, "hydra.sweeper.budget=3s").ok()
    assert "no new trials: the budget of 3s is spent: running trials are stopped" in run.out
    assert "4 trials of 4 are left (2 of them begun, to go on from their checkpoints)" in run.out
    assert "hydra.sweeper.budget=6s hydra.sweeper.n_trials=4" in run.out  # the command that goes on
    trials = study().trials
    assert [t.state for t in trials] == [TrialState.WAITING] * 2
    steps = read_curves(tmp_path / "study" / "curves").to_pandas().groupby("trial")["step"].max()
    assert steps.max() <= 3 / 0.02 + 1

    again = sweep(*given, "hydra.sweeper.budget=3s").ok()
    assert "Nothing was run. The budget of 3s is spent" in again.out
    assert len(study().trials) == 2

    done = sweep(*given, "hydra.sweeper.budget=5 core-min").ok()
    assert "is spent" not in done.out
    assert [t.state for t in study().trials] == [TrialState.COMPLETE] * 4
    lines = (tmp_path / "diary").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 4 * 300
    for trial in study().trials:
        state = {"step": 0, "total": trial.params["x"]}
        for _ in range(300):
            state = next_state(state)
        assert trial.value == state["total"]


def costs(study: Any) -> list[Any]:
    """What each session has noted."""
    attrs = compat.storage_of(study).get_study_system_attrs(compat.study_id(study))
    return [value for key, value in attrs.items() if key.startswith("iolaus:cost:")]


@pytest.mark.slow
def test_a_killed_session_counts(sweep: Any, study: Any, eventually: Any, tmp_path: Path) -> None:
    """What a driver noted before it was killed is spent."""
    given = counting(tmp_path, 100_000, *TWO, "step_s=0.02")
    run = sweep(*given)
    eventually((tmp_path / "diary").is_file)
    noted = eventually(lambda: costs(study()))
    assert 9 < noted[0]["wall_s"] < 15
    assert noted[0]["core_s"] > noted[0]["wall_s"] / 2
    run.signal(signal.SIGKILL)
    run.wait()
    again = sweep(*given, "hydra.sweeper.budget=9s").ok()
    assert "Nothing was run. The budget of 9s is spent" in again.out


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        ("2", "give a wall time such as 90min or 2h, or a compute time such as '500 gpu-min'"),
        ("500 gpu-min", "no GPU is visible here, so none of it would ever be spent"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(
    budget: str, why: str, sweep: Any, tmp_path: Path
) -> None:
    """Before anything runs."""
    run = sweep(
        "parabola.py", "lr=interval(0, 1)", f"hydra.sweeper.budget={budget}",
        CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert run.wait().code == 1
    assert f"hydra.sweeper.budget={budget}: {why}" in run.err
    assert not (tmp_path / "study" / "study.db").exists()


NO_GAIN = "hydra.sweeper.stop_when={no_gain:{p:0.5,n:5}}"  # after 5 trials without a gain


def test_a_sweep_that_gains_nothing_ends(sweep: Any, study: Any) -> None:
    """All trials of a constant task are equal; the sweep says why it ends, and goes on if asked."""
    given = ["trouble.py", "x=interval(0, 1)", "do=report and return", "hydra.sweeper.n_jobs=2"]
    given += ["hydra.sweeper.objective=best", "hydra.sweeper.n_trials=40"]
    run = sweep(*given, NO_GAIN).ok()
    assert "no new trials: no gain is to be expected: none of" in run.out
    assert "hydra.sweeper.stop_when=null hydra.sweeper.n_trials=40" in run.out
    assert 6 <= len(study().trials) <= 8  # one that ran beside the last may finish
    n_trials = len(study().trials)

    again = sweep(*given, NO_GAIN).ok()
    assert "Nothing was run: no gain is to be expected" in again.out
    assert len(study().trials) == n_trials

    sweep(*given[:-1], f"hydra.sweeper.n_trials={n_trials + 2}").ok()
    assert len(study().trials) == n_trials + 2


def test_a_sweep_that_gains_goes_on(sweep: Any, study: Any) -> None:
    """Each trial is better than the one before: none is given up."""
    given = ["trouble.py", "x=range(0, 25)", "hydra/sweeper/sampler=grid", "do=return"]
    given += ["hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize"]
    run = sweep(*given, "hydra.sweeper.n_trials=25", NO_GAIN).ok()
    assert "no gain" not in run.out
    assert [t.value for t in study().trials] == [*range(25)]


def test_no_gain_needs_one_objective(sweep: Any) -> None:
    """Of several there is no one best; a rule that is none is refused by name."""
    run = sweep("two_objectives.py", "hydra.sweeper.direction=[minimize,minimize]", NO_GAIN)
    assert run.wait().code == 1
    assert "several objectives have no one best to improve on" in run.err
    run = sweep("parabola.py", "lr=interval(0, 1)", "hydra.sweeper.stop_when=bored").wait()
    assert "hydra.sweeper.stop_when=bored: give no_gain" in run.err
