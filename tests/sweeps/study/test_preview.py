"""What the rest of a sweep takes, with its range."""

from __future__ import annotations

import heapq
import random
from datetime import datetime

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.study.preview import (
    Machine,
    Pace,
    Preview,
    Range,
    expected_share,
    paces_of,
    preview,
    preview_of,
    preview_pruned,
)

WHOLE = Range(1.0, 1.0, 1.0)
shares = st.one_of(st.none(), st.floats(0.01, 1.0))
paces = st.lists(st.builds(Pace, st.floats(0.1, 1e5), shares), min_size=1, max_size=20)
machines = st.builds(Machine, st.integers(1, 64), st.integers(0, 128), st.integers(0, 8))
expected = st.sampled_from([WHOLE, Range(0.1, 0.5, 0.9), Range(0.8, 1.0, 1.0)])


def found(*arguments: object) -> Preview:
    what = preview(*arguments)  # type: ignore[arg-type]
    assert what is not None
    return what


@given(paces, expected, st.floats(0, 1000), machines)
def test_each_number_lies_in_its_range(
    known: list[Pace], share: Range, n_left: float, machine: Machine
) -> None:
    """No range is upside down or below 0, no share above 1, and a sentence has all of it."""
    what = found(known, share, n_left, machine)
    for one in (what.wall_s, what.core_s, what.gpu_s, what.share):
        assert 0 <= one.low <= one.middle <= one.high
    assert what.share.high <= 1
    assert ("GPU" in what.sentence()) == (machine.n_gpus > 0 and n_left > 0)


@given(paces, expected, st.integers(1, 100), machines, st.floats(0.1, 10))
def test_twice_as_slow_takes_twice_as_long(
    known: list[Pace], share: Range, n_left: int, machine: Machine, factor: float
) -> None:
    """All times scale with those of the trials."""
    slower = [Pace(pace.whole_s * factor, pace.share) for pace in known]
    one = found(known, share, n_left, machine).wall_s
    other = found(slower, share, n_left, machine).wall_s
    assert (other.low, other.middle, other.high) == pytest.approx(
        (one.low * factor, one.middle * factor, one.high * factor)
    )


@pytest.mark.parametrize("n_known", [2, 3, 8, 30])
@pytest.mark.parametrize("n_places", [1, 8])
def test_the_range_holds(n_known: int, n_places: int) -> None:
    """Sweeps of 40 more trials like those so far end within it, 9 times in 10 at least."""
    rng = random.Random(n_known)
    n_held = 0
    for _ in range(300):
        trials = [
            Pace(rng.lognormvariate(3, 0.6), 1.0 if rng.random() < 0.5 else 0.2)
            for _ in range(n_known + 40)
        ]
        what = found(trials[:n_known], Range(0.2, 0.6, 1.0), 40, Machine(n_places))
        free = [0.0] * n_places
        for pace in trials[n_known:]:
            assert pace.share is not None
            heapq.heappush(free, heapq.heappop(free) + pace.whole_s * pace.share)
        n_held += what.wall_s.low <= max(free) <= what.wall_s.high
    assert n_held >= 0.9 * 300


def test_under_a_pruner_what_its_first_trials_made_tells_nothing() -> None:
    """Who is pruned early ends first: the share is other sweeps' however many have ended."""
    for known in ([Pace(10.0, 0.5)] * 7, [Pace(10.0, 0.1)] * 30):
        what = found(known, Range(0.1, 0.2, 0.3), 10, Machine(1, 4))
        assert (what.share, what.is_own_share) == (Range(0.1, 0.2, 0.3), False)
        assert (what.wall_s.middle, what.core_s.middle) == pytest.approx((20.0, 80.0))
        assert "0.20 of their steps are made (0.10 to 0.30, by other" in what.sentence()


def test_without_a_pruner_trials_that_run_count_as_whole() -> None:
    """Who diverges ends first: eight that did among 32 that run are a fifth, not all."""
    known = [Pace(10.0, 0.1)] * 8 + [Pace(10.0)] * 32
    assert 0.8 < found(known, expected_share([]), 60, Machine(1)).share.middle < 0.82


def test_without_a_pruner_trials_make_all_steps_unless_they_diverge() -> None:
    """Other sweeps say how many of these there are, until the sweep's own trials do."""
    whole = [Pace(10.0, 1.0)] * 40
    early = found(whole[:8], expected_share([]), 10, Machine(1)).share
    late = found(whole, expected_share([]), 10, Machine(1)).share
    assert early.low < late.low < early.high == late.high == 1.0
    half = [Pace(10.0, share) for share in (1.0, 0.1) * 20]
    assert 0.5 < found(half, expected_share([]), 10, Machine(1)).share.middle < 0.6


def test_nothing_is_said_before_a_trial_has_shown_its_pace() -> None:
    """And one trial alone says half to twice as much."""
    assert preview([], WHOLE, 10, Machine(1)) is None
    assert found([Pace(10.0)], WHOLE, 4, Machine(1)).wall_s == Range(20.0, 40.0, 80.0)


def test_what_pruners_save_elsewhere() -> None:
    """Each has its range, a pruner of one's own nearly all; without one only divergence saves."""
    assert expected_share([]) == expected_share(["NopPruner"])
    assert expected_share([]).middle == 1.0
    assert expected_share(["Holdout", "StalledLoss"]) == expected_share(["StalledLoss"])
    assert expected_share(["MyOwn"]).high == 1.0


def trial(number: int, state: TrialState, seconds: float | None, **attrs: object) -> FrozenTrial:
    made = optuna.trial.create_trial(
        state=state,
        value=1.0 if state is TrialState.COMPLETE else None,
        user_attrs={"run": {"seconds": seconds}, **attrs},
    )
    made.number = number
    made.datetime_start = datetime(2026, 1, 1)
    return made


DONE, PRUNED = TrialState.COMPLETE, TrialState.PRUNED
TRIALS = [
    trial(0, DONE, 20.0),
    trial(1, DONE, 10.0, n_steps=100, steps=99),
    trial(2, PRUNED, 5.0, n_steps=100, steps=24),
    trial(3, PRUNED, 6.0),  # planned nothing
    trial(4, TrialState.FAIL, 3.0, ending="failed"),
    trial(5, DONE, 1.0, interruptions=["its driver died"]),
    trial(6, DONE, None, duplicate_of=0),
    trial(7, PRUNED, 0.1, ending="infeasible"),
]


def test_what_each_ended_trial_shows() -> None:
    """Whole and pruned ones do; failed, repeated, ruled out and cut off ones do not."""
    assert paces_of(TRIALS) == [
        Pace(20.0, 1.0),
        Pace(10.0, 1.0),
        Pace(20.0, 0.25),
        Pace(15.0, 0.4),
    ]


def test_a_running_trial_counts_by_what_is_left_of_it() -> None:
    """Ended ones are done, whatever they show; a queued one is to come."""
    running = trial(8, TrialState.RUNNING, None, n_steps=100)
    queued = trial(9, TrialState.WAITING, None, interruptions=["stopped"])
    what = preview_of([*TRIALS, running, queued], {8: (49, 5.0)}, 12, Machine(1), WHOLE)
    assert what is not None
    assert what.n_left == 12 - 8 - 0.5
    assert what.n_paces == 5
    assert preview_of([queued], {}, 12, Machine(1), WHOLE) is None


@given(
    st.sampled_from([Range(0.1, 0.5, 0.9), Range(0.15, 0.45, 0.8)]),
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_under_a_pruner_all_steps_that_are_expected_are_left_but_those_made(
    expected: Range, made: list[float], n_to_come: int
) -> None:
    """Between nothing and all that is open; while few steps are made, the difference."""
    n_total = len(made) + n_to_come
    n_open = n_total - sum(made)
    what = preview_pruned([Pace(10.0, 0.1)], expected, n_total, sum(made), n_open, Machine(1))
    assert what is not None
    work_s = what.wall_s.middle
    assert 0 <= work_s <= 10 * n_open + 1e-6
    if sum(made) < expected.low * n_total:
        assert work_s == pytest.approx(10 * (expected.middle * n_total - sum(made)))
        assert (what.n_left, what.is_own_share) == (n_open, False)


def test_a_paused_trial_is_left_as_far_as_it_may_still_come() -> None:
    """Where trials are paused, all that others are expected to make is left, those paused too."""
    over = [trial(number, DONE, 10.0, n_steps=100, steps=99) for number in range(2)]
    paused = [
        trial(
            number,
            TrialState.WAITING,
            None,
            n_steps=100,
            paused=1,
            pauses=[{"step": 24, "rule": "behind", "reason": "behind", "seconds": 2.5}],
        )
        for number in range(2, 8)
    ]
    expected = Range(0.2, 0.5, 0.8)
    what = preview_of([*over, *paused], {}, 10, Machine(1), expected)
    assert what is not None
    assert what.n_left == 2 + 6 * 0.75  # two to come, six that have made a quarter
    assert what.wall_s.middle == pytest.approx(10.0 * (0.5 * 10 - 3.5))
    without = preview_of(over, {}, 10, Machine(1), expected)
    assert without is not None
    assert without.n_left == 8
