"""Two sweeps that share a study, of which one is killed or suspended."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from iolaus.sweeps.study.record import record_of

N_TRIALS = 24
APP = ("trouble.py", "x=interval(0, 1)", "do=report", "n_steps=20", "step_s=0.05")


@pytest.fixture
def shared(sweep: Any, tmp_path: Path) -> Any:
    """Starts a driver of one study, in a folder of its own."""
    options = [
        *("hydra.sweeper.n_jobs=2", f"hydra.sweeper.n_trials={N_TRIALS}"),
        *("hydra.sweeper.study_name=shared", f"hydra.sweeper.storage=sqlite:///{tmp_path}/s.db"),
        "hydra.sweeper.grace_period=3s",
    ]
    return lambda name: sweep(*APP, *options, folder=tmp_path / name)


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/s.db")
    if "shared" not in [study.study_name for study in storage.get_all_studies()]:
        return []
    return optuna.load_study(study_name="shared", storage=storage).trials


def n_drivers_running(folder: Path) -> int:
    running = [t for t in trials_of(folder) if t.state is TrialState.RUNNING]
    return len({record_of(t).driver for t in running})


def both_running(shared: Any, eventually: Any, folder: Path) -> tuple[Any, Any]:
    """Two drivers, each of which has a trial."""
    one = shared("one")
    eventually(lambda: n_drivers_running(folder) == 1)
    other = shared("other")
    eventually(lambda: n_drivers_running(folder) == 2)
    return one, other


def suspend(run: Any, database: Path) -> None:
    """Stop a driver at a moment when it does not hold SQLite's lock, which would stop all."""
    while True:
        run.signal(signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(database, timeout=0.5)) as connection:
                connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError:
            run.signal(signal.SIGCONT)
            time.sleep(0.02)


def assert_exact(trials: list[optuna.trial.FrozenTrial]) -> None:
    """The total is exact, and every trial has a result and a driver."""
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * N_TRIALS
    assert all(record_of(trial).driver for trial in trials)


def test_what_a_killed_driver_ran_is_run_by_the_other(
    shared: Any, eventually: Any, tmp_path: Path
) -> None:
    """A driver of the same machine goes on with it at once, and ends when all is done."""
    one, other = both_running(shared, eventually, tmp_path)
    one.signal(signal.SIGKILL)
    other.ok()
    assert_exact(trials_of(tmp_path))
    assert "their driver died, they go on" in other.out + other.err
    assert any(record_of(trial).interruptions for trial in trials_of(tmp_path))


def test_a_driver_that_was_suspended_drops_what_is_another_s(
    shared: Any, eventually: Any, tmp_path: Path
) -> None:
    """Silent for longer than the grace period, it loses its trials, and says so when it wakes."""
    one, other = both_running(shared, eventually, tmp_path)
    suspend(one, tmp_path / "s.db")
    other.ok()
    assert_exact(trials_of(tmp_path))
    before = [trial.values for trial in trials_of(tmp_path)]
    one.signal(signal.SIGCONT)
    one.ok()
    assert "is another driver's now" in one.out + one.err
    assert_exact(trials_of(tmp_path))
    assert [trial.values for trial in trials_of(tmp_path)] == before
