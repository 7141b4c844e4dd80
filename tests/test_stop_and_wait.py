"""`iolaus stop` and `iolaus wait`: a sweep ended and awaited from another shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState


def running(sweep: Any, eventually: Any, tmp_path: Path, *options: str, **env: str) -> Any:
    n_before = len(_taken(tmp_path))
    run = sweep(
        *("counting.py", "x=interval(0, 1)", f"diary={tmp_path / 'diary'}", "step_s=0.01"),
        *("hydra.sweeper.n_jobs=2", *options),
        **env,
    )
    # Of this session; a slot may come up long after the other.
    eventually(lambda: len({step.split()[0] for step in _taken(tmp_path)[n_before:]}) >= 2)
    return run


def _taken(tmp_path: Path) -> list[str]:
    """The steps of trials, as they were taken."""
    diary = tmp_path / "diary"
    return diary.read_text().splitlines() if diary.exists() else []


def test_a_sweep_is_stopped_and_goes_on(
    sweep: Any, cli: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """Trials make a checkpoint; exit code and waiting tell; a request of before stops nobody."""
    folder = str(tmp_path / "study")
    given = ("hydra.sweeper.n_trials=3", "n_steps=100")
    run = running(sweep, eventually, tmp_path, *given, STEP_S="1")  # nobody ends before the stop
    assert cli("wait", folder, "--timeout", "0").code == 124
    stopped = cli("stop", folder, "--json")
    assert stopped.code == 0, stopped.err
    said = json.loads(stopped.out)
    assert said["was_running"]
    assert said["has_ended"]
    assert "counting.py" in said["command"]
    assert run.wait().code == 143
    assert "no new trials: iolaus stop: running trials are stopped, to go on later" in run.out
    assert [t.state for t in study().trials] == [TrialState.WAITING] * 2
    assert cli("wait", folder).code == 3
    assert cli("wait", folder, "--until", "stalled").code == 0
    assert cli("stop", folder).out == "Nobody runs this sweep.\n"

    run = running(sweep, eventually, tmp_path, *given)
    done = cli("wait", folder)
    assert (done.code, done.out) == (0, "The sweep is done.\n")
    assert run.wait().code == 0
    assert [t.state for t in study().trials] == [TrialState.COMPLETE] * 3
    taken = _taken(tmp_path)
    assert len(taken) - len({*taken}) <= 4
    assert cli("wait", folder, "--until", "stalled").code == 3


@pytest.mark.slow
def test_a_sweep_is_stopped_when_its_trials_are_over(
    sweep: Any, cli: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """--finish is Ctrl-C from afar: what runs finishes, and no more begins."""
    run = running(sweep, eventually, tmp_path, "hydra.sweeper.n_trials=16", "n_steps=400")
    assert cli("stop", str(tmp_path / "study"), "--finish").code == 0
    assert run.wait().code == 130
    states = [t.state for t in study().trials]
    assert 2 <= len(states) < 16
    assert {*states} == {TrialState.COMPLETE}
