"""The objective of a completed trial, or why it has none."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.run._objective import Objective, with_objective
from iolaus.sweeps.study._watched import WatchedCurve
from iolaus.sweeps.types import Ending, Outcome, Returned

LOSS = Metric("loss")


def curve(*values: float) -> WatchedCurve:
    watched = WatchedCurve(LOSS)
    for step, value in enumerate(values):
        watched.add(step, value)
    return watched


@pytest.mark.parametrize(
    ("source", "returned", "reported", "expected"),
    [
        (None, (5.0,), (2.0, 1.0, 3.0), (5.0,)),
        (None, (), (2.0, 1.0, 3.0), (1.0,)),
        ("best", (5.0,), (2.0, 1.0, 3.0), (1.0,)),
        ("final", (5.0,), (2.0, 1.0, 3.0), (3.0,)),
        ("return", (5.0,), (), (5.0,)),
        ("return", (), (2.0,), None),
        ("best", (5.0,), (), None),
        (None, (), (), None),
        (None, (1.0, 2.0), (3.0,), None),
    ],
)
def test_where_the_objective_comes_from(
    source: str | None,
    returned: tuple[float, ...],
    reported: tuple[float, ...],
    expected: tuple[float, ...] | None,
) -> None:
    """As asked; with nothing asked the return value, else the best; without one it failed."""
    outcome = Outcome(Ending.COMPLETED, values=returned, returned=Returned.of("kept"))
    found = with_objective(outcome, Objective(source, LOSS), curve(*reported), ())
    assert found.returned == Returned.of("kept")
    if expected is None:
        assert found.ending is Ending.FAILED
        assert "'loss'" in found.reason
    else:
        assert (found.ending, found.values) == (Ending.COMPLETED, expected)


@given(ending=st.sampled_from([e for e in Ending if e is not Ending.COMPLETED]))
def test_only_a_completed_trial_is_looked_at(ending: Ending) -> None:
    """Whatever else a trial came to stays as it is."""
    outcome = Outcome(ending, reason="why", values=(math.inf,))
    assert with_objective(outcome, Objective("best", LOSS), curve(1.0), {"acc"}) is outcome


def test_the_reason_names_what_to_change() -> None:
    """The message has what was returned and wanted, and the metrics that could be meant."""
    several = Objective(None, LOSS, ("minimize", "maximize"))
    one = Outcome(Ending.COMPLETED, values=(1.0,), returned=Returned.of(1.0))
    assert with_objective(one, several, curve(), {"b", "a"}).reason == (
        "the task returned 1.0 and reported no 'loss'; return 2 numbers, one per direction; "
        "it reported a, b: set hydra.sweeper.metric to one of them"
    )
    assert with_objective(one, Objective("final", LOSS), curve(), ()).reason == (
        "the task never reported 'loss', whose final value is the objective"
    )
