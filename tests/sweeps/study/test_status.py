"""Where a sweep stands, seen from another shell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from iolaus.sweeps.study.status import Status


def test_a_mean_is_not_said_to_be_a_trials() -> None:
    """Of a setting with several seeds the best is their mean, and is said to be."""
    one = Status({"complete": 3}, 1.5, 13, 3, ())
    assert one.best_text() == "best 1.5 (trial 13)"
    assert replace(one, best_n_seeds=3).best_text() == "best 1.5 (setting 13, the mean of 3 seeds)"
    assert replace(one, best=None).best_text() == ""


def test_a_running_sweep_says_where_it_stands(
    sweep: Any, cli: Callable[..., Any], eventually: Callable[..., Any], tmp_path: Path
) -> None:
    """Counts by state, the best, and each running trial with its last step and rate."""
    folder = str(tmp_path / "study")
    given = ["trouble.py", "x=interval(0, 1)", "do=report", "hydra.sweeper.n_jobs=2"]
    sweep(*given, "n_steps=3", "hydra.sweeper.n_trials=3").ok()

    def look() -> Any:
        return json.loads(cli("status", folder, "--json").ok().out)

    done = look()
    assert done["n_by_state"] == {"complete": 3}
    assert done["running"] == []
    assert done["n_ended_last_hour"] == 3
    assert done["left"]["n_left"] == 0
    run = sweep(*given, "n_steps=100000", "step_s=0.01", "hydra.sweeper.n_trials=9")

    def both() -> Any:
        found = look()
        steps = [trial["step"] for trial in found["running"]]
        return found if len(steps) == 2 and None not in steps else None

    found = eventually(both)
    assert found["n_by_state"] == {"complete": 3, "running": 2}
    assert (found["best"], found["best_trial"]) == (done["best"], done["best_trial"])
    assert [trial["number"] for trial in found["running"]] == [3, 4]
    assert all(0 < trial["steps_per_second"] < 101 for trial in found["running"])
    text = cli("status", folder).ok().out
    assert text.startswith("3 complete, 2 running; 3 ended in the last hour\nbest ")
    assert "  trial 3: step " in text
    assert found["left"]["n_left"] == 6
    wall_s = found["left"]["wall_s"]
    assert 0 < wall_s["low"] <= wall_s["middle"] <= wall_s["high"]
    assert "\n6 trials left: about " in text
    run.signal(15)
    run.wait()
    assert look()["n_by_state"] == {"complete": 3, "interrupted": 2}
