"""The first paragraph: every sentence supported by numbers, no certainty that is not there."""

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.next_trials import NextTrial
from iolaus.analysis.ranking.rank import Ranking, rank
from iolaus.analysis.report.summary import paragraph, searched, to_do, went_wrong

Make = Callable[..., Sweep]


def diagnosed(
    what: Sweep, shapes: list[str], fixes: list[tuple[str, ...]] | None = None
) -> pd.DataFrame:
    frame = pd.DataFrame({"shape": shapes}, index=what.trials.index)
    return frame.assign(fix=fixes or [()] * len(frame))


def ranking(estimates: list[float], tiers: list[int], **given: object) -> Ranking:
    table = pd.DataFrame(
        {
            "setting": range(len(tiers)),
            "state": "complete",
            "objective": estimates,
            "level": estimates,
            "n_seeds": 3,
            "low": [e - 0.1 for e in estimates],
            "high": [e + 0.1 for e in estimates],
            "tier": pd.array(tiers, dtype="Int64"),
            "params.optim.lr": [0.1 * (i + 1) for i in range(len(tiers))],
            "params.same": 1,
        }
    )
    usual = {
        "of": "objective", "larger_is_better": False, "noise": 0.05, "noise_source": "seeds",
        "noise_evidence": "", "seed_difference": 0.1,
        "smallest_difference": 0.2, "seeds_to_settle": 3, "warnings": ("Beware.",),
    }  # fmt: skip
    return Ranking(table=table, **{**usual, **given})  # type: ignore[arg-type]


def test_what_was_searched_is_counted_and_ranged(made_sweep: Make) -> None:
    """Trials, how they ended, and what was tried of each parameter that varies; fixed ones are not
    searched.
    """
    what = made_sweep(6)
    said = searched(dataclasses.replace(what, trials=what.trials.assign(**{"params.fixed": 3})))
    lr = what.trials["params.optim.lr"]
    assert said.startswith("6 trials of made tried ")
    assert f"optim.lr ({lr.min():.3g} to {lr.max():.3g})" in said
    assert "batch_size (32, 64)" in said
    assert "fixed" not in said
    assert said.endswith(": 3 completed, 2 ended early and 1 failed.")


@pytest.mark.parametrize(("tiers", "certain"), [([1, 2, 2], True), ([1, 1, 2], False)])
def test_a_shared_first_place_is_no_victory(tiers: list[int], certain: bool) -> None:
    """A leader that cannot be told from the next only leads, and what would settle it is said, then
    the warnings.
    """
    said = " ".join(ranking([1.0, 1.05, 2.0], tiers).sentences())
    assert "objective 1 (95 % interval 0.9 to 1.1), with optim.lr=0.1" in said
    assert ("Setting 0 is better than the other 2, beyond the noise of seeds" in said) is certain
    assert ("Setting 0 leads, objective 1" in said) is not certain
    assert ("; but 2 of 3 settings share first place: 0, 1." in said) is not certain
    assert ("seeds" in said and "would settle it" in said) is not certain
    assert said.endswith("Beware.")


def test_one_setting_alone_is_said_to_be_alone_once() -> None:
    """Who has nobody to be compared with has not come first, and it is said in one sentence; one
    trial is no trials.
    """
    alone, *more = ranking([1.0], [1]).sentences()
    assert alone.startswith("Setting 0 is the only one that completed: objective 1 (")
    assert more == ["Beware."]
    assert went_wrong(pd.DataFrame({"shape": ["converged"]}), pd.Series([0])) == [
        "It shows no problem."
    ]


def test_a_sweep_that_reports_no_curves_has_no_problem_for_it(made_sweep: Make) -> None:
    """Trials that nobody can judge by a curve, as the task reports none, have not gone wrong."""
    what = made_sweep(6)
    silent = dataclasses.replace(what, curves=what.curves.head(0))
    assert "broken (6)" in paragraph(what, rank(what), diagnosed(what, ["broken"] * 6))
    assert "broken" not in paragraph(silent, rank(silent), diagnosed(silent, ["broken"] * 6))


def test_no_interval_is_claimed_where_none_is_known() -> None:
    """Without noise there is no interval; without a completed setting there is no winner."""
    unknown = ranking(
        [1.0, 2.0], [1, 1], noise=math.nan, noise_source="none", smallest_difference=math.nan
    )
    unknown = dataclasses.replace(unknown, table=unknown.table.assign(low=np.nan, high=np.nan))
    assert "interval" not in " ".join(unknown.sentences())
    assert "is better than" not in unknown.headline()
    none = dataclasses.replace(
        unknown,
        table=unknown.table.assign(
            tier=pd.array([None, None], dtype="Int64"), state="pruned", objective=np.nan
        ),
    )
    assert none.headline() == "No setting has completed, so none has won."
    infeasible = dataclasses.replace(none, table=none.table.assign(state=["infeasible", "pruned"]))
    assert infeasible.headline() == "No feasible setting has completed, so none has won."


def test_ills_are_counted_most_frequent_first(made_sweep: Make) -> None:
    """What went wrong is what the diagnosis counts; healthy shapes are no problems."""
    what = made_sweep(6)
    own = what.trials["setting"]
    shapes = ["stalled", "exploded", "stalled", "converged", "improving", "stalled"]
    assert went_wrong(diagnosed(what, shapes), own) == [
        "What went wrong most, of 6 trials: stalled (3); exploded (1)."
    ]
    shapes = ["fast_then_flat", "slow", *["converged"] * 4]
    assert went_wrong(diagnosed(what, shapes), own) == [
        "What went wrong most, of 6 trials: fast, then flat (1); slow (1)."
    ]
    assert went_wrong(diagnosed(what, ["converged"] * 6), own) == [
        "None of the 6 trials shows a problem."
    ]
    seeds = pd.Series([0, 1, 0, 3, 0, 0], own.index)
    assert went_wrong(diagnosed(what, ["stalled", "slow"] * 3), seeds) == [
        "What went wrong most, of 3 settings: slow (2); stalled (1)."
    ]


def test_a_few_cures_are_named_in_the_order_given() -> None:
    """What to try is said as it would be typed, three changes, each with three trials at most;
    without any, nothing.
    """

    def suggested_fix(trial: int, *overrides: str) -> NextTrial:
        return NextTrial((trial, 99), "slow", overrides, "", {}, "", "")

    same = [suggested_fix(n, "optim.lr=0.2", "clip=norm") for n in range(10, 15)]
    fixes = [
        suggested_fix(1, "optim.lr=0.1"),
        *same,
        suggested_fix(2, "schedule=cosine"),
        suggested_fix(3, "optim.lr=0.5"),
    ]
    settled = ranking([1.0, 2.0], [1, 2])
    assert to_do(settled, fixes) == [
        "To do next: optim.lr=0.1 for trial 1; optim.lr=0.2 clip=norm for trials 10, 11 and 12; "
        "schedule=cosine for trial 2."
    ]
    assert to_do(settled, []) == []
    tied = ranking([1.0, 2.0], [1, 1], can_top_up=True)
    assert to_do(tied, fixes[:1]) == [
        "To do next: more seeds of the 2 settings that may be first (`iolaus top-up DIR`); and try "
        "optim.lr=0.1 for trial 1."
    ]
    named = dataclasses.replace(tied, folder="multirun/s")
    assert "(`iolaus top-up multirun/s`)" in to_do(named, [])[0]
    open_ = dataclasses.replace(tied, seeds_to_settle=None, n_others=6)
    assert to_do(open_, [])[0].startswith("To do next: take any of the 2 finalists that share")
    assert to_do(dataclasses.replace(tied, can_top_up=False), []) == []


@pytest.mark.parametrize("state", [None, "complete", "pruned", "running"])
@pytest.mark.parametrize("finite", [True, False])
def test_a_paragraph_is_whole_sentences(state: str | None, finite: bool, made_sweep: Make) -> None:
    """Whatever the sweep holds, the paragraph says nothing of nan or None and ends its
    sentences.
    """
    what = made_sweep(8, state=state, finite=finite)
    said = paragraph(what, rank(what), diagnosed(what, ["stalled"] * 8))
    assert not re.search(r"\b(nan|None|inf)\b", said)
    assert all(re.fullmatch(r"[^\s].*\.", part) for part in said.split("\n\n"))
    assert (
        searched(dataclasses.replace(what, trials=pd.DataFrame())) == "No trial of made has begun."
    )


def test_words_need_no_figures() -> None:
    """What only says or ranks something does not import matplotlib."""
    modules = ("report.summary", "report.notes", "report.terminal", "ranking.rank")
    imports = "; ".join(f"import iolaus.analysis.{name}" for name in modules)
    code = f"import sys; {imports}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
