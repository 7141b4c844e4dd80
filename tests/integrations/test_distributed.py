"""Distributed training in a trial: ranks that run the sweep's command line join the trial."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState


def test_a_rank_runs_the_trial_and_no_sweep(sweep: Any, tmp_path: Path) -> None:
    """Told by the environment: the trial's settings, in the trial's folder; no study is made."""
    overrides = ["x=0.25", "n_steps=3", "step_s=0", f"diary={tmp_path / 'diary'}"]
    trial = json.dumps({"trial": 7, "overrides": overrides})
    sweep("counting.py", "x=interval(0, 1)", IOLAUS_CHILD_TRIAL=trial, RANK="1").ok()
    assert (tmp_path / "diary").read_text() == "7 1\n7 2\n7 3\n"
    assert not (tmp_path / "study/study.db").exists()
    assert (tmp_path / "study/7").is_dir()


@pytest.mark.slow
def test_lightning_with_two_ranks_is_pruned_on_both(sweep: Any, study: Any) -> None:
    """Trials in two ranks finish or are pruned, one after the other, and none fails: a worker that
    has been a rank takes no other trial.
    """
    pruner = "{_target_:optuna.pruners.PercentilePruner,percentile:0.1,n_startup_trials:1}"
    sweep(
        *("lightning_app.py", "lr=choice(0.1, 1e-3, 1e-4)", "hydra/sweeper/sampler=grid"),
        *("hydra.sweeper.metric=val_loss", "devices=2", "hydra.sweeper.n_jobs=1"),
        *(f"+hydra.sweeper.pruner={pruner}", "hydra.sweeper.holdout_fraction=0"),
    ).ok(200)
    trials = study().trials
    assert trials[0].state is TrialState.COMPLETE
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.slow
def test_lightning_goes_on_after_a_kill(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """Kill -9 of everything in the middle: no epoch but the one under way is made twice."""
    diary = tmp_path / "diary"
    given = ("lightning_app.py", "lr=choice(0.1)", "hydra/sweeper/sampler=grid", f"diary={diary}")
    given += ("hydra.sweeper.metric=val_loss", "epochs=12", "hydra.sweeper.n_jobs=1")
    run = sweep(*given, STEP_S="0.05")
    eventually(lambda: diary.exists() and len(diary.read_text().split()) >= 4)
    run.signal_all(signal.SIGKILL, "all from the top")
    sweep(*given).ok()
    epochs = [int(line) for line in diary.read_text().split()]
    assert sorted({*epochs}) == list(range(12))
    assert len(epochs) <= 13
    assert [trial.state for trial in study().trials] == [TrialState.COMPLETE]


RANKS = ("ranks.py", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=1", "hydra.job.chdir=true")
FIRST_IS_BEST = "{_target_:optuna.pruners.PercentilePruner,percentile:0.1,n_startup_trials:1}"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torchrun", "spawn"])
def test_ranks_that_a_trial_starts_report_and_are_pruned(
    how: str, sweep: Any, study: Any, tmp_path: Path
) -> None:
    """Rank 0's reports are the trial's, and end it and the other ranks; no trial fails."""
    diary = tmp_path / "diary"
    given = ("+lr=choice(0.5,2.0)", "+n_steps=8", "+step_s=0.1", f"+how={how}", f"+diary={diary}")
    pruner = (f"+hydra.sweeper.pruner={FIRST_IS_BEST}", "hydra.sweeper.holdout_fraction=0")
    done = sweep(*RANKS, *given, *pruner, "hydra.sweeper.on_prune=stop").ok(200)
    best, other = study().trials
    assert (best.state, best.value) == (TrialState.COMPLETE, 1.0), done.out
    assert list(best.intermediate_values) == list(range(8))
    assert other.state is TrialState.PRUNED, done.out
    assert len(other.intermediate_values) < 8
    assert len(diary.read_text().split("\n")) < 17


@pytest.mark.slow
def test_ranks_go_on_after_a_kill(sweep: Any, study: Any, eventually: Any, tmp_path: Path) -> None:
    """Kill -9 of everything in the middle: the ranks go on from the checkpoint that rank 0 made."""
    diary = tmp_path / "diary"
    given = ("+lr=choice(0.5)", "+n_steps=14", "+step_s=0.2", "+how=torchrun", f"+diary={diary}")
    run = sweep(*RANKS, *given)
    eventually(lambda: diary.exists() and len(diary.read_text().splitlines()) >= 8)
    run.signal_all(signal.SIGKILL, "all from the top")
    sweep(*RANKS, *given).ok(100)
    steps = [int(line.split()[1]) for line in diary.read_text().splitlines()]
    assert sorted({*steps}) == list(range(14))
    assert 14 < len(steps) <= 14 + 6
    (trial,) = study().trials
    assert trial.state is TrialState.COMPLETE
