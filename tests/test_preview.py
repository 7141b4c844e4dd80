"""What a sweep would take, said before it starts, and what it took, said at its end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CLI = [sys.executable, "-m", "iolaus.cli", "preview"]
SMALL = ["task=digit_sum", "steps=200", "report_every=20", "eval_every=200"]


def previewed(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_command_line_is_previewed_without_a_sweep(tmp_path: Path) -> None:
    """A few settings are trained for some seconds; all trials count, and nothing is written."""
    searched = ["optim.lr=interval(0.001,0.1)", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = previewed(
        "--json", *SMALL, *searched, "hydra.sweeper.n_trials=50", "hydra.sweeper.repeats=2"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n_left"] == 100
    assert 0 < found["wall_s"]["low"] < found["wall_s"]["middle"] < found["wall_s"]["high"]
    assert found["core_s"]["middle"] > 0
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_what_cannot_be_previewed_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """A folder that is no sweep, and an override that Hydra does not take."""
    done = previewed(str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"iolaus: {tmp_path} is no sweep")
    done = previewed("task=unheard_of")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_sweep_says_what_it_will_take_and_what_it_took(sweep: Any, tmp_path: Path) -> None:
    """Its first line when it goes on, and its end; of its folder it is said, too."""
    given = ["trouble.py", "x=interval(0, 1)", "pause_s=1.5", "hydra.sweeper.n_jobs=2"]
    sweep(*given, "hydra.sweeper.n_trials=4").ok()
    done = previewed(str(tmp_path / "study"))
    assert done.stdout == "no trial is left\n"
    run = sweep(*given, "hydra.sweeper.n_trials=12").ok()
    (line,) = re.findall(r"8 trials left: about .*", (run.out + run.err))
    assert "at the speed of 4 trials" in line
    said = re.search(r"It cost (\d+) s of wall time, .* of cores; about (.*) was foreseen", run.out)
    assert said is not None
    assert line.startswith(f"8 trials left: about {said[2]}")
    low, high = re.findall(r"\((\d+) s to (\d+) s\)", line)[0]
    assert int(low) - 1 <= int(said[1]) <= int(high) + 3
