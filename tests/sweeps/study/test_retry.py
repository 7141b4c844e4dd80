"""Settings that failed are run again, and the total is reached with results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run, n_settings, record_of
from iolaus.sweeps.study.recovery import retry_failed, take_over
from iolaus.sweeps.study.summary import rank
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Outcome

SPACE = parse_space(
    {}, ["x=range(0, 3)"], OverridesParser.create().parse_overrides, lambda key: False
)
GRID = [{"x": 0}, {"x": 1}, {"x": 2}]


def run_sweep(folder: Path, plans: Plans, fails: Callable[[int, int | None], bool]) -> SweepStudy:
    """One session of a sweep: what is asked for is run at once. fails: given x and the seed."""
    live = LiveStorage(open_backend(sqlite_url(folder / "study.db")))
    sampler = optuna.samplers.RandomSampler(seed=0)
    opened = open_study(live, "s", ["minimize"], sampler, optuna.pruners.NopPruner(), SPACE)
    study = SweepStudy(opened, live, SPACE, plans, Metric("loss"), None)
    while (proposal := study.ask()) is not None:
        x = int(str(proposal.values["x"]))
        outcome = (
            Outcome(Ending.FAILED, reason="a bug")
            if fails(x, proposal.seed)
            else Outcome(Ending.COMPLETED, values=(x + 10.0 * (proposal.seed or 0),))
        )
        study.tell(proposal.trial, outcome, Run(), log="")
    live.close()
    return study


def load(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=sqlite_url(folder / "study.db"))


def test_failed_settings_run_again_and_only_they(tmp_path: Path) -> None:
    """Each once; the same plan then has a result for all; asked again, nothing is left."""
    plans = Plans(3, queue=GRID)
    run_sweep(tmp_path, plans, lambda x, _: x < 2)
    assert retry_failed(load(tmp_path)) == [0, 1]
    assert retry_failed(load(tmp_path)) == []  # they are queued
    study = run_sweep(tmp_path, plans, lambda x, _: x == 1)
    assert study.n_to_ask == 0
    trials = load(tmp_path).trials
    assert [record_of(trial).again_for for trial in trials] == [None, None, None, 0, 1]
    assert [result.state for result in rank(load(tmp_path))] == ["completed", "completed", "failed"]
    assert retry_failed(load(tmp_path)) == [4]  # it failed again: once more
    run_sweep(tmp_path, plans, lambda x, _: False)
    assert [result.values for result in rank(load(tmp_path))] == [(0.0,), (1.0,), (2.0,)]
    assert len(load(tmp_path).trials) == 6


def test_settings_are_counted_as_the_sweep_counts_them(tmp_path: Path) -> None:
    """Whoever goes on with a sweep (`iolaus next`, `top-up`) gives it the total it has reached:
    with that it asks for no setting more, also where failed ones are queued, or were run again.
    """
    plans = Plans(3, queue=GRID, n_repeats=2)
    run_sweep(tmp_path, plans, lambda x, _: x == 1)
    assert n_settings(load(tmp_path).trials) == 3
    retry_failed(load(tmp_path))
    assert n_settings(load(tmp_path).trials) == 3
    study = run_sweep(tmp_path, plans, lambda x, _: False)
    assert n_settings(load(tmp_path).trials) == 3
    assert study.n_missing == 0


def test_a_sampled_sweep_reaches_its_total_with_results(tmp_path: Path) -> None:
    """A failed trial that is run again does not count: n_trials are reached, and not exceeded."""
    run_sweep(tmp_path, Plans(2), lambda x, _: True)
    assert len(retry_failed(load(tmp_path))) == 2
    run_sweep(tmp_path, Plans(4), lambda x, _: False)
    assert sum(trial.state.name == "COMPLETE" for trial in load(tmp_path).trials) == 4
    assert len(load(tmp_path).trials) == 6


def test_a_trial_whose_driver_died_before_putting_it_back_is_put_back_once(tmp_path: Path) -> None:
    """A driver killed between the decision and its writing leaves one trial, which goes on."""
    url = sqlite_url(tmp_path / "study.db")
    sampler, pruner = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
    killed = LiveStorage(open_backend(url))
    opened = open_study(killed, "s", ["minimize"], sampler, pruner, SPACE)
    study = SweepStudy(opened, killed, SPACE, Plans(3, queue=GRID), Metric("loss"), None)
    proposal, never = study.ask(), threading.Event()
    assert proposal is not None
    interrupted = Outcome(Ending.INTERRUPTED, reason="stopped")
    study.tell(proposal.trial, interrupted, Run(), log="", after=never)
    assert [t.state.name for t in load(tmp_path).trials] == ["RUNNING"]
    live = LiveStorage(open_backend(url))
    opened = open_study(live, "s", ["minimize"], sampler, pruner, SPACE)
    assert take_over(opened, lambda _: False, orphan_age_s=0.0) == [0]
    live.close()
    assert [t.state.name for t in load(tmp_path).trials] == ["WAITING"]
    never.set()
    killed.close()


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_failed_seed_stays_with_its_setting(tmp_path: Path, bad: int) -> None:
    """The leading run or a repeat: it runs again with its own seed, and no other seed is added."""
    plans = Plans(3, queue=GRID, n_repeats=3, first_seed=1)
    run_sweep(tmp_path, plans, lambda x, seed: x == 1 and seed == bad)
    assert len(retry_failed(load(tmp_path))) == 1
    run_sweep(tmp_path, plans, lambda x, _: False)
    results = rank(load(tmp_path))
    assert [(r.state, r.values, r.n_runs) for r in results] == [
        ("completed", (x + 20.0,), 3) for x in range(3)
    ]
    trials = load(tmp_path).trials
    assert sorted(record_of(t).seed for t in trials if t.params["x"] == 1) == sorted([1, 2, 3, bad])
    assert len(trials) == 10
