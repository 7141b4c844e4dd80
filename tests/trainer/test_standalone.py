"""A run outside a sweep that is killed and started again is the run that was not."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from iolaus.trainer.best_weights import load_best
from iolaus.trainer.standalone import Standalone

ROOT = Path(__file__).parents[2]
EVERY = 50
COMMAND = (
    *("task=digit_sum", "task.n_train=200", "task.n_val=50", "batch_size=8", "model=transformer"),
    *("report_every=5", "eval_every=10", f"checkpoint.every_steps={EVERY}", "resume=auto"),
    *("checkpoint.every_seconds=null", "lint.rules.short=ignore", "device=cpu"),
)
LINE = re.compile(r"step +(\d+)/\d+ .*")


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """`python -m iolaus.trainer` in this output folder; its threads are few, as the cores are."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "iolaus.trainer", *COMMAND, f"hydra.run.dir={folder}", *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def log_of(folder: Path) -> list[str]:
    """What the run has said so far, in all its processes."""
    path = folder / "trainer.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [re.sub(r"^\[[0-9:]+\] ", "", line) for line in lines]


def steps_of(lines: list[str]) -> dict[int, str]:
    """The line of each evaluation by its step; one that was made twice says the same twice."""
    found: dict[int, str] = {}
    for line in lines:
        if match := LINE.match(line):
            assert found.setdefault(int(match[1]), line) == line
    return found


def wait_for(folder: Path, n_steps: int, run: subprocess.Popen[bytes]) -> None:
    while run.poll() is None and max(steps_of(log_of(folder)), default=0) < n_steps:
        time.sleep(0.005)


def assert_equal(one: Path, other: Path) -> None:
    """The same evaluations, the same best weights; nothing is left of the checkpoints."""
    assert steps_of(log_of(one)) == steps_of(log_of(other))
    a, b = load_best(one / "best.pt"), load_best(other / "best.pt")
    torch.testing.assert_close(b["model"], a["model"], rtol=0, atol=0)
    assert a["step"] == b["step"]
    for folder in (one, other):
        assert not list(folder.glob("checkpoint*"))


@pytest.mark.slow
def test_a_run_killed_at_random_is_the_run_that_was_not(tmp_path: Path) -> None:
    """Killed with -9 six times at random moments and started again with the same command: the same
    curve to the last printed digit, the same bits of the best weights, and no more than one
    interval of steps made twice after each kill.
    """
    chance, n_steps, n_kills = random.Random(13), 2000, 6
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started(whole, f"steps={n_steps}").wait(300) == 0
    for i in range(n_kills):
        run = started(killed, f"steps={n_steps}")
        goal = (i + chance.random()) * n_steps / n_kills
        wait_for(killed, int(goal), run)
        time.sleep(chance.random() * 0.1)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    assert started(killed, f"steps={n_steps}").wait(300) == 0
    assert_equal(whole, killed)
    last, repeated = 0, []
    for line in log_of(killed):
        if going_on := re.match(r"going on exactly from step (\d+)", line):
            repeated.append(last - int(going_on[1]))
        elif match := LINE.match(line):
            last = int(match[1])
    assert len(repeated) >= n_kills - 1  # the first kill may come before there is a checkpoint
    assert max(repeated) <= EVERY


@pytest.mark.slow
def test_sigterm_keeps_what_was_done(tmp_path: Path) -> None:
    """At SIGTERM a run writes its state, ends with code 143, and goes on from that very step."""
    first = started(tmp_path, "steps=100000", "checkpoint.every_steps=null")
    wait_for(tmp_path, 100, first)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 128 + signal.SIGTERM
    done = max(steps_of(log_of(tmp_path)))
    [checkpoint] = (tmp_path / "checkpoints").glob("step_*")
    assert done <= int(checkpoint.name.removeprefix("step_")) < done + 10
    again = started(tmp_path, "steps=100000")
    wait_for(tmp_path, done + 1, again)
    again.send_signal(signal.SIGTERM)
    again.wait(60)
    step = int(checkpoint.name.removeprefix("step_"))
    assert f"going on exactly from step {step} of 100000" in log_of(tmp_path)


def test_a_run_says_where_it_will_end_and_how_right_that_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line at a quarter and at half of its steps, as many after the last; a run that announced
    no length says nothing.
    """
    caplog.set_level(logging.INFO, logger="trainer")
    own, silent = (Standalone(tmp_path, goes_on=False) for _ in range(2))
    own.plan(400, [])
    for step in range(10, 401, 10):
        for run in (own, silent):
            run.report(step, loss=1 + 100 / step)
            run.report(step, grad_norm=1.0)
    for run in (own, silent):
        run.look_back()
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in said] == [
        *("forecast", "forecast"),
        *("forecast at step 100", "forecast at step 200"),
    ]
    assert said[0].startswith("forecast: step 100 of 400: about 0 s left, loss ")
    assert "it came to 1.2" in said[2]
