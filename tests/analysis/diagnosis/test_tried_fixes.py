from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import pytest
from matplotlib.figure import Figure

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.tried_fixes import tried_fixes, tried_sentences
from iolaus.analysis.figures import choice_to_show, draw_fixes, draw_shapes_by

# Setting, the trial it fixes, seed, objective, cause, rate.
ROWS: Sequence[tuple[int, float, int, float, str, float]] = (
    (0, math.nan, 0, 1.0, "low", 0.001),
    (0, math.nan, 1, 1.2, "low", 0.001),
    (2, math.nan, 0, math.nan, "high", 9.0),
    (3, 0.0, 0, 0.2, "low", 0.1),
    (3, math.nan, 1, 0.3, "low", 0.1),
    (5, 2.0, 0, 0.4, "high", 0.9),
    (6, math.nan, 0, 0.1, "none", 0.05),
    (7, 6.0, 0, 0.15, "other", 0.01),
)


def sweep() -> tuple[Sweep, pd.DataFrame]:
    trials = pd.DataFrame(
        ROWS, columns=["setting", "fix_of", "seed", "objective", "params.cause", "params.lr"]
    ).assign(state="complete")
    shapes = ["slow", "slow", "exploded", "converged", "converged", *["improving"] * 3]
    nothing = pd.DataFrame(columns=["trial", "step", "metric", "value"])
    about = Sweep("s", "loss", ("minimize",), trials, nothing)
    return about, pd.DataFrame({"shape": shapes}, index=trials.index)


def test_each_fix_that_was_run_is_compared_with_what_it_fixes() -> None:
    """Means over seeds, the interval of paired differences, and what had no result before."""
    tried = tried_fixes(*sweep()).set_index("setting")
    assert tried["change"].tolist() == ["lr=0.1", "lr=0.9", "cause=other lr=0.01"]
    assert tried.loc[3, ["before", "after", "seeds"]].tolist() == pytest.approx([1.1, 0.25, 2])
    # Differences -0.8 and -0.9: a mean of -0.85, and t = 12.706 times a standard error of 0.05.
    assert tried.loc[3, ["low", "high"]].tolist() == pytest.approx([-1.4853, -0.2147], abs=1e-4)
    assert tried["is_better"].tolist() == [True, True, False]
    assert (tried.loc[5, "because"], tried.loc[5, "shape now"]) == ("exploded", "still improving")
    [sentence] = tried_sentences(tried.reset_index())
    assert sentence.startswith(
        "Of 3 suggested fixes that were run, 2 made the objective better (9%"
    )
    assert "1 setting that had no result has one now" in sentence
    assert tried_sentences(tried[:0]) == []


def test_shapes_by_choice_leave_fixes_out() -> None:
    """The figure counts what was first tried; of a fix the shape is in its own table."""
    about, diagnosis = sweep()
    assert choice_to_show(about) == "cause"
    figure = Figure()
    ax, other = figure.subplots(1, 2)
    draw_shapes_by(ax, about, diagnosis, "cause")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["low", "high", "none"]
    assert sorted(text.get_text() for text in ax.texts) == ["1", "1", "2"]
    draw_fixes(other, tried_fixes(about, diagnosis), "objective")
    assert len(other.get_yticks()) == 3
