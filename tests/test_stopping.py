"""What ends a sweep before its time, from outside: whose word it is, and with which exit code."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

GRID = ["hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=2", "x=range(0, 6)"]
INTERRUPTED = "the sweep was stopped while it ran"


def started(sweep: Any, eventually: Any, diary: Path, *settings: str) -> Any:
    """A sweep whose first two trials have begun."""
    run = sweep("trouble.py", *GRID, f"diary={diary}", *settings)
    eventually(lambda: diary.is_file() and len(diary.read_text().splitlines()) >= 2)
    return run


@pytest.mark.parametrize(
    ("number", "order"),
    [
        (signal.SIGTERM, "the driver"),
        pytest.param(signal.SIGTERM, "all from the top", marks=pytest.mark.slow),
        (signal.SIGTERM, "all from the bottom"),
        (signal.SIGHUP, "the driver"),
        (signal.SIGHUP, "all from the bottom"),
    ],
)
def test_the_end_of_a_job_is_the_end_of_the_sweep(
    number: int, order: str, sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """A scheduler's signal queues running trials again, in whichever order processes get it; the
    summary follows, the code is that of the signal, and the same command goes on.
    """
    run = started(sweep, eventually, tmp_path / "diary", "pause_s=60")
    run.signal_all(number, order)
    run.wait()
    assert run.code == 128 + number, run.err
    assert "Traceback" not in run.err
    assert f"no new trials: {signal.Signals(number).name}: running trials are" in run.out
    assert "next:" in run.out
    trials = study().trials
    assert [t.state for t in trials] == [TrialState.WAITING] * 2
    assert [t.user_attrs["interruptions"] for t in trials] == [[INTERRUPTED]] * 2


def test_ctrl_c_that_leaves_trials_unrun_is_an_exit_code(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """130 where the same command has more to do; 0 where all trials were running and finished."""
    diary = tmp_path / "diary"
    run = started(sweep, eventually, diary, "pause_s=1")
    run.signal(signal.SIGINT)
    assert run.wait().code == 130, run.err
    assert "next:" in run.out
    assert [t.state for t in study().trials] == [TrialState.COMPLETE] * 2

    run = sweep("trouble.py", *GRID, f"diary={diary}", "hydra.sweeper.n_trials=4", "pause_s=1")
    eventually(lambda: len(diary.read_text().splitlines()) == 4)
    run.signal(signal.SIGINT)
    assert run.wait().code == 0, run.err


def test_a_signal_to_one_worker_is_the_death_of_its_trial(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """SIGTERM to a worker alone fails its trial, by name; another worker runs the others."""
    diary = tmp_path / "diary"
    run = started(sweep, eventually, diary, "pause_s=1", "hydra.sweeper.n_trials=4")
    _, victim, _ = run.descendants()
    os.kill(victim, signal.SIGTERM)
    run.ok()
    (failed,) = (t for t in study().trials if t.state is TrialState.FAIL)
    assert failed.user_attrs["why"] == f"failed: its worker process {victim} was killed by SIGTERM"
    assert sum(t.state is TrialState.COMPLETE for t in study().trials) == 3


def test_a_terminal_that_closes_ends_the_sweep_in_order(
    eventually: Any, study: Callable[..., optuna.Study], tmp_path: Path
) -> None:
    """Trials are queued again and the results are written, though nobody can read the summary."""
    app, diary = Path(__file__).parent / "apps" / "trouble.py", tmp_path / "diary"
    command = [
        *(sys.executable, str(app), "--multirun", "hydra/sweeper=iolaus", *GRID, "pause_s=60"),
        *(f"diary={diary}", f"hydra.sweep.dir={tmp_path / 'study'}", "hydra.sweeper.report=null"),
    ]
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(terminal), os.O_RDWR)),  # ours to control
    ) as process:  # fmt: skip
        os.close(terminal)
        os.set_blocking(ours, False)
        eventually(lambda: diary.is_file() and len(diary.read_text().splitlines()) == 2)
        os.close(ours)
        assert process.wait(20) == 128 + signal.SIGHUP
    assert (tmp_path / "study" / "optimization_results.yaml").is_file()
    assert not [t for t in study().trials if t.state is TrialState.RUNNING]


def test_a_child_that_survives_does_not_hold_the_folder(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """After the driver's death the same command goes on at once, whoever is left of the old job."""
    given = ("do=fork", "hydra.sweeper.n_jobs=1", "x=choice(1, 2)")
    run = sweep("trouble.py", GRID[0], *given, "step_s=60")
    child = int(eventually(lambda: [p.read_text() for p in tmp_path.glob("study/*/child")])[0])
    try:
        run.signal(signal.SIGKILL)
        run.wait()
        os.kill(child, 0)  # it is there
        sweep("trouble.py", GRID[0], *given, "step_s=0").ok()
    finally:
        for path in tmp_path.glob("study/*/child"):
            os.kill(int(path.read_text()), signal.SIGKILL)
    assert sum(t.state is TrialState.COMPLETE for t in study().trials) == 2


def test_without_the_process_that_starts_workers_the_sweep_ends_in_order(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """Nothing stays RUNNING, the summary follows, the sentence says what to do, and that helps."""
    diary = tmp_path / "diary"
    run = started(sweep, eventually, diary, "pause_s=60")
    fork_server, victim, other = run.descendants()
    os.kill(fork_server, signal.SIGKILL)
    os.kill(victim, signal.SIGKILL)
    assert run.wait().code == 1
    assert "the process that starts workers is gone" in run.err
    assert "Traceback" not in run.err + run.out
    assert "next:" in run.out
    assert not [t for t in study().trials if t.state is TrialState.RUNNING]
    eventually(lambda: not Path(f"/proc/{other}").exists())
    sweep("trouble.py", *GRID, f"diary={diary}", "pause_s=0").ok()


def test_a_lane_that_hangs_fails_and_its_neighbours_run_again(sweep: Any, study: Any) -> None:
    """The trial that was silent first is the one that hangs; the others of its worker complete."""
    lanes = ["lane_runner=lanes.run_lanes", "lanes=3", "n_jobs=1", "stall_timeout=2"]
    options = [f"hydra.sweeper.{option}" for option in (*lanes, "max_failure_rate=1")]
    sweep("lanes.py", GRID[0], *options, "x=choice(1, 2, 3)", "do=hang", "step_s=0.15").ok()
    trials = {trial.params["x"]: trial for trial in study().trials}
    assert len(trials) == len(study().trials) == 3
    assert trials[2].user_attrs["why"].startswith("failed: timed out after 2")
    for x in (1, 3):
        (cut_off,) = trials[x].user_attrs["interruptions"]
        assert cut_off.startswith("trial 1, which shared its worker, timed out after 2")
        assert trials[x].state is TrialState.COMPLETE


def test_a_task_that_returns_and_reports_nothing_is_run_once(sweep: Any, study: Any) -> None:
    """So would all others: what else runs is put back, and it is said what to return."""
    run = sweep(
        *("trouble.py", "do=nothing", "x=interval(0, 1)", "hydra.sweeper.n_trials=6"),
        "hydra.sweeper.n_jobs=2",
    ).wait()
    assert run.code == 1
    said = "the task returned None and reported no 'loss'; return a number; no other trial is run"
    assert said in " ".join(run.err.split())
    states = [trial.state for trial in study().trials]
    assert states.count(TrialState.FAIL) == 1
    assert set(states) <= {TrialState.FAIL, TrialState.WAITING}
