"""`search_space` of old sweeper configs is searched as the old sweeper searched it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.search.old_search_space import params_of
from iolaus.sweeps.search.parsing import parse_space


def read(one: Mapping[str, Any]) -> BaseDistribution:
    parse = OverridesParser.create().parse_overrides
    space = parse_space(params_of({"x": one}), [], parse, lambda _: False)
    return space.parameters["x"].distribution


@given(low=st.integers(-50, 50), width=st.integers(1, 50), step=st.integers(1, 5))
def test_both_ends_of_whole_numbers_are_included(low: int, width: int, step: int) -> None:
    """As in Optuna's own distribution, which the old sweeper made of the entry."""
    high = low + step * width
    entry = {"type": "int", "low": low, "high": high, "step": step}
    assert read(entry) == IntDistribution(low, high, step=step)


@given(low=st.integers(1, 50), width=st.integers(1, 50))
def test_whole_numbers_on_a_log_scale(low: int, width: int) -> None:
    """They stay whole, and are searched on the scale."""
    entry = {"type": "int", "low": low, "high": low + width, "log": True}
    assert read(entry) == IntDistribution(low, low + width, log=True)


@pytest.mark.parametrize(
    ("entry", "distribution"),
    [
        ({"low": -5.5, "high": 5.5}, FloatDistribution(-5.5, 5.5)),
        ({"low": 1e-5, "high": 1, "log": True}, FloatDistribution(1e-5, 1.0, log=True)),
        ({"low": -5.5, "high": 5.5, "step": 0.5}, FloatDistribution(-5.5, 5.5, step=0.5)),
        ({"low": 0, "high": 1, "step": 0.1}, FloatDistribution(0.0, 1.0, step=0.1)),
    ],
)
def test_numbers_with_and_without_steps(
    entry: dict[str, Any], distribution: BaseDistribution
) -> None:
    """The upper end of a stepped range is one of its values."""
    assert read({"type": "float", **entry}) == distribution


def test_choices_keep_their_kinds() -> None:
    """Texts, numbers and booleans are offered as they are."""
    entry = {"type": "categorical", "choices": ["a b", 2, 0.5, True]}
    assert read(entry) == CategoricalDistribution(["a b", 2, 0.5, True])


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "float", "low": 0},
        {"type": "categorical", "choices": []},
        {"type": "normal", "low": 0, "high": 1},
        {"kind": "float"},
        "interval(0, 1)",
    ],
)
def test_what_the_old_sweeper_could_not_read_is_refused(entry: Any) -> None:
    """With the key and what was given."""
    with pytest.raises(BadInputError, match=r"hydra\.sweeper\.search_space\.x"):
        params_of({"x": entry})
