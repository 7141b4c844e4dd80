"""The order of settings: by the objective, whatever is known of the trials."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.study.ranking import STATES, Run, mean, non_dominated, order

values = st.floats(allow_nan=False, width=16) | st.sampled_from([1.0, 2.0])


@st.composite
def sweeps(draw: st.DrawFn, n_objectives: int = 1) -> list[Run]:
    """Runs of a few settings, some of several seeds, some infeasible, some duplicates."""
    runs: list[Run] = []
    for number in range(draw(st.integers(0, 10))):
        leaders = [run.number for run in runs if run.setting == run.number]
        state = draw(st.sampled_from(["complete", "complete", "pruned", "running", "fail"]))
        run = Run(
            number,
            draw(st.sampled_from([number, *leaders])),
            state,
            tuple(draw(values) for _ in range(n_objectives)) if state == "complete" else (),
            draw(values | st.just(math.nan)),
            draw(st.integers(0, 4)) > 0,
        )
        if leaders and draw(st.integers(0, 5)) == 0:
            of = runs[draw(st.sampled_from(leaders))]
            if of.duplicate_of is None:
                run = replace(of, number=number, setting=number, duplicate_of=of.number)
        runs.append(run)
    return runs


@given(sweeps(), st.sampled_from(["minimize", "maximize"]))
def test_the_order_is_by_state_then_by_the_mean_objective(runs: list[Run], direction: str) -> None:
    """Completed and feasible before infeasible, pruned, running, failed; each run stands once.

    Those that completed by the mean over the completed seeds.
    """
    standings = order(runs, [direction])
    assert sorted(run.number for s in standings for run in s.runs) == [r.number for r in runs]
    places = [STATES.index(s.state) for s in standings]
    assert places == sorted(places)
    sign = 1 if direction == "minimize" else -1
    for state in ("complete", "infeasible"):
        own = [sign * s.objectives[0] for s in standings if s.state == state]
        assert own == sorted(own)
    for standing in standings:
        is_duplicate = standing.runs[0].duplicate_of is not None
        done = [run.objectives[0] for run in standing.runs if run.state == "complete"]
        if done and not is_duplicate:
            assert standing.objectives == (mean(done),)
        if standing.state == "complete":
            assert standing.on_front == (standing.objectives == standings[0].objectives)


@given(sweeps(), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_the_trials(
    runs: list[Run], random: st.DrawFn
) -> None:
    """Whoever lists the trials, and turned over with its direction, the order is the same."""
    shuffled = list(runs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    settings = [s.setting for s in order(runs, ["minimize"])]
    assert settings == [s.setting for s in order(shuffled, ["minimize"])]
    turned = [
        replace(run, objectives=tuple(-v for v in run.objectives), best=-run.best) for run in runs
    ]
    assert settings == [s.setting for s in order(turned, ["maximize"])]


def test_a_duplicate_does_not_win_by_its_originals_lucky_seed() -> None:
    """A duplicate took over the result of one run; it stands behind that setting, with its mean."""
    runs = [
        Run(0, 0, "complete", (1.0,)),
        Run(1, 0, "complete", (3.0,)),
        Run(2, 2, "complete", (1.5,)),
        Run(3, 3, "complete", (1.0,), duplicate_of=0),
    ]
    found = order(runs, ["minimize"])
    assert [s.setting for s in found] == [2, 0, 3]
    assert found[2].objectives == (2.0,)


@given(sweeps(2))
def test_of_several_objectives_the_front_comes_first(runs: list[Run]) -> None:
    """No other feasible setting is as good in both and better in one.

    Of those on the front the first objective decides.
    """
    done = [s for s in order(runs, ["minimize", "maximize"]) if s.state == "complete"]
    points = [(s.objectives[0], -s.objectives[1]) for s in done]
    for standing, (x, y) in zip(done, points, strict=True):
        beaten = any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)
        assert standing.on_front is not beaten
    flags = [s.on_front for s in done]
    assert flags == sorted(flags, reverse=True)
    for is_on in (True, False):
        own = [s.objectives[0] for s in done if s.on_front is is_on]
        assert own == sorted(own)
    if done:
        assert points[0][0] == min(x for x, _ in points)


def test_nan_is_never_first() -> None:
    """An unknown objective is last of those that completed, an unknown best of the pruned."""
    runs = [
        Run(0, 0, "complete", (math.nan,)),
        Run(1, 1, "complete", (9.0,)),
        Run(2, 2, "pruned"),
        Run(3, 3, "pruned", best=9.0),
    ]
    for direction in ("minimize", "maximize"):
        assert [s.setting for s in order(runs, [direction])] == [1, 0, 3, 2]


def test_a_run_of_another_study_is_refused() -> None:
    """A completed run without a value for each direction is named."""
    with pytest.raises(ValueError, match="trial 4 has 1 objectives, the sweep has 2"):
        order([Run(4, 4, "complete", (1.0,))], ["minimize", "maximize"])


@given(st.lists(st.tuples(values, values), max_size=8))
def test_rows_that_none_dominates(rows: list[tuple[float, float]]) -> None:
    """As asked pair by pair."""
    found = non_dominated(np.array(rows).reshape(-1, 2))
    for row, flag in zip(rows, found, strict=True):
        others = (other for other in rows if other != row)
        assert flag == (not any(a <= row[0] and b <= row[1] for a, b in others))


def test_a_mean_is_finite_where_it_can_be() -> None:
    """Of numbers whose sum is no float the mean still is; of both infinities it is unknown."""
    for one, two in itertools.permutations((1.5e308, 1.7e308)):
        assert mean([one, two]) == pytest.approx(1.6e308)
    assert math.isnan(mean([math.inf, -math.inf]))
    assert mean([math.inf, 1.0]) == math.inf
    assert math.isnan(mean([]))


def test_a_best_has_the_direction_of_its_metric() -> None:
    """Pruned trials of a sweep that maximises an accuracy and watches a loss: lowest loss first."""
    runs = [Run(0, 0, "pruned", best=2.0), Run(1, 1, "pruned", best=1.0)]
    assert [s.setting for s in order(runs, ["maximize"])] == [0, 1]
    assert [s.setting for s in order(runs, ["maximize"], metric_sign=1.0)] == [1, 0]


def test_a_finalist_that_others_passed_stands_among_them() -> None:
    """The best finalist is first, and with it those whose first run nobody else has passed, however
    unlucky their further seeds were; one whose first run is behind has no place of honour.
    """
    runs = [
        *(finalist(0, n, value) for n, value in ((0, 1.0), (10, 1.2), (11, 1.1))),
        *(finalist(1, n, value) for n, value in ((1, 0.9), (12, 2.0), (13, 2.2))),
        *(finalist(2, n, value) for n, value in ((2, 4.0), (14, 3.9), (15, 4.1))),
        finalist(3, 3, 1.3, is_one=False),
        finalist(4, 4, 5.0, is_one=False),
    ]
    assert [standing.setting for standing in order(runs, ["minimize"])] == [0, 1, 3, 2, 4]


def finalist(setting: int, number: int, value: float, is_one: bool = True) -> Run:
    return Run(number, setting, "complete", (value,), value, is_finalists=is_one)
