"""Several criteria at once: who is on the front."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna.study._multi_objective import _is_pareto_front

from iolaus.analysis.data.sweep import Sweep, load
from iolaus.analysis.ranking.pareto import pareto, shown
from iolaus.analysis.ranking.rank import rank
from iolaus.analysis.report.summary import on_front
from iolaus.sweeps.study.ranking import non_dominated


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(1, 4)),
        elements=st.integers(0, 3).map(float),
    )
)
def test_the_front_is_optunas(values: np.ndarray) -> None:
    """The rows on the front are those that Optuna finds, ties included."""
    assert list(non_dominated(values)) == list(
        _is_pareto_front(values, assume_unique_lexsorted=False)
    )


def test_a_criterion_without_numbers_decides_nothing() -> None:
    """NaN throughout leaves the other criteria to decide; NaN in one row is the worst."""
    values = np.array([[1.0, np.nan], [2.0, np.nan]])
    assert list(non_dominated(values)) == [True, False]
    assert list(non_dominated(np.array([[1.0, np.nan], [1.0, 5.0]]))) == [False, True]


def fast_slow_and_bad() -> Sweep:
    """Settings 0 and 1 tie, 0 is faster; 2 ends far above them, but costs least."""
    rng = np.random.default_rng(1)
    steps = np.arange(0, 600, 10)
    speed, end = {0: 50, 1: 150, 2: 50}, {0: 1.0, 1: 1.0 - 4 * np.exp(-590 / 150), 2: 3.0}
    curves = pd.concat(
        pd.DataFrame(
            {
                "trial": n,
                "step": steps,
                "examples": np.nan,
                "seconds": 0.0,
                "metric": "loss",
                "value": end[n] + 4 * np.exp(-steps / speed[n]) + rng.normal(0, 0.02, len(steps)),
            }
        )
        for n in speed
    )
    last = curves.groupby("trial")["value"].last()
    trials = pd.DataFrame(
        {"setting": range(3), "state": "complete", "why": "completed", "objective": last}
    )
    trials = trials.assign(
        best=last, final=last, seed=np.nan, examples=np.nan, code="a", seconds=[9.0, 9.0, 1.0]
    )
    return Sweep(name="s", metric="loss", directions=("minimize",), trials=trials, curves=curves)


def test_a_tied_setting_that_is_faster_is_on_the_front() -> None:
    """Of two settings that tie in their result, the one that gets there first wins; a bad cheap one
    is on it too. Without repeats nothing ties.
    """
    sweep = fast_slow_and_bad()
    ranking = replace(rank(sweep), noise_source="seeds")
    ranking = replace(ranking, table=ranking.table.assign(tier=pd.array([1, 1, 2], dtype="Int64")))
    found = pareto(sweep, ranking).set_index("setting")
    alone = pareto(sweep)
    assert "tier" not in alone
    assert alone["on_front"].tolist()[0]
    assert found["tier"].to_dict() == {0: 1, 1: 1, 2: 2}
    assert (
        found["steps_to_target"][0]
        < found["steps_to_target"][1]
        < found["steps_to_target"][2]
        == np.inf
    )
    assert found["on_front"][0]
    assert found["on_front"][2]


def test_a_target_that_was_not_reached_is_said() -> None:
    """A reader sees the target and "not reached", never "inf"; who does not reach it is behind all
    who do.
    """
    found = pareto(fast_slow_and_bad())
    table = shown(found)
    (heading,) = [str(name) for name in table.columns if str(name).startswith("steps to loss ")]
    assert float(heading.split()[-1]) == pytest.approx(found.attrs["target"], rel=1e-3)
    assert table[heading].map(type).tolist() == [float, float, str]
    assert table[heading].iloc[2] == "not reached"
    assert list(non_dominated(np.array([[1.0, np.inf], [1.0, 500.0], [1.0, np.inf]]))) == [
        False,
        True,
        False,
    ]


def test_a_maximised_target_has_the_sign_of_its_metric() -> None:
    """Turned over and maximised, the same sweep has the same front, and its target's sign is the
    metric's.
    """
    made = fast_slow_and_bad()
    trials = made.trials.assign(
        **{name: -made.trials[name] for name in ("objective", "best", "final")}
    )
    curves = made.curves.assign(value=-made.curves["value"])
    found = pareto(
        replace(
            made, directions=("maximize",), metric_goal="maximize", trials=trials, curves=curves
        )
    )
    assert found.attrs["target"] == pytest.approx(-pareto(made).attrs["target"])
    assert found["on_front"].tolist() == pareto(made)["on_front"].tolist()


@pytest.fixture
def two_objectives(tmp_path: Path) -> tuple[Sweep, optuna.Study]:
    """A sweep that minimises one objective and maximises another, with a pruned trial, as its
    folder holds it.
    """
    (tmp_path / "sweep.yaml").write_text(
        "study_name: s\nstorage: null\ndirections: [minimize, maximize]\n"
        "metric: loss\nobjective: null\n"
    )
    directions = ["minimize", "maximize"]
    study = optuna.create_study(
        study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}", directions=directions
    )
    for values in np.random.default_rng(0).integers(0, 6, (12, 2)).astype(float).tolist():
        study.add_trial(optuna.create_trial(values=values))
    study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.FAIL))
    return load(tmp_path), study


def test_several_objectives_are_the_criteria(two_objectives: tuple[Sweep, optuna.Study]) -> None:
    """The front of a sweep with several objectives is the study's own, each in its direction, and
    so it is told.
    """
    sweep, study = two_objectives
    found = pareto(sweep)
    best = {trial.number for trial in study.best_trials}
    assert set(found.loc[found["on_front"], "setting"]) == best
    assert 0 < len(best) < len(found) == 12
    assert (
        found.set_index("setting")[["objective", "objective_2"]].loc[3].tolist()
        == study.trials[3].values
    )
    assert list(shown(found)) == [
        "setting",
        "objective 1 (minimized)",
        "objective 2 (maximized)",
        "on front",
    ]
    (sentence,) = on_front(sweep, rank(sweep))
    assert all(str(number) in sentence for number in best)
    assert on_front(fast_slow_and_bad(), rank(fast_slow_and_bad())) == []
