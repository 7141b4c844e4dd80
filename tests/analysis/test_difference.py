"""Where two runs part, and what differs in what they ran with."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.difference import diff, identical
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.study.fingerprint import Fingerprint

Make = Callable[..., Sweep]


def with_values(what: Sweep, values: dict[int, list[float]]) -> Sweep:
    """The sweep with these losses, one a step, and nothing else reported."""
    rows = [(t, s, "loss", v) for t, losses in values.items() for s, v in enumerate(losses)]
    curves = pd.DataFrame(rows, columns=["trial", "step", "metric", "value"])
    return dataclasses.replace(what, curves=curves)


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(
        st.integers(0, 3), st.lists(st.sampled_from([0.0, 1.0, np.nan]), max_size=3), min_size=2
    )
)
def test_identical_are_those_between_which_no_difference_is_found(
    values: dict[int, list[float]],
) -> None:
    """By both ways to ask, and pairs of one group only; NaN is like NaN."""
    columns = {"fingerprint": "", "seed": np.nan}
    trials = pd.DataFrame({"state": "complete", **columns}, index=sorted(values))
    what = with_values(Sweep("s", "loss", ("minimize",), trials, pd.DataFrame()), values)
    together = {pair for group in identical(what) for pair in itertools.combinations(group, 2)}
    for a, b in itertools.combinations(sorted(values), 2):
        same = bool(values[a]) and np.array_equal(values[a], values[b], equal_nan=True)
        assert diff(what, a, what, b).identical == same
        assert ((a, b) in together) == same


def test_they_part_at_the_first_report_that_differs(made_sweep: Make) -> None:
    """In the metric in which it comes first, with both values; what came before is counted."""
    what = with_values(made_sweep(3), {0: [3, 2, 1, 0.5], 1: [3, 2, 1.5, 1, 0.9]})
    found = diff(what, 0, what, 1)
    (row,) = found.curves.to_dict("records")
    assert row == {"metric": "loss", "n_alike": 2, "step": 2, "value_a": 1.0, "value_b": 1.5}
    assert (found.only_a, found.only_b) == (0, 1)
    assert found.sentences()[0] == (
        "They part at step 2: loss is 1.0 and 1.5; 2 reports of it before that are identical."
    )
    longer = diff(with_values(what, {0: [3, 2]}), 0, with_values(what, {0: [3, 2, 1]}), 0)
    assert not longer.identical
    assert longer.sentences()[0] == (
        "They are identical in all 2 reports that both made; the second made 1 more."
    )


def test_what_differs_is_named(made_sweep: Make) -> None:
    """Parameters, fixed settings and code; and it is said where that is not recorded."""
    what = made_sweep(4)
    assert diff(what, 0, what, 1).sentences()[-1].endswith("is not recorded.")
    trials = what.trials.assign(fingerprint=["a", "b", "a", "a"])
    known = {"a": Fingerprint({"epochs": "3"}, {"app": "1"}), "b": Fingerprint({"epochs": "4"})}
    what = dataclasses.replace(what, trials=trials, fingerprints=known)
    said = " ".join(diff(what, 0, what, 1).sentences())
    assert "epochs was 3, now 4" in said
    assert "the code of app has changed" in said
    rates = [str(trials["params.optim.lr"][trial]) for trial in (0, 1)]
    assert f"optim.lr was {rates[0]}"[:20] in said
    assert diff(what, 0, what, 0).sentences() == [
        f"They are identical in all {len(what.curves.query('trial == 0'))} reports that both made.",
        "No difference in settings, code or versions is recorded.",
    ]


def test_a_trial_that_is_not_there_is_refused(made_sweep: Make) -> None:
    """With those that there are."""
    with pytest.raises(BadInputError, match="has no trial 7; there are 0, 1"):
        diff(made_sweep(2), 0, made_sweep(2), 7)
