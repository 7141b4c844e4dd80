"""Sweeps of tasks, and of users' parts, that do what no sweep should have to bear."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.study.record import record_of

sys.path.insert(0, str(Path(__file__).parent / "apps"))
from counting import walk

TIMEOUT = "hydra.sweeper.stall_timeout=2"
# What a task does, and how its trial ends, as a pattern for the reason.
ENDS = {
    "fork": "completed",
    "print": "completed",
    "chdir": "completed",
    "delete folder": "completed",
    "delete and enter": "completed",
    "number and bomb": "completed",
    "late reports": "completed",
    "close stdout": "completed",
    "close descriptors": "completed",
    "replace stdout": "completed",
    "threads": "completed",
    "swallow": "diverged: loss became nan at step 0",
    "text": "failed: the task returned 'a string' and reported no 'loss'; return a number",
    "long text": "failed: the task returned 'x+...x+' and reported no 'loss'; return a number",
    "million": r"failed: the task returned \[0.0, .+\] \(1000000 of them\) and reported no 'loss'",
    "bomb": "failed: the task returned <Bomb instance at .+> and reported no 'loss'",
    "child reports": "completed",
    "raise much": r"failed: ValueError: x{500}\.\.\. \(hell.py:\d+\)",
    "memory": "infeasible: out of memory: held .+; nothing ran beside it on the machine",
    "fury": r"failed: Fury: unheard of \(hell.py:\d+\)",
    "os exit 0": r"failed: its worker process \d+ exited with status 0",
    "close all": r"failed: its worker process \d+ exited with status 0",
    "crash": r"failed: its worker process \d+ was killed by SIGSEGV",
    "hang": "failed: timed out after 2.* s without a report: stall_timeout is 2 s",
    "hang deaf": "failed: timed out after 2.* s without a report: stall_timeout is 2 s",
}


def most_memory(pid: int) -> int:
    """The most bytes that a process has held so far; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def test_a_task_from_hell_harms_its_own_trial_only(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """Each trial ends with its true reason, and the one after it in its worker is a good one.

    A task that was over reports into no other's curve, and the driver holds nothing of theirs.
    """
    ways = ",".join(f'"{way}"' for way in ENDS)
    run = sweep(
        "hell.py",
        *("hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=1000"),
        *("hydra.sweeper.n_jobs=2", "hydra.sweeper.max_failure_rate=1", TIMEOUT),
        *(f"do=choice({ways})", "good=choice(False, True)"),
    )
    driver, held = run.pid(), []
    eventually(lambda: held.append(most_memory(driver)) or (run.folder / "code").is_file())
    run.ok()
    assert max(held) - held[0] < 100e6
    trials = study().trials
    assert len(trials) == 2 * len(ENDS)
    curves = read_curves(tmp_path / "study" / "curves").to_pylist()
    for trial in trials:
        do, why = trial.params["do"], trial.user_attrs["why"]
        if trial.params["good"]:
            assert why == "completed", do
            reported = [row["value"] for row in curves if row["trial"] == trial.number]
            assert reported == [1.0, 1.0], do
            folder = tmp_path / "study" / trial.user_attrs["run"]["folder"]
            assert "good to see" in (folder / "output.log").read_text(), do
        else:
            assert re.match(ENDS[do], why), why


@pytest.mark.slow
def test_a_gigabyte_of_output_is_in_the_trials_log(sweep: Any, study: Any, tmp_path: Path) -> None:
    """All of it: the driver sees none, and the disk is the only limit."""
    sweep("hell.py", "do=choice(print)", "n_bytes=1_000_000_000", "hydra.sweeper.n_trials=1").ok()
    (trial,) = study().trials
    output = tmp_path / "study" / trial.user_attrs["run"]["folder"] / "output.log"
    assert output.stat().st_size > 1_000_000_000
    output.unlink()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("pruner={_target_:faulty_parts.Pruner}", "ZeroDivisionError: division by zero"),
        ("sampler={_target_:faulty_parts.Sampler}", "ZeroDivisionError: division by zero"),
        ("sampler={_target_:faulty_parts.LateSampler}", "ZeroDivisionError: after the trial"),
        ("custom_search_space=faulty_parts.search_space", "custom_search_space failed for trial 5"),
    ],
)
def test_a_part_that_raises_leaves_nothing_running(
    fault: str, reason: str, sweep: Callable[..., Any], study: Any
) -> None:
    """The end is the usual one, with the reason; nothing runs, and what did is put back."""
    run = sweep(
        *("hell.py", "x=interval(0, 1)", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=20"),
        f"hydra.sweeper.{fault}",
    ).wait()
    assert run.code == 1
    assert reason in run.err
    assert "next:" in run.out
    states = [trial.state for trial in study().trials]
    assert TrialState.RUNNING not in states
    assert states.count(TrialState.COMPLETE) >= 4
    for trial in study().trials:
        if trial.state is TrialState.FAIL:
            assert trial.number == 5
            assert reason.split(":")[0] in trial.user_attrs["why"]


# What a task does when it is to be paused, and how its trial ends: it is paused all the same, and
# goes on.
STUBBORN = {
    "good": "completed",
    "swallow": "completed",
    "raise": "completed",
    "never save": "completed",
    "delete its folder": "completed",
    "damage its checkpoint": "completed",
    "lose its checkpoint": "completed",
    "hang": "failed: timed out after .* s without a report: stall_timeout is 10 s",
    "exit": r"failed: its worker process \d+ exited with status 3",
}


@pytest.mark.slow
@pytest.mark.parametrize("n_objectives", [1, 2])
def test_a_task_that_takes_a_pause_badly_harms_its_own_trial_only(
    n_objectives: int, sweep: Any, study: Any, tmp_path: Path
) -> None:
    """It goes on from its checkpoint, or anew, which is said where one was expected; its curve and
    result are those of a task that was never paused.
    """
    ways = ",".join(f'"{way}"' for way in STUBBORN)
    done = sweep(
        *("stubborn.py", "hydra/sweeper/sampler=grid", f"do=choice({ways})", "x=0.5"),
        *("hydra.sweeper.enqueue=[{do:good}]", f"n_objectives={n_objectives}"),
        f"hydra.sweeper.direction=[{','.join(['minimize', 'maximize'][:n_objectives])}]",
        *("hydra.sweeper.pruner._target_=pausing.PauseAll", "+hydra.sweeper.pruner.at=10"),
        *("+hydra.sweeper.pruner.n_finished=1", "hydra.sweeper.n_jobs=3"),
        *("hydra.sweeper.n_trials=100", "hydra.sweeper.holdout_fraction=0"),
        *("hydra.sweeper.max_failure_rate=1", "hydra.sweeper.stall_timeout=10"),
    ).ok(200)
    trials = study().trials
    assert len(trials) == len(STUBBORN)
    curves = read_curves(tmp_path / "study" / "curves").to_pandas()
    anew = {"damage its checkpoint", "lose its checkpoint"}
    for trial in trials:
        do, record = trial.params["do"], record_of(trial)
        assert re.fullmatch(STUBBORN[do], record.why), do
        if STUBBORN[do] != "completed":
            continue
        own = curves[curves["trial"] == trial.number]
        assert own["step"].tolist() == [*range(1, 61)], do
        assert own["value"].tolist() == walk(0.5, 60), do
        assert trial.values == [walk(0.5, 60)[-1], 0.5][:n_objectives]
        steps = [pause.from_step == -1 for pause in record.pauses]
        assert steps == ([do in anew] if trial.number else [])
        said = f"trial {trial.number} begins anew: its checkpoint of step"
        assert (said in done.err + done.out) == (do in anew), do
