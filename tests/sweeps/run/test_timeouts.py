"""When a trial has run, or has been silent, for too long."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.run.timeouts import AwakeClock, Timeouts
from iolaus.sweeps.text import parse_seconds

seconds = st.floats(0.001, 1e7)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), (0.5, 0.5), ("90", 90.0), ("90s", 90.0), ("30min", 1800.0), ("1.5 h", 5400.0),
     (" 2d ", 172800.0)],
)  # fmt: skip
def test_times_are_read(value: Any, expected: float) -> None:
    """Numbers are seconds; a text may have a unit."""
    assert parse_seconds(value) == expected


@pytest.mark.parametrize(
    "value", [0, -1, True, None, math.nan, math.inf, "", "0s", "-1h", "soon", "1 week", "1h30", [1]]
)
def test_what_is_no_time_is_refused(value: Any) -> None:
    """The sentence has what arrived and what may be given."""
    with pytest.raises(ValueError, match="give seconds above 0, or a text such as"):
        parse_seconds(value)


@given(most=seconds, ran=seconds, silent=seconds)
def test_overdue_is_longer_than_allowed(most: float, ran: float, silent: float) -> None:
    """A limit counts its own time alone, and is not reached by being equal to it."""
    assert Timeouts().overdue(ran, silent) is None
    assert (Timeouts(trial_s=most).overdue(ran, silent) is not None) == (ran > most)
    assert (Timeouts(stall_s=most).overdue(ran, silent) is not None) == (silent > most)


def test_a_timeout_says_what_was_allowed() -> None:
    """The time that has passed, the option, and its value, in words."""
    timeouts = Timeouts(7200, 90)
    assert timeouts.overdue(7230, 3) == "timed out after 2 h 0 min: trial_timeout is 2 h 0 min"
    why = "timed out after 1 min 31 s without a report: stall_timeout is 1 min 30 s"
    assert timeouts.overdue(100, 91) == why


@given(most=seconds, took=seconds)
def test_a_worker_is_overdue_after_longer_than_allowed(most: float, took: float) -> None:
    """The wait for a trial, which is infinitely far in the future, is none."""
    assert (Timeouts(start_s=most).unborn(took) is not None) == (took > most)
    assert Timeouts(start_s=most).unborn(took - math.inf) is None
    assert Timeouts(start_s=None).unborn(took) is None
    assert (Timeouts(start_s=most).unborn(took, 2) is not None) == (took > 4 * most)


@given(gaps=st.lists(st.floats(0.0, 20.0), max_size=20))
def test_a_clock_stands_while_nobody_looks(gaps: list[float]) -> None:
    """Of every gap between two looks at most so many seconds count."""
    now = [100.0]
    clock = AwakeClock(lambda: now[0], most_s=5.0)
    for gap in gaps:
        now[0] += gap
        clock()
    assert clock() == pytest.approx(sum(min(gap, 5.0) for gap in gaps))
