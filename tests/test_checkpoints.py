"""Trials of any app that are cut off go on from their checkpoints."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.study.record import record_of

sys.path.insert(0, str(Path(__file__).parent / "apps"))
from counting import walk

N_STEPS, EVERY = 60, 15
GRID = ("hydra/sweeper/sampler=grid",)


def options(tmp_path: Path, n_trials: int, **more: Any) -> list[str]:
    return [
        *("counting.py", "x=interval(0, 1)", f"n_steps={N_STEPS}", f"every={EVERY}"),
        *(f"diary={tmp_path / 'diary'}", "step_s=0.01"),
        *("hydra.sweeper.n_jobs=2", f"hydra.sweeper.n_trials={n_trials}"),
        *(f"{key}={value}" for key, value in more.items()),
    ]


def steps_taken(tmp_path: Path) -> Counter[tuple[int, int]]:
    diary = tmp_path / "diary"
    lines = diary.read_text().splitlines() if diary.is_file() else []
    return Counter((int(trial), int(step)) for trial, step in map(str.split, lines))


def assert_exact(study: Any, tmp_path: Path, n_trials: int) -> None:
    """Each trial has the curve and the result of an undisturbed run, and checkpoints are left of
    none but the best four.
    """
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * n_trials
    table = read_curves(tmp_path / "study" / "curves").to_pandas()
    for trial in study.trials:
        own = table[table["trial"] == trial.number]
        assert own["step"].tolist() == [*range(1, N_STEPS + 1)]
        assert own["value"].tolist() == walk(trial.params["x"], N_STEPS)
        assert trial.value == walk(trial.params["x"], N_STEPS)[-1]
        assert record_of(trial).run.best == min(own["value"])
        assert trial.intermediate_values == {
            step: walk(trial.params["x"], N_STEPS)[step - 1] for step in trial.intermediate_values
        }
    best = sorted(study.trials, key=lambda trial: trial.value)[:4]
    kept = {place.parent.name for place in (tmp_path / "study").glob("*/checkpoints")}
    assert kept <= {str(trial.number) for trial in best}


def ended_amid_it(
    sweep: Any, eventually: Any, tmp_path: Path, given: list[str], order: str
) -> None:
    """A sweep that gets SIGTERM while its trials run."""
    run = sweep(*given)
    eventually(lambda: len(steps_taken(tmp_path)) > 10)
    run.signal_all(signal.SIGTERM, order)
    assert run.wait().code == 143, run.err


def test_a_trial_ended_by_sigterm_goes_on_where_it_was(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """Asked for a checkpoint it makes one, under its own number: no step is taken twice."""
    given = options(tmp_path, 2)
    ended_amid_it(sweep, eventually, tmp_path, given, "the driver")
    assert {t.state for t in study().trials} == {TrialState.WAITING}
    done = sweep(*given).ok()
    assert_exact(study(), tmp_path, 2)
    assert max(steps_taken(tmp_path).values()) <= 2  # the one under way when it was asked
    assert sum(n - 1 for n in steps_taken(tmp_path).values()) <= 4
    assert "2 trials went on from their checkpoints" in done.out
    for trial in study().trials:
        ((from_step, last),) = record_of(trial).went_on
        assert 0 < from_step <= N_STEPS
        assert last <= from_step  # what came after the last report that was read is in it too


def test_a_worker_that_is_told_to_end_makes_a_checkpoint(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """A scheduler that signals all processes of a job loses no step either."""
    given = options(tmp_path, 2)
    ended_amid_it(sweep, eventually, tmp_path, given, "all from the bottom")
    sweep(*given).ok()
    assert_exact(study(), tmp_path, 2)
    assert sum(n - 1 for n in steps_taken(tmp_path).values()) <= 4


@pytest.mark.slow
def test_a_worker_whose_trial_saves_nothing_fails_no_trial_amid_the_others_checkpoints(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """A signal to all processes ends it at once, while the driver waits for those that save."""
    slow = ("n_steps=16", "step_s=0.3")  # so that the others are dead before it has saved
    given = [*options(tmp_path, 2), "x=0.5", "saves=choice(true,false)", *slow]
    given = [*(word for word in given if not word.startswith("x=interval")), *GRID]
    ended_amid_it(sweep, eventually, tmp_path, given, "all from the top")
    assert [t.state for t in study().trials] == [TrialState.WAITING] * 2
    sweep(*given).ok()
    assert [t.state for t in study().trials] == [TrialState.COMPLETE] * 2


@pytest.mark.parametrize(
    ("n_kills", "n_trials"), [(5, 6), pytest.param(50, 40, marks=pytest.mark.slow)]
)
def test_kills_cost_no_more_than_an_interval(
    n_kills: int, n_trials: int, sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """However often all is killed: exact results, and a bound on what is computed again."""
    chance = random.Random(n_kills)
    given = options(tmp_path, n_trials)
    killed = 0
    for _ in range(n_kills):
        before, run = steps_taken(tmp_path).total(), sweep(*given)
        eventually(
            lambda run=run, n=before: (
                steps_taken(tmp_path).total() > n + 5 or (run.folder / "code").is_file()
            )
        )
        time.sleep(chance.uniform(0.0, 0.5))
        if (run.folder / "code").is_file():
            break
        run.signal(signal.SIGKILL)
        run.wait()
        killed += 1
    sweep(*given).ok(600)
    assert killed >= min(n_kills, 4)
    assert_exact(study(), tmp_path, n_trials)
    again = sum(n - 1 for n in steps_taken(tmp_path).values())
    assert again <= killed * 2 * (EVERY + 5)  # slots, and what a worker did till it saw the end


def test_a_damaged_checkpoint_is_named_and_the_older_one_taken(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """Flipped bytes, a missing file: one interval is lost, and no more."""
    given = options(tmp_path, 2)
    run = sweep(*given)
    places = lambda: sorted((tmp_path / "study").glob("*/checkpoints/step_*[0-9]"))  # noqa: E731
    eventually(lambda: len(places()) == 4)
    run.signal(signal.SIGKILL)
    run.wait()
    first = [p for p in places() if p.parts[-3] == "0"]
    second = [p for p in places() if p.parts[-3] == "1"]
    (first[-1] / "state.json").write_text(json.dumps({"step": 1, "total": 0.0}))
    (second[-1] / "state.json").unlink()
    done = sweep(*given).ok()
    assert_exact(study(), tmp_path, 2)
    said = (
        done.out + done.err + "".join(p.read_text() for p in (tmp_path / "study").glob("*/*.log"))
    )
    assert f"{first[-1]} is damaged (state.json has changed since it was written)" in said
    assert f"{second[-1]} is damaged (state.json is missing)" in said


def test_an_app_without_checkpoints_begins_anew_and_it_is_said(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """The same number, the curve of the new run alone, and the loss in a line; no wait for it."""
    given = options(tmp_path, 2, saves="false")
    ended_amid_it(sweep, eventually, tmp_path, given, "the driver")
    done = sweep(*given).ok()
    assert_exact(study(), tmp_path, 2)
    assert "2 trials began anew" in done.out
    assert [record_of(t).went_on[0][0] for t in study().trials] == [-1, -1]


def test_checkpoints_of_another_sweep_are_not_taken(sweep: Any, study: Any, tmp_path: Path) -> None:
    """A folder that is used again: a trial that has never run begins at its beginning."""
    for number in range(2):
        place = tmp_path / "study" / str(number) / "checkpoints" / "step_000000050"
        place.mkdir(parents=True)
        (place / "state.json").write_text(json.dumps({"step": 50, "total": -1.0}))
    sweep(*options(tmp_path, 2)).ok()
    assert_exact(study(), tmp_path, 2)
