"""What a budget is, and what sessions have cost together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.study.budget import Budget, Cost, cost_of_others, cost_text, session_key

seconds = st.floats(0, 1e7).map(lambda value: round(value, 3))
costs = st.builds(Cost, seconds, seconds, seconds)


@pytest.mark.parametrize(
    ("text", "expected_s", "resource"),
    [
        ("2h", 7200, "wall"),
        ("90 min", 5400, "wall"),
        ("1.5d", 129600, "wall"),
        ("500 gpu-min", 30000, "gpu"),
        ("8gpu-h", 28800, "gpu"),
        ("30 core-min", 1800, "core"),
        (" 20 core-s ", 20, "core"),
    ],
)
def test_a_budget_says_how_much_of_what(text: str, expected_s: float, resource: str) -> None:
    """A wall time, or a compute time of cores or GPUs."""
    budget = Budget.parse(text)
    assert (budget.seconds, budget.resource) == (expected_s, resource)
    assert Budget.parse(budget.twice()).seconds == 2 * expected_s


@pytest.mark.parametrize(
    "text",
    ["", "2", 2, "h", "0h", "-1h", "2 weeks", "3 cpu-h", "2h 30min", "1.2.3h", "inf h", True],
)
def test_what_is_no_budget_is_refused(text: object) -> None:
    """A number alone, an unknown unit and nothing at all are."""
    with pytest.raises(ValueError, match=r"give a wall time|is no time|could not convert"):
        Budget.parse(text)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), costs, max_size=5), st.text("abc"))
def test_sessions_add_up_but_ones_own(kept: dict[str, Cost], own: str) -> None:
    """Each session counts once; this one's earlier note, and what is no cost, do not."""
    attrs = {session_key(name): cost.to_attr() for name, cost in kept.items()}
    others = sum((cost for name, cost in kept.items() if name != own), Cost())
    found = cost_of_others({**attrs, session_key("odd"): 3, "other": {"wall_s": 1.0}}, own)
    assert found.wall_s == pytest.approx(others.wall_s)
    assert found.core_s == pytest.approx(others.core_s)
    assert found.gpu_s == pytest.approx(others.gpu_s)


@given(costs, costs, st.sampled_from(["10s", "100 core-s", "3 gpu-h"]))
def test_what_is_spent_stays_spent(cost: Cost, more: Cost, text: str) -> None:
    """A budget is spent at its own resource's amount, and no further cost gives it back."""
    budget = Budget.parse(text)
    assert budget.is_spent(cost) == (cost.of(budget.resource) >= budget.seconds)
    assert budget.is_spent(cost + more) or not budget.is_spent(cost)


def test_a_cost_in_words_names_what_was_used() -> None:
    """GPUs are named where there were any."""
    assert cost_text(Cost(90, 180)) == "1 min 30 s of wall time, 3 min 0 s of cores"
    assert cost_text(Cost(90, 0, 7200)) == "1 min 30 s of wall time, 2 h 0 min of GPUs"
