"""Sweeps whose workers run several trials at a time, from the shell."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.run._channel import Channel
from iolaus.sweeps.run._fork_server import ForkServer, drain
from iolaus.sweeps.run._messages import Assignment, LogMessage, Stopped, WorkerSpec
from iolaus.sweeps.types import Verdict

LANES = [
    "hydra.sweeper.lane_runner=lanes.run_lanes",
    "hydra.sweeper.lanes=3",
    "hydra.sweeper.n_jobs=1",
]
X = "x=interval(0.1, 1)"


def in_lanes(sweep: Any, *arguments: str, n_trials: int = 7) -> Any:
    return sweep("lanes.py", X, *LANES, f"hydra.sweeper.n_trials={n_trials}", *arguments)


def test_trials_share_a_worker_and_end_like_any_other(
    sweep: Any, study: Any, tmp_path: Path
) -> None:
    """Up to three run at a time in one process; results, curves, folders, configs and logs are as
    ever.
    """
    run = in_lanes(sweep, f"diary={tmp_path}/diary").ok()
    beside = [line.split() for line in (tmp_path / "diary").read_text().splitlines()]
    assert len({pid for pid, *_ in beside}) == 1
    assert 2 <= max(len(trials) for _, *trials in beside) <= 3  # as soon as they are proposed
    trials = study().trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 7
    curves = read_curves(tmp_path / "study" / "curves").to_pandas()
    for trial in trials:
        assert trial.value == pytest.approx(trial.params["x"] / 6)
        assert len(curves[curves["trial"] == trial.number]) == 6
        folder = tmp_path / "study" / str(trial.number)
        assert (folder / ".hydra" / "config.yaml").is_file()
        assert (folder / "lanes.log").read_text().count("step") == 6
    assert "3 lanes" in run.out + run.err
    assert "lanes were 75 % full" in run.out + run.err


def test_each_lane_ends_its_own_way(sweep: Any, study: Any, tmp_path: Path) -> None:
    """Raising, diverging and handing back to the solo loop are each told of that trial, with its
    reason.
    """
    space = "do=choice(train,raise,diverge,alone)"
    given = ["hydra/sweeper/sampler=grid", "hydra.sweeper.max_failure_rate=1", "x=0.5", space]
    sweep("lanes.py", *LANES, "hydra.sweeper.n_trials=4", *given).ok()
    by = {t.params["do"]: t for t in study().trials}
    assert by["train"].state is by["alone"].state is TrialState.COMPLETE
    assert by["raise"].state is TrialState.FAIL
    assert "no step two" in by["raise"].user_attrs["why"]
    assert "ValueError" in (tmp_path / "study" / str(by["raise"].number) / "output.log").read_text()
    assert by["diverge"].state is TrialState.PRUNED
    assert by["diverge"].user_attrs["verdict_rule"] == "diverged"


def test_a_trial_that_waits_for_a_lane_can_be_stopped() -> None:
    """An order to stop that comes before the worker has taken the trial is not lost."""

    def serve(channel: Channel) -> None:
        channel.open(2)
        taken = channel.take()
        channel.say("taken")
        while taken and not taken[1].should_stop():  # what was sent before has arrived then
            time.sleep(0.01)
        waited = channel.take()
        channel.say(str(waited and waited[1].should_stop()))
        channel.take()

    def said() -> str:
        while True:
            for message in drain(worker)[0]:
                if isinstance(message, LogMessage):
                    return message.text
            time.sleep(0.01)

    with ForkServer(serve, "loss") as fork_server:
        worker = fork_server.start(WorkerSpec(0))
        for trial in (1, 2):
            worker.pipe.send(Assignment(trial, ()))
        assert said() == "taken"
        for trial in (2, 1):
            worker.pipe.send(Stopped(trial, Verdict("repeats", 0, "another seed was pruned")))
        assert said() == "True"
        worker.close()


def test_lanes_lost_with_their_worker_are_run_again(sweep: Any, study: Any, tmp_path: Path) -> None:
    """A worker killed with three trials cuts them off; they run again under their numbers and the
    sweep reaches its trials.
    """
    in_lanes(sweep, "do=kill", f"diary={tmp_path}/diary", n_trials=4).ok()
    trials = study().trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
    cut_off = [t.user_attrs["interruptions"] for t in trials if "interruptions" in t.user_attrs]
    assert len(cut_off) == 3
    assert all(len(why) == 1 and why[0].startswith("its worker process") for why in cut_off)


def test_lanes_that_always_kill_their_worker_fail(sweep: Any, study: Any, tmp_path: Path) -> None:
    """The second worker in a row that dies with its trials ends them as failed: a sweep does not go
    in circles.
    """
    given = [
        "do=kill",
        "x=interval(2, 3)",
        f"diary={tmp_path}/diary",
        "hydra.sweeper.max_failure_rate=0.2",
    ]
    run = sweep("lanes.py", *LANES, "hydra.sweeper.n_trials=9", *given).wait()
    assert run.code == 1
    failed = [t for t in study().trials if t.user_attrs.get("why", "").startswith("failed")]
    assert len(failed) >= 2
    assert "killed by SIGKILL" in failed[0].user_attrs["why"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.sweeper.lanes=3"], "lane_runner names no function"),
        (
            ["hydra.sweeper.lanes=many", *LANES[:1]],
            "the number of lanes of each slot, 1 or more, or auto",
        ),
        (
            ["hydra.sweeper.lanes=2", "hydra.sweeper.lane_runner=lanes.nobody"],
            "lane_runner=lanes.nobody",
        ),
        (
            ["hydra.sweeper.lanes=2", *LANES[:1], "hydra.job.chdir=true"],
            "share one working directory",
        ),
        (["hydra.sweeper.lanes=2", *LANES[:1], "+hydra.job.env_set.A=b"], "share one environment"),
    ],
)
def test_lanes_that_cannot_be_are_refused(sweep: Any, arguments: list[str], message: str) -> None:
    """One sentence, before anything runs."""
    run = sweep("lanes.py", X, *arguments).wait()
    assert run.code == 1
    assert message in run.err


@pytest.mark.slow
def test_the_trainer_sweeps_the_same_in_lanes(tmp_path: Path) -> None:
    """`hydra.sweeper.lanes=4` changes no curve beyond rounding: same settings, same losses, same
    checkpoints kept.
    """
    common = [
        "task=digits",
        "optim.lr=choice(0.01,0.1,0.3)",
        "batch_size=choice(32,64)",
        "steps=30",
        "eval_every=10",
    ]
    sampler = [
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.sampler.seed=0",
        "hydra.sweeper.n_jobs=1",
    ]
    values = {}
    for lanes in (1, 4):
        folder = tmp_path / f"lanes{lanes}"
        given = [
            f"hydra.sweeper.lanes={lanes}",
            f"hydra.sweep.dir={folder}",
            "hydra.sweeper.n_trials=6",
        ]
        command = [
            sys.executable,
            "-m",
            "iolaus.trainer",
            "--multirun",
            *common,
            *sampler,
            *given,
            "hydra.sweeper.report=null",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        curves = read_curves(folder / "curves").to_pandas()
        loss = curves[curves["metric"] == "loss"].sort_values(["trial", "step"])
        values[lanes] = loss["value"].to_numpy()
        assert len(list(folder.glob("trials/*/best.pt"))) == 6
    np.testing.assert_allclose(values[4], values[1], rtol=1e-4)
