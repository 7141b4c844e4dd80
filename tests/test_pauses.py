"""Trials that the pruner stops are paused, and go on from where they were when it thaws them."""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

import iolaus
from iolaus.analysis.report.trial import described
from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.run.events import replay_events
from iolaus.sweeps.study.extending import Length, plan_extension
from iolaus.sweeps.study.record import is_paused, record_of, state_of

sys.path.insert(0, str(Path(__file__).parent / "apps"))
from counting import walk

N_STEPS, AT = 60, 10  # so many that a verdict comes in time where other tests take the cores
AT_ONCE = ("hydra.sweeper.n_jobs=4", "step_s=0.1")  # the first still runs when all are paused


def options(
    tmp_path: Path, n_trials: int, pruner: str = "at=10,n_finished=1", **more: Any
) -> list[str]:
    return [
        *("counting.py", "x=interval(0, 1)", f"n_steps={N_STEPS}", "every=7", "step_s=0.05"),
        f"diary={tmp_path / 'diary'}",
        "hydra.sweeper.pruner._target_=pausing.PauseAll",
        *(f"+hydra.sweeper.pruner.{option}" for option in pruner.split(",")),
        *("hydra.sweeper.n_jobs=2", f"hydra.sweeper.n_trials={n_trials}"),
        *("hydra.sweeper.holdout_fraction=0", "hydra.sweeper.keep_checkpoints=0"),
        *(f"{key}={value}" for key, value in more.items()),
    ]


def steps_taken(tmp_path: Path) -> Counter[tuple[int, int]]:
    diary = tmp_path / "diary"
    lines = diary.read_text().splitlines() if diary.is_file() else []
    return Counter((int(trial), int(step)) for trial, step in map(str.split, lines))


def assert_whole(study: Any, folder: Path, trials: list[int]) -> None:
    """These trials have the curve and the result of an undisturbed run."""
    table = read_curves(folder / "curves").to_pandas()
    for trial in (study.trials[number] for number in trials):
        own = table[table["trial"] == trial.number]
        assert trial.state is TrialState.COMPLETE
        assert own["step"].tolist() == [*range(1, N_STEPS + 1)]
        assert own["value"].tolist() == walk(trial.params["x"], N_STEPS)
        assert trial.value == walk(trial.params["x"], N_STEPS)[-1]
        assert trial.intermediate_values == {
            step: walk(trial.params["x"], N_STEPS)[step - 1] for step in trial.intermediate_values
        }


def n_paused(folder: Path) -> int:
    """How many trials of a sweep that runs are paused."""
    if not (folder.parent / "diary").is_file():  # no trial has begun, the study may be being made
        return 0
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    name = storage.get_all_studies()[0].study_name
    return sum(map(is_paused, optuna.load_study(study_name=name, storage=storage).trials))


def checkpoints(folder: Path) -> list[int]:
    """The trials that have checkpoints."""
    return sorted(int(path.parent.name) for path in folder.glob("*/checkpoints"))


END_S = 400  # where other tests take the cores


def test_a_thawed_trial_is_the_trial_that_was_not_paused(
    sweep: Any, study: Any, tmp_path: Path
) -> None:
    """Paused at a step, thawed when another has finished: curve and result of an undisturbed run,
    no step taken twice, one trial counted once, and its history kept.
    """
    done = sweep(*options(tmp_path, 4)).ok(END_S)
    known, folder = study(), tmp_path / "study"
    assert_whole(known, folder, [0, 1, 2, 3])
    assert pq.read_table(folder / "curves").num_rows == 4 * N_STEPS  # each row is written once
    assert set(steps_taken(tmp_path).values()) == {1}
    for trial in known.trials[1:]:
        (pause,) = record_of(trial).pauses
        assert AT <= pause.step == pause.checkpoint < N_STEPS
        assert pause.rule == "behind"
        assert pause.why in ("more is known", "last call")
        assert pause.from_step == pause.checkpoint
        assert pause.thawed
        assert record_of(trial).verdict is None
    assert checkpoints(folder) == []
    assert "3 trials paused, 3 went on (3 of them finished, " in done.out
    sweep_of = iolaus.load(folder)
    loaded, about = sweep_of.trials, described(sweep_of, 1)
    assert re.fullmatch(r"1, ran from .* s and .* s of the sweep", about["pauses"])
    assert [*loaded["pauses"]] == [0, 1, 1, 1]
    (_, start, before_s), (_, again, after_s) = loaded.loc[1, "stretches"]
    assert 0 <= start < start + before_s < again
    assert loaded.loc[1, "seconds"] == pytest.approx(before_s + after_s)
    replayed = replay_events(folder / "events.jsonl")
    assert sum("Tell" in str(actions) for _, actions in replayed) == 7


def test_those_never_thawed_are_pruned_when_the_sweep_has_ended(
    sweep: Any, study: Any, tmp_path: Path
) -> None:
    """By their verdicts; n_trials counts them once; of the best, so many as `keep_checkpoints`
    says, the checkpoints stay, from which `extend` goes on.
    """
    folder, keep = tmp_path / "study", "hydra.sweeper.keep_checkpoints=2"
    done = sweep(*options(tmp_path, 5, "at=10,file=never"), keep).ok(END_S)
    assert [t.state.name for t in study().trials] == ["COMPLETE", *["PRUNED"] * 4]
    for trial in study().trials[1:]:
        record = record_of(trial)
        assert not is_paused(trial)
        assert record.why.startswith("pruned: paused at step")
        assert record.verdict.rule == "behind"
        assert len(record.pauses) == 1
        assert trial.value == walk(trial.params["x"], N_STEPS)[record.steps - 1]
    lowest = {t.number: record_of(t).run.best for t in study().trials[1:]}
    best = sorted(sorted(lowest, key=lowest.__getitem__)[:2])
    assert [n for n in checkpoints(folder) if n] == best
    assert "4 trials paused, none went on." in done.out
    assert f"extend study {best[0]} {best[1]} --steps 3x" in done.out
    again = sweep(*options(tmp_path, 5, "at=10,n_finished=0"), keep).ok(END_S)
    assert "nothing was run" in again.out
    plan = plan_extension(
        *(folder, Length(factor=3.0), lambda _place, _factor, found: (found[0], "")),
        *(best, 4, "n_steps"),
    )
    steps = [record_of(study().trials[n]).pauses[0].checkpoint for n in best]
    assert [(one.trial, one.step) for one in plan.trials] == [*zip(best, steps, strict=True)]


@pytest.mark.slow
def test_a_last_call_takes_paused_trials_into_slots_that_would_fall_idle(
    sweep: Any, study: Any, tmp_path: Path
) -> None:
    """While a trial is waited for anyway; those it takes are waited for by no other last call."""
    sweep(*options(tmp_path, 4, "at=10"), "n_steps=90").ok()
    whys = [[pause.why for pause in record_of(trial).pauses] for trial in study().trials]
    assert whys[0] == []
    assert set(map(tuple, whys[1:])) <= {("last call",), ("",)}
    assert ("last call",) in map(tuple, whys)


@pytest.mark.slow
def test_a_sweep_that_is_killed_amid_pauses_keeps_them(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """What is paused stays so until it is thawed, and then goes on exactly."""
    folder, given = tmp_path / "study", options(tmp_path, 4, f"at=10,file={tmp_path / 'now'}")
    run = sweep(*given, *AT_ONCE)
    eventually(lambda: n_paused(folder) >= 2)
    run.signal(signal.SIGKILL)
    run.wait()
    states = [state_of(trial) for trial in study().trials]
    assert states.count("paused") >= 2
    assert len(checkpoints(folder)) >= 2
    (tmp_path / "now").touch()
    sweep(*given, "step_s=0.01").ok()
    assert_whole(study(), folder, [0, 1, 2, 3])
    assert checkpoints(folder) == []
    assert len({record_of(trial).run.slot for trial in study().trials}) > 1  # side by side
    paused = [trial for trial in study().trials if record_of(trial).pauses]
    assert all(len(record_of(trial).pauses) == 1 for trial in paused)


def test_a_stopped_sweep_goes_on_with_its_paused_trials(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """Ended by SIGTERM it leaves them paused; the same command makes the last of it."""
    folder, given = tmp_path / "study", options(tmp_path, 3, f"at=10,file={tmp_path / 'now'}")
    run = sweep(*given, *AT_ONCE)
    eventually(lambda: n_paused(folder) == 2)
    run.signal(signal.SIGTERM)
    run.wait()
    assert [state_of(trial) for trial in study().trials[1:]] == ["paused"] * 2
    (tmp_path / "now").touch()
    sweep(*given, "step_s=0.01").ok()
    assert_whole(study(), folder, [0, 1, 2])


@pytest.mark.slow
def test_two_drivers_thaw_each_paused_trial_once(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """A paused trial is whose driver thaws it; the other sees it go on."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    given = [*options(tmp_path, 8, "at=10,n_finished=1"), f"hydra.sweeper.storage={url}"]
    given += ["hydra.sweeper.study_name=shared"]
    runs = [sweep(*given, folder=tmp_path / name) for name in ("one", "other")]
    assert [run.wait().code for run in runs] == [0, 0], runs[0].err + runs[1].err
    trials = optuna.load_study(study_name="shared", storage=url).trials
    assert len(trials) == 8
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert any(record_of(trial).pauses for trial in trials)
    taken = steps_taken(tmp_path)
    for trial in trials:
        assert trial.value == walk(trial.params["x"], N_STEPS)[-1]
        anew = [pause.from_step == -1 for pause in record_of(trial).pauses]
        assert taken[trial.number, N_STEPS] == 1
        assert taken[trial.number, 1] == 1 + sum(anew)
        places = {pause.place for pause in record_of(trial).pauses}
        assert places <= {str(tmp_path / "one"), str(tmp_path / "other")}
    assert not [*tmp_path.glob("o*/*/checkpoints")]


@pytest.mark.slow
def test_on_prune_stop_ends_them_at_once(sweep: Any, study: Any, tmp_path: Path) -> None:
    """As before there were pauses: told pruned when they end, and no checkpoint kept."""
    sweep(*options(tmp_path, 4, "at=10,n_finished=0"), "hydra.sweeper.on_prune=stop").ok()
    assert [t.state.name for t in study().trials] == ["COMPLETE", *["PRUNED"] * 3]
    assert all(record_of(trial).pauses == () for trial in study().trials)


@pytest.mark.slow
def test_the_checkpoints_of_paused_trials_are_bounded(
    sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """The worst lose theirs first, and are started anew: another attempt, the whole run again."""
    folder, given = tmp_path / "study", options(tmp_path, 4, f"at=10,file={tmp_path / 'now'}")
    run = sweep(*given, "hydra.sweeper.paused_limit=1500B", *AT_ONCE)  # room for one
    eventually(lambda: n_paused(folder) == 3)
    eventually(lambda: len([n for n in checkpoints(folder) if n]) <= 1)
    (tmp_path / "now").touch()
    run.ok()
    assert_whole(study(), folder, [0, 1, 2, 3])
    from_steps = [record_of(trial).pauses[0].from_step for trial in study().trials[1:]]
    assert from_steps.count(-1) == 2
    taken = steps_taken(tmp_path)
    assert [taken[n, 1] - 1 for n in (1, 2, 3)] == [int(step == -1) for step in from_steps]


TRAINER = (
    *("train.py", "task=digits", "model=mlp", "steps=120", "report_every=5", "eval_every=30"),
    *("keep_best=false", "checkpoint.every_seconds=null", "optim.lr=interval(0.01, 0.1)"),
    "+hydra.sweeper.sampler={_target_:by_number.ByNumber}",
    *("hydra.sweeper.n_jobs=1", "hydra.sweeper.n_trials=3", "hydra.sweeper.holdout_fraction=0"),
)
LANES = (
    "hydra.sweeper.lane_runner=iolaus.trainer.lanes.serve.run_lanes",
    *("hydra.sweeper.lanes=2", "precision=float64"),
)


def reported(folder: Path) -> dict[tuple[int, int, str], float]:
    """All that the trials of a sweep reported, by trial, step and metric; each once."""
    table = read_curves(folder / "curves").to_pandas()
    rows = {(row.trial, row.step, row.metric): row.value for row in table.itertuples(index=False)}
    assert len(rows) == len(table)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "lanes", [pytest.param((), id="alone"), pytest.param(LANES, id="in lanes")]
)
def test_a_run_of_the_trainer_that_was_paused_is_the_run_that_was_not(
    lanes: tuple[str, ...], sweep: Any, study: Any, tmp_path: Path
) -> None:
    """It saves its state at the moment it is stopped, alone and in lanes, and repeats no step."""
    whole, paused = tmp_path / "whole", tmp_path / "study"
    pruner = (
        *("hydra.sweeper.pruner._target_=pausing.PauseAll", "+hydra.sweeper.pruner.at=40"),
        "+hydra.sweeper.pruner.n_finished=1",
    )
    sweep(*TRAINER, *lanes, folder=whole).ok(END_S)
    sweep(*TRAINER, *lanes, *pruner).ok(END_S)
    records = [record_of(trial) for trial in study().trials]
    assert [trial.state for trial in study().trials] == [TrialState.COMPLETE] * 3
    assert all(record.pauses for record in records[1:])
    for record in records[1:]:
        (pause,) = record.pauses
        assert 40 <= pause.step <= pause.checkpoint == pause.from_step < pause.step + 5
    expected = reported(whole)
    if lanes:  # beside other lanes now
        assert reported(paused) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    else:
        assert reported(paused) == expected
    assert checkpoints(paused) == []
