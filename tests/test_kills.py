"""Sweeps whose driver is killed at random moments: what was recorded has its curve."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from iolaus.sweeps.curves import read_curves

N_STEPS = 20


@pytest.mark.parametrize(
    ("n_kills", "n_trials"), [(4, 16), pytest.param(30, 96, marks=pytest.mark.slow)]
)
def test_a_recorded_trial_has_its_whole_curve(
    sweep: Any,
    study: Callable[..., Any],
    eventually: Callable[..., Any],
    tmp_path: Path,
    n_kills: int,
    n_trials: int,
) -> None:
    """However often the driver is killed (SIGKILL), each finished trial has every row it reported.

    The total is reached, and nothing stays running.
    """
    moments = random.Random(n_kills)
    events = tmp_path / "study" / "events.jsonl"
    options = [
        *("x=interval(0, 1)", f"hydra.sweeper.n_trials={n_trials}"),
        *("hydra.sweeper.n_jobs=4", "hydra/sweeper/sampler=random"),
        *("do=report", f"n_steps={N_STEPS}", "step_s=0.005"),
    ]

    def n_ended() -> int:
        return events.read_text().count('"Ended"') if events.is_file() else 0

    killed = 0
    for _ in range(n_kills):
        before, run = n_ended(), sweep("trouble.py", *options)
        eventually(lambda run=run, n=before: n_ended() > n or (run.folder / "code").is_file())
        time.sleep(moments.uniform(0.0, 0.3))
        if (run.folder / "code").is_file():
            break
        run.signal(signal.SIGKILL)
        run.wait()
        killed += 1
        _assert_complete(study(), tmp_path / "study" / "curves")
    assert killed >= n_kills // 2
    sweep("trouble.py", *options).ok()
    _assert_complete(study(), tmp_path / "study" / "curves")
    states = Counter(trial.state for trial in study().trials)
    assert states[TrialState.COMPLETE] == n_trials
    assert not states[TrialState.RUNNING]
    assert not states[TrialState.WAITING]


def _assert_complete(study: Any, curves: Path) -> None:
    done = [t.number for t in study.trials if t.state is TrialState.COMPLETE]
    rows = read_curves(curves).select(["trial", "step"]).to_pylist()
    reported = {
        trial: [row["step"] for row in group]
        for trial, group in itertools.groupby(rows, lambda row: row["trial"])
    }
    short = {n: len(reported.get(n, [])) for n in done if reported.get(n) != [*range(N_STEPS)]}
    assert not short, f"finished trials without all of their {N_STEPS} rows: {short}"
