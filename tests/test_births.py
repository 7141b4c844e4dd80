"""Workers come to the user's code, whatever the app's module has started before there are any."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

APPS = Path(__file__).parent / "apps"
GIVEN = ["hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "+x=interval(0, 1)"]
SPAWNED = "workers are spawned, each imports the app again: "


@pytest.mark.parametrize("of", ["openmp", "scikit_learn", "pool_of_threads"])
def test_threads_at_module_level_hang_no_worker(of: str, sweep: Any, study: Any) -> None:
    """Each worker is a fresh interpreter, with threads of its own; the reason is said once."""
    pytest.importorskip({"openmp": "torch", "scikit_learn": "sklearn"}.get(of, "sys"))
    run = sweep("threaded.py", *GIVEN, THREADS=of, OMP_NUM_THREADS="2").ok()
    assert run.out.count(SPAWNED) == 1
    assert "a worker takes about" in run.out
    assert [trial.state for trial in study().trials] == [TrialState.COMPLETE] * 3
